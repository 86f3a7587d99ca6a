"""How good a checkpoint is on each group of held-out photos, where a list gives them groups: per_group.csv, a row a group."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.split import Photo
from training.evaluation.metrics import summarise
from training.evaluation.tables import write_csv

NO_GROUP = "(no group)"  # of photos of which the list says none, beside others
HEADER = ("group", "photos", "top1", "top1_low", "top1_high", "f1", "calibration_error")
Z = 1.96  # of an interval of 95 %


def per_group(photos: Sequence[Photo], logits: Tensor, targets: Tensor) -> list[tuple[object, ...]]:
    """A row of HEADER a group, lowest top-1 first; none if no photo has a group. `logits` (N, C) are those that are served.

    The interval of top-1 is Wilson's of 95 %: few photos tell little. F1 is the mean over the classes that the group has.
    """
    names = [photo.group or NO_GROUP for photo in photos]
    if not any(photo.group for photo in photos):
        return []
    rows: list[tuple[Any, ...]] = []
    for name in sorted(set(names)):
        of_group = torch.tensor([n for n, other in enumerate(names) if other == name])
        found = summarise(logits[of_group], targets[of_group])
        values = (found["top1"], *wilson(found["top1"], len(of_group)), found["f1"], found["calibration_error"])
        rows.append((name, len(of_group), *(round(value, 4) for value in values)))
    return sorted(rows, key=lambda row: row[2])


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share that was found in `count` cases (Wilson 1927)."""
    centre, half = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return (centre - half) / (1 + Z**2 / count), (centre + half) / (1 + Z**2 / count)


def write_per_group(rows: list[tuple[object, ...]], out: Path) -> None:
    """per_group.csv from the rows of per_group(); without rows there is none, not an earlier evaluation's either."""
    if rows:
        write_csv(out / "per_group.csv", HEADER, rows)
    else:
        (out / "per_group.csv").unlink(missing_ok=True)
