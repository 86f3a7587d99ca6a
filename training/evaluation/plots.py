"""The pictures of an evaluation, each a PNG that a person can read: one function a picture."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from torch import Tensor

from training.evaluation.metrics import CALIBRATION_BINS, calibration_bins

CELL_INCHES = 0.24  # of the confusion matrix, enough for a class name beside it in 9 points
LONGEST = 26  # letters of a name that fit over a picture of the contact sheet
LETTER_INCHES = 0.085  # a wide one, in 9 points


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure of so many inches; at the end it is written aside and renamed to `path`."""
    # a class may be called "$1_menu$": names are no formulas
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "text.parse_math": False}):
        empty = Figure(figsize=size, layout="constrained")
        yield empty
        part = path.with_name(path.name + ".part")
        empty.savefig(part, dpi=130, format="png")
        part.replace(path)


def plot_learning_curves(history: Path, path: Path) -> None:
    """Loss, accuracy, rate and speed over the epochs of history.csv."""
    with history.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    panels = {
        "loss": {"training": "loss", "held out": "val_loss"},
        "accuracy": {"training (augmented)": "accuracy", "held out, top-1": "top1", "held out, top-5": "top5"},
        "learning rate of the body": {"": "lr"},
        "images/s": {"": "images_per_s"},
    }
    with figure(path, (11, 6.5)) as page:
        for axes, (title, lines) in zip(page.subplots(2, 2).flat, panels.items(), strict=True):
            for label, name in lines.items():
                axes.plot(epochs, [row[name] for row in rows], marker="o", markersize=3, label=label)
            axes.set(title=title, xlabel="epoch")
            axes.set_ylim(0, 1.08 * max(row[name] for row in rows for name in lines.values()))
            axes.xaxis.get_major_locator().set_params(integer=True)
            if len(lines) > 1:
                axes.legend()


def plot_confusion(confusion: Tensor, labels: Sequence[str], path: Path) -> None:
    """Confusion counts int (C, C) as shares of each true class; every class has its name, every share above 0.5 % its number."""
    many = len(labels) > 30  # names on all four sides, as the eye would lose its row
    names = [label.replace("_", " ") for label in labels]
    margin = 1 + LETTER_INCHES * max(map(len, names)) * (2 if many else 1)
    side = max(3.5, CELL_INCHES * len(labels)) + margin
    shares = 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    with figure(path, (side, side)) as page:
        axes = page.add_subplot()
        axes.grid(visible=False)
        axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=10)  # the root, so that few mistakes are seen
        axes.set_xticks(range(len(labels)), names, rotation=90)
        axes.set_yticks(range(len(labels)), names)
        axes.tick_params(labeltop=True, labelbottom=many, labelright=many, length=0)
        axes.set(xlabel="predicted", ylabel="true")
        page.suptitle("Share of each true class (row) by prediction, in percent")
        for row, column in torch.nonzero(shares >= 0.5).tolist():
            share = float(shares[row, column])
            colour = "white" if share > 40 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=6.5 if many else 9)


def plot_reliability(logits: Tensor, targets: Tensor, temperature: float, path: Path) -> None:
    """Accuracy over confidence before and after the temperature, with the number of photos below."""
    with figure(path, (11, 5)) as page:
        grid = page.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
        for column, (title, divisor) in enumerate((("before", 1.0), (f"after: temperature {temperature:.2f}", temperature))):
            count, confidences, hits = calibration_bins(logits / divisor, targets)
            error = float((hits - confidences).abs().sum() / len(targets))
            upper, lower = grid[0][column], grid[1][column]
            _bars(upper, hits / count.clamp(min=1))
            upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
            upper.set(title=f"{title}\ncalibration error {100 * error:.1f} %", ylim=(0, 1), ylabel="share that is right")
            bars = _bars(lower, count)
            # a bin of one photo says little, and its bar cannot be seen: hence the numbers
            lower.bar_label(bars, [f"{photos:.0f}" if photos else "" for photos in count.tolist()], fontsize=7, padding=1)
            lower.set(xlabel="top-1 probability", ylabel="photos", xlim=(0, 1))
            lower.margins(y=0.25)


def _bars(axes: Axes, heights: Tensor) -> BarContainer:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return axes.bar(edges[:-1], heights.numpy(), width=1 / CALIBRATION_BINS, align="edge", edgecolor="white")


def plot_mistakes(mistakes: Sequence[tuple[np.ndarray, str, str, float]], path: Path) -> None:
    """A contact sheet of (crop uint8 (H, W, 3), true label, predicted label, its probability), in that order."""
    columns = 6
    rows = max(1, math.ceil(len(mistakes) / columns))
    with figure(path, (2.1 * columns, 2.5 * rows)) as page:
        for axes in page.subplots(rows, columns, squeeze=False).flat:
            axes.axis("off")
        for axes, (crop, true, predicted, probability) in zip(page.axes, mistakes, strict=False):
            axes.imshow(crop)
            true, predicted = (name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in (true, predicted))
            axes.set_title(f"{true}\nas {predicted}, {probability:.0%}".replace("_", " "), fontsize=8)
        if not mistakes:
            page.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=14)


def plot_confidence(known: Tensor, unknown: Tensor, threshold: float, path: Path) -> None:
    """Scores of held-out photos (N,) and of photos of anything else (M,), each as shares of its own, with the threshold."""
    both = torch.cat([known, unknown])
    edges = np.linspace(float(both.min()), float(both.max()) + 1e-6, 41).tolist()
    with figure(path, (9, 4.5)) as page:
        axes = page.add_subplot()
        for scores, name, colour in ((known, "held out, known dishes", "tab:blue"), (unknown, "anything else", "tab:orange")):
            share = 100 * float((scores < threshold).float().mean())
            label = f"{name}: {len(scores)} photos, {share:.1f} % unsure"
            percents = np.full(len(scores), 100 / len(scores))
            axes.hist(scores.numpy(), edges, weights=percents, alpha=0.55, color=colour, edgecolor="white", label=label)
        if threshold >= edges[0]:  # else nothing is unsure
            axes.axvline(
                threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}: below it, unsure"
            )
        axes.set(xlabel="confidence: cosine to the nearest class mean", ylabel="percent of photos")
        axes.legend()
