"""The tables of an evaluation, each a CSV: per_class.csv, confusion.csv, predictions.csv; groups.py has per_group.csv."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scripts.atomic import aside
from training.data.sets import Data
from training.evaluation.metrics import f1_scores


def per_class(confusion: Tensor, labels: Sequence[str]) -> list[tuple[object, ...]]:
    """A row a class, lowest F1 first: label, precision, recall, F1, support, most confused with, times."""
    hits, predicted, support = confusion.diag(), confusion.sum(0), confusion.sum(1)
    f1, wrong = f1_scores(confusion), confusion.clone().fill_diagonal_(0)
    rows: list[tuple[object, ...]] = []
    for index in f1.argsort(stable=True).tolist():
        times, other = (int(value) for value in wrong[index].max(0))
        # clamp: a class that was never predicted, or has no photo, has a precision or recall of 0
        precision, recall = (float(hits[index] / total[index].clamp(min=1)) for total in (predicted, support))
        scores = [round(score, 4) for score in (precision, recall, float(f1[index]))]
        rows.append((labels[index], *scores, int(support[index]), labels[other] if times else "", times))
    return rows


def write_per_class(rows: Iterable[Sequence[object]], out: Path) -> None:
    """per_class.csv from the rows of per_class()."""
    header = ("label", "precision", "recall", "f1", "support", "most_confused_with", "times")
    write_csv(out / "per_class.csv", header, rows)


def write_confusion(confusion: Tensor, labels: Sequence[str], out: Path) -> None:
    """confusion.csv: a row a true class, a column a predicted one."""
    rows = ([label, *counts] for label, counts in zip(labels, confusion.tolist(), strict=True))
    write_csv(out / "confusion.csv", ("true", *labels), rows)


def write_predictions(data: Data, probabilities: Tensor, out: Path) -> None:
    """predictions.csv: a row a photo; `probabilities` (N, C) are those of the held-out photos."""
    best, predicted = probabilities.max(1)
    actual = torch.tensor([photo.index for photo in data.held_out])
    of_actual = probabilities.gather(1, actual[:, None])[:, 0]
    rows = (
        (photo.path, data.labels[photo.index], data.labels[p], f"{b:.4f}", f"{t:.4f}", int(p == photo.index))
        for photo, p, b, t in zip(data.held_out, predicted.tolist(), best.tolist(), of_actual.tolist(), strict=True)
    )
    # DVC's confusion plot in dvc.yaml reads the columns `actual` and `predicted`
    header = ("path", "actual", "predicted", "probability", "probability_of_actual", "correct")
    write_csv(out / "predictions.csv", header, rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV with a header, whole or not at all."""
    with aside(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
