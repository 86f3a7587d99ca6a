"""Class names as the pictures show them: in one line, not too long, in fonts that have their characters."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate

from matplotlib import font_manager

FONT = "DejaVu Sans"  # matplotlib brings it
MAX_WIDTH = 26  # in letters
# last-resort fonts have a box for each character; those of emoji hold pictures, which matplotlib cannot draw
NO_LETTERS = ("last resort", "emoji")
ELLIPSIS = "…"


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Within this `with`, matplotlib does not print which weights the installed fonts lack."""
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def width(text: str) -> int:
    """The width in Latin letters: a Chinese, Japanese or Korean one takes the room of two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else not unicodedata.combining(letter) for letter in text)


def shortened(text: str, most: int = MAX_WIDTH) -> str:
    """`text` in one line of at most so many letters, an ellipsis in the place of its middle: what differs is often at the end."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text.replace("_", " ")).split())
    if width(text) <= most:
        return text
    tail = _start(text[::-1], (most - 1) // 3)[::-1]
    return _start(text, most - 1 - width(tail)).rstrip() + ELLIPSIS + tail.lstrip()


def _start(text: str, most: int) -> str:
    widths = accumulate(map(width, text))
    return text[: sum(total <= most for total in widths)]


def drawable(labels: Sequence[str], numbers: Sequence[int] | None = None) -> tuple[list[str], list[str]]:
    """(names of classes, the fonts to draw them in); the name is #7, the class's number, where no font has all its characters.

    So it is where other labels are shortened to the same name. `numbers` are those of the classes, from 0; by default the
    labels' positions.
    """
    names = [shortened(label) for label in labels]
    counts = Counter(names)
    fonts = _fonts(frozenset("".join(names)))
    known = frozenset().union(*map(characters, fonts))
    numbers = range(len(names)) if numbers is None else numbers
    shown = (name if name and counts[name] == 1 and known.issuperset(name) else "" for name in names)
    return [name or f"#{number}" for number, name in zip(numbers, shown, strict=True)], list(fonts)


@cache
def _fonts(needed: frozenset[str]) -> tuple[str, ...]:
    """matplotlib's own font, and of those that are installed the few that have the other characters."""
    fonts, missing = [FONT], needed - characters(FONT)
    others = sorted({entry.name for entry in font_manager.fontManager.ttflist} - {FONT}) if missing else []
    others = [name for name in others if not any(part in name.lower() for part in NO_LETTERS)]
    while missing and others:
        best = max(others, key=lambda name: len(missing & characters(name)))
        if not missing & characters(best):
            break
        fonts.append(best)
        missing -= characters(best)
    return tuple(fonts)


@cache
def characters(name: str) -> frozenset[str]:
    """The characters that an installed font has; none if it cannot be read."""
    try:
        with quiet_fonts():
            path = font_manager.findfont(font_manager.FontProperties(family=[name]), fallback_to_default=False)
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
