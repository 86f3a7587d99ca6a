"""The plots of an evaluation, each a PNG: one function a plot."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from torch import Tensor

from scripts.atomic import aside
from scripts.phrases import counted
from training.evaluation.metrics import CALIBRATION_BINS, calibration_bins, calibration_error
from training.evaluation.mistakes import Mistake
from training.evaluation.names import FONT, drawable, quiet_fonts, width

CELL_INCHES = 0.24  # of the confusion matrix, enough for a class name beside it in 9 points
LETTER_INCHES = 0.085  # a wide one, in 9 points
MAX_CLASSES = 128  # of which the confusion matrix shows each: 33 inches; of more, the MOST_CONFUSED
MOST_CONFUSED = 30


@contextmanager
def figure(path: Path, size: tuple[float, float], fonts: Sequence[str] = (FONT,)) -> Iterator[Figure]:
    """An empty figure of so many inches; at the end it is written to `path`."""
    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.axisbelow": True,
        "font.family": list(fonts),
    }
    # a class may be called "$1_menu$": names are not formulas
    with mpl.rc_context(style | {"text.parse_math": False}), quiet_fonts():
        empty = Figure(figsize=size, layout="constrained")
        yield empty
        with aside(path) as part:
            empty.savefig(part, dpi=130, format="png")


def plot_learning_curves(history: Path, path: Path) -> None:
    """Loss, accuracy, rate and speed over the epochs of history.csv."""
    with history.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    panels = {
        "loss": {"training": "loss", "held-out": "val_loss"},
        "accuracy": {"training (augmented)": "accuracy", "held-out, top-1": "top1", "held-out, top-5": "top5"},
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


def most_confused(confusion: Tensor) -> list[int]:
    """The classes, at most MOST_CONFUSED, of the most frequent confusions of counts int (C, C), in their own order."""
    wrong = confusion.clone().fill_diagonal_(0)
    counts, pairs = wrong.flatten().topk(min(MOST_CONFUSED**2, wrong.numel()))
    # classes without a mistake fill up what is left
    order = [*pairs[counts > 0].tolist(), *(index * (len(confusion) + 1) for index in range(MOST_CONFUSED))]
    chosen: dict[int, None] = {}
    for pair in order:
        both = dict.fromkeys(divmod(pair, len(confusion)))
        if len(chosen | both) <= MOST_CONFUSED:
            chosen |= both
    return sorted(chosen)


def plot_confusion(confusion: Tensor, labels: Sequence[str], path: Path) -> None:
    """Confusion counts int (C, C) as shares of each true class; all shares from 0.5 % on have numbers.

    All classes up to MAX_CLASSES are shown, of more the most confused.
    """
    shares, numbers, title = 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1), list(range(len(labels))), ""
    if len(labels) > MAX_CLASSES:
        numbers = most_confused(confusion)
        shares, title = shares[numbers][:, numbers], f"The {len(numbers)} most confused of {len(labels):,} classes\n"
    names, fonts = drawable([labels[number] for number in numbers], numbers)
    many = len(names) > 30  # names on all four sides: on a long row the eye loses its place
    margin = 1 + LETTER_INCHES * max(map(width, names)) * (2 if many else 1)
    side = max(3.5, CELL_INCHES * len(names)) + margin
    with figure(path, (side, side), fonts) as page:
        axes = page.add_subplot()
        axes.grid(visible=False)
        axes.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=10)  # square root: rare mistakes are visible, too
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labeltop=True, labelbottom=many, labelright=many, length=0)
        axes.set(xlabel="predicted", ylabel="true")
        page.suptitle(f"{title}Predictions for each true class (row), in percent")
        for row, column in torch.nonzero(shares >= 0.5).tolist():
            share = float(shares[row, column])
            colour = "white" if share > 40 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=6.5 if many else 9)


def plot_reliability(logits: Tensor, targets: Tensor, temperature: float, path: Path) -> None:
    """Accuracy by top-1 probability before and after the temperature, with the number of photos below."""
    versions = {"before temperature scaling": 1.0, f"after temperature scaling (T = {temperature:.2f})": temperature}
    with figure(path, (11, 5)) as page:
        grid = page.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
        for column, (title, divisor) in enumerate(versions.items()):
            count, _, hits = calibration_bins(logits / divisor, targets)
            error = calibration_error(logits / divisor, targets)
            upper, lower = grid[0][column], grid[1][column]
            _bars(upper, hits / count.clamp(min=1))
            upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
            upper.set(title=f"{title}\ncalibration error {100 * error:.1f} %", ylim=(0, 1), ylabel="accuracy")
            bars = _bars(lower, count)
            # the accuracy of a bin with one photo means little, and its bar is invisible: hence the numbers
            lower.bar_label(bars, [f"{photos:.0f}" if photos else "" for photos in count.tolist()], fontsize=7, padding=1)
            lower.set(xlabel="top-1 probability", ylabel="photos", xlim=(0, 1))
            lower.margins(y=0.25)


def _bars(axes: Axes, heights: Tensor) -> BarContainer:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return axes.bar(edges[:-1], heights.numpy(), width=1 / CALIBRATION_BINS, align="edge", edgecolor="white")


def plot_mistakes(mistakes: Sequence[Mistake], path: Path) -> None:
    """A contact sheet of wrong answers, in the order that they are given."""
    columns = 6
    rows = max(1, math.ceil(len(mistakes) / columns))
    labels = [label for mistake in mistakes for label in (mistake.true, mistake.predicted)]
    names, fonts = drawable(labels, [number for mistake in mistakes for number in mistake.numbers])
    with figure(path, (2.1 * columns, 2.5 * rows), fonts) as page:
        for axes in page.subplots(rows, columns, squeeze=False).flat:
            axes.axis("off")
        for axes, mistake, true, predicted in zip(page.axes, mistakes, names[::2], names[1::2], strict=False):
            axes.imshow(mistake.crop)
            axes.set_title(f"{true}\n→ {predicted}, {mistake.probability:.0%}", fontsize=8)
        if not mistakes:
            page.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=14)


def plot_confidence(known: Tensor, unknown: Tensor, threshold: float, path: Path) -> None:
    """Histograms of the scores of held-out photos (N,) and of out-of-distribution ones (M,), with the threshold."""
    both = torch.cat([known, unknown])
    edges = np.linspace(float(both.min()), float(both.max()) + 1e-6, 41).tolist()
    with figure(path, (9, 4.5)) as page:
        axes = page.add_subplot()
        for scores, name, colour in ((known, "held-out", "tab:blue"), (unknown, "out-of-distribution", "tab:orange")):
            share = 100 * float((scores < threshold).float().mean())
            label = f"{name}: {counted(len(scores), 'photo')}, {share:.1f} % low confidence"
            # in percent of its own photos, as there may be many more of one kind
            percents = np.full(len(scores), 100 / len(scores))
            axes.hist(scores.numpy(), edges, weights=percents, alpha=0.55, color=colour, edgecolor="white", label=label)
        if threshold >= edges[0]:  # else it is the lowest float32, and no photo is below it
            label = f"threshold {threshold:.3f}: low confidence below it"
            axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="confidence", ylabel="percent of photos")
        axes.legend()
