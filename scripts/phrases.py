"""Counts and lists of names in sentences for people: "1 photo" and "2 photos", "a, b and 4 more"."""

from collections.abc import Iterable

SHOWN = 5  # names of a list


def counted(number: int, noun: str) -> str:
    """A number with its noun: one photo, two photos. The noun's last word takes the s: "class", "new version"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def some(names: Iterable[str], shown: int = SHOWN) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def printable(text: str) -> str:
    """A stranger's text for a terminal: what is no character to see, as an escape sequence, becomes its code."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
