"""Whether a new version answers differently than the old one: class shares, unsure share, confidence, agreement. With reasons.

Two kinds of evidence. The same photos asked of both versions (pairs.py) show the versions alone. What clients were answered
(live.py) also shows a change of the photos. So a difference in the latter is confirmed by the former where there are enough.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scripts.phrases import counted, some
from scripts.settings import Settings

# a bake judges pairs, what clients were answered, and if need be pairs again
LOOKS = 3
SHOWN = 3  # reasons in a message
MARGIN = 1e-9  # whatever floats make of a difference of exactly so many points
# one class for so many of all photos, and the old version for so few of them at most: no version answers so on purpose
ONE_CLASS, OF_OLD = 0.95, 0.5
AGAIN = 0.05  # the chance at which a difference that was found before is found again


class Difference(NamedTuple):
    """One comparison: what was found in words, how far apart the versions are (0 to 1), and the probability that chance does it.

    `broken`: nobody rolls that out on purpose.
    """

    words: str
    apart: float
    chance: float
    broken: bool = False


def differing(differences: Sequence[Difference], settings: Settings) -> str:
    """What is both beyond chance and large enough to matter, the largest first, as a phrase; "" if nothing is."""
    # Bonferroni: none of all comparisons of a bake may be wrong with more than the stated probability
    limit = settings.answers_chance / (max(1, len(differences)) * LOOKS)
    found = [one for one in differences if one.apart >= settings.worse_answers - MARGIN and one.chance < limit]
    return "; ".join(one.words for one in sorted(found, key=lambda one: (-one.apart, one.words))[:SHOWN])


def is_one_class(new: float, old: float) -> bool:
    """Whether these shares of a class are those of a version that calls everything so."""
    return new >= ONE_CLASS and old <= OF_OLD


def largest(differences: Sequence[Difference], how_many: int = 1) -> str:
    """Those that are farthest apart, as a phrase, whether chance or not."""
    return "; ".join(one.words for one in sorted(differences, key=lambda one: (-one.apart, one.words))[:how_many])


def percent(count: float, total: float) -> str:
    """A share for people."""
    return f"{100 * count / total:.0f} %"


def shown(label: str) -> str:
    """A label in a sentence: its line breaks and control characters must not take a log line apart."""
    return (label if label.isprintable() else repr(label))[:80]


def calls(label: str, new: str, old: str) -> str:
    """Two shares of a class in words."""
    return f"it calls {new} {shown(label)}, {old} before"


def unsure(new: str, old: str) -> str:
    """Two unsure shares in words."""
    return f"it is unsure of {new}, {old} before"


def probable(new: str, old: str) -> str:
    """Two means of the best class's probability, in words."""
    return f"its answers have a mean probability of {new}, {old} before"


def uncompared(count: float, labels: Sequence[str]) -> str:
    """What could not be compared, to append to what was; "" if all could."""
    names = some([shown(label) for label in labels])
    return f"; not compared: {counted(round(count), 'answer')} with classes that only one version has ({names})" if labels else ""
