"""Which photos came in since the champion was trained, by class and side, and what a person should look at."""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.phrases import counted

FEW = 20  # photos of a class to train on: a class with fewer is hardly learnt
MOST_OF_NEW = 0.5  # a class that is more of the new photos than this shifts the class shares


@dataclass(frozen=True)
class Split:
    """A split.json of training/data/prepare.py: the label of each photo by its sha256, for each side."""

    fingerprint: str
    labels: tuple[str, ...]
    train: dict[str, str]
    held_out: dict[str, str]  # those of a test split, too

    @classmethod
    def read(cls, path: Path) -> "Split":
        """ValueError or OSError for what prepare.py did not write."""
        values = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(values["labels"])
        train, held_out, test = (
            {sha256: labels[index] for _, index, _, sha256 in values.get(side, [])} for side in ("train", "held_out", "test")
        )
        return cls(values["fingerprint"], labels, train, held_out | test)


def came_in(before: Split | None, after: Split) -> dict[str, dict[str, int]]:
    """By class: how many photos to train on, and held out, that `before` did not have; classes without any are left out."""
    old = set(before.train) | set(before.held_out) if before else set()
    new = {
        side: Counter(label for sha256, label in photos.items() if sha256 not in old)
        for side, photos in (("train", after.train), ("held_out", after.held_out))
    }
    return {
        label: {side: counts[label] for side, counts in new.items()}
        for label in after.labels
        if any(counts[label] for counts in new.values())
    }


def corrected(before: Split | None, after: Split) -> list[dict[str, Any]]:
    """Which labels were changed on photos that `before` had, and of how many: {"from", "to", "photos"}."""
    old = before.train | before.held_out if before else {}
    now = after.train | after.held_out
    changes = Counter((old[one], label) for one, label in now.items() if one in old and old[one] != label)
    return [{"from": one, "to": other, "photos": count} for (one, other), count in sorted(changes.items())]


def check_classes(before: Split | None, after: Split) -> None:
    """ValueError if a class of the champion has no photo any more: what lacks a class cannot be compared with it."""
    gone = sorted(set(before.labels) - set(after.labels)) if before else []
    if gone:
        raise ValueError(
            f"the champion has classes of which there is no photo any more ({', '.join(gone)}): give some again, or start over "
            "without them: make pipeline, and release its archive"
        )


def remarks(before: Split | None, after: Split, new: dict[str, dict[str, int]]) -> list[str]:
    """What a person should look at before they merge."""
    found = []
    per_class = Counter(after.train.values())
    few = [label for label in after.labels if per_class[label] < FEW]
    if few:
        found.append(f"under {FEW} photos to train on: {', '.join(f'{label} ({per_class[label]})' for label in few)}")
    totals = {label: sum(sides.values()) for label, sides in new.items()}
    for label, count in totals.items():
        if count > MOST_OF_NEW * sum(totals.values()) and count > FEW:
            found.append(f"{label} has {count} of the {sum(totals.values())} new photos: its share of the data grows")
    if before is not None:
        if moved := len(set(before.held_out) & set(after.train)):
            found.append(f"{counted(moved, 'photo')} held out before, now trained on: not measured on")
        if gone := len((set(before.train) | set(before.held_out)) - set(after.train) - set(after.held_out)):
            found.append(f"{counted(gone, 'photo')} of before, not used any more: removed, or near-duplicates of new ones")
        if added := sorted(set(after.labels) - set(before.labels)):
            found.append(f"new classes: {', '.join(added)}")
    return found


def refused(files: list[Path]) -> dict[str, int]:
    """How many photos make ingest refused, by reason."""
    reasons: Counter[str] = Counter()
    for path in files:
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                reasons.update(row["reason"] for row in csv.DictReader(file))
    return dict(reasons)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
