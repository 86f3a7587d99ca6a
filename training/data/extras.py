"""What a list may say of a photo beside its class and split: a text, its weight in the loss, a group to measure apart.

A column is taken for one of these by its name alone.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scripts.class_names import MISSING, as_in_lists
from scripts.errors import SeeFoodError

# names of the columns in the order of preference, as plain() of list_columns.py writes them
NAMES = {"text": ("text", "caption", "title"), "weight": ("weight", "sampleweight"), "group": ("group",)}


class WeightError(SeeFoodError, ValueError):
    """A list holds weights that are no weights: it is refused, as a run with other weights would be another run."""


@dataclass(frozen=True)
class Extras:
    """What a list says of one photo; the defaults are those of a photo of which it says nothing. `weight` is over 0."""

    text: str = ""
    weight: float = 1.0
    group: str = ""


NOTHING = Extras()


def is_extra(plain_name: str) -> bool:
    """Whether a header, as plain() writes it, names one of the columns."""
    return any(plain_name in names for names in NAMES.values())


def find_extras(plain_header: Sequence[str], others: Iterable[int]) -> dict[str, int]:
    """The column of each extra, among the columns `others`, where there is one."""
    by_name = {plain_header[i]: i for i in reversed(list(others))}
    found = {extra: [by_name[name] for name in names if name in by_name] for extra, names in NAMES.items()}
    return {extra: columns[0] for extra, columns in found.items() if columns}


def read_extras(cells: Sequence[str], columns: Mapping[str, int]) -> Extras:
    """What a row says. ValueError, with the value, for a weight that is not finite or not over 0; an empty one is 1."""
    said = {extra: "" if cells[i].casefold() in MISSING else cells[i] for extra, i in columns.items()}
    weight = cells[columns["weight"]] if "weight" in columns else ""
    return Extras(unicodedata.normalize("NFC", said.get("text", "")), read_weight(weight), as_in_lists(said.get("group", "")))


def read_weight(cell: str) -> float:
    """The weight in a cell, with a point or a comma before its decimals. ValueError as read_extras."""
    if not cell:
        return 1.0
    try:
        weight = float(re.sub(r"^(\d*),(\d+)$", r"\1.\2", cell))
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"the weight is {cell!r}, expected a finite number over 0")
    return weight
