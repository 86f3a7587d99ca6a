"""What is found in a data set, as rows: labels.csv ranks the labels of all photos, problems.csv has everything else."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.atomic import aside
from scripts.phrases import counted
from training.check.labels import MIN_OF_CLASS, Judged, most_suspicious
from training.data.split import Photo

LABELS = ("path", "label", "given", "likely_wrong", "probability")
PROBLEMS = ("path", "label", "problem", "detail", "other_path", "other_label")


@dataclass(frozen=True)
class Problem:
    """One row of problems.csv: of a photo, and perhaps of another; or of a class alone, which has no photo."""

    kind: str
    label: str
    path: Path | None = None
    detail: str = ""
    other: Path | None = None
    other_label: str = ""


def of_pairs(photos: Sequence[Photo], labels: Sequence[str], pairs: np.ndarray) -> list[Problem]:
    """The near-duplicates, by numbers of photos (P, 2): those under two labels first."""
    found = []
    for i, j in pairs.tolist():
        one, other = photos[i], photos[j]
        kind = "near-duplicate" if one.index == other.index else "near-duplicate under another label"
        detail = "the same bytes" if one.sha256 == other.sha256 else ""
        found.append(Problem(kind, labels[one.index], one.path, detail, other.path, labels[other.index]))
    return sorted(found, key=lambda problem: problem.kind == "near-duplicate")


def of_classes(photos: Sequence[Photo], labels: Sequence[str], groups: np.ndarray, val_fraction: float) -> list[Problem]:
    """The classes that are too small: to hold out photos of them, to judge their labels, or by chance to have any held out."""
    sizes = Counter(photo.index for photo in photos)
    different = Counter(index for index, _ in {(photo.index, int(g)) for photo, g in zip(photos, groups, strict=True)})
    found = []
    for index, label in enumerate(labels):
        has = f"{counted(sizes[index], 'photo')}, {different[index]} of them different"
        if different[index] < 2:
            found.append(Problem("class too small to hold out a photo", label, detail=has))
        elif different[index] < MIN_OF_CLASS:
            found.append(Problem("class too small to judge its labels", label, detail=has))
        elif different[index] * val_fraction < 1:
            found.append(Problem("class of which one photo is held out", label, detail=has))
    return found


def write_labels(photos: Sequence[Photo], labels: Sequence[str], judged: Judged, path: Path) -> None:
    """All photos, those first whose label is likeliest wrong; `label` is the suggested one there, else the given one."""
    rows = []
    for i in most_suspicious(judged):
        given, wrong = labels[photos[i].index], bool(judged.likely_wrong[i])
        label = labels[int(judged.suggested[i])] if wrong else given
        rows.append((photos[i].path.resolve(), label, given, int(wrong), f"{float(judged.probability[i]):.4f}"))
    _write(path, LABELS, rows)


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """A row a problem, in their order."""
    rows = ((p.path or "", p.label, p.kind, p.detail, p.other or "", p.other_label) for p in problems)
    _write(path, PROBLEMS, rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with aside(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
