"""How good is a checkpoint: `python training/evaluate.py --checkpoint runs/latest/checkpoint.pt --out runs/latest`.

Photos go through handler/preprocess.py, as the worker sees them, and none of them was trained on: the checkpoint knows
the sha256 of each that was. Writes metrics.json, confusion.csv and confusion.png.
"""

import argparse
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from training.data import Data, read_data
from training.loader import eval_loader
from training.metrics import confusion_matrix, f1_scores, predict, summarise
from training.model import Checkpoint
from training.params import Params


def held_out_photos(checkpoint: Checkpoint, data: Data) -> Data:
    """`data` with those held out that the checkpoint never saw: its own held-out photos, or all of another data set.

    ValueError if the classes differ or nothing is left.
    """
    if data.labels != checkpoint.labels:
        differing = sorted(set(data.labels) ^ set(checkpoint.labels))
        raise ValueError(f"{data.source} and the checkpoint differ in classes: {differing[:10]}")
    seen = set(checkpoint.trained_on)
    same = data.fingerprint == checkpoint.data["fingerprint"]
    photos = data.held_out if same else data.train + data.held_out
    left = tuple(photo for photo in photos if photo.sha256 not in seen)
    if not left:
        raise ValueError(f"every photo of {data.source} was trained on")
    return replace(data, held_out=left)


def write_confusion(confusion: Tensor, labels: tuple[str, ...], out: Path) -> None:
    """confusion.csv and confusion.png in `out`: rows are true classes, columns predicted ones."""
    with (out / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true", *labels])
        writer.writerows([label, *row] for label, row in zip(labels, confusion.tolist(), strict=True))
    side = max(5.0, 0.22 * len(labels) + 3)
    with mpl.rc_context({"font.size": 9 if len(labels) <= 30 else 6}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="predicted", ylabel="true", title="Share of each true class (row), in percent")
        if len(labels) <= 30:
            for (row, column), share in zip(
                torch.cartesian_prod(*[torch.arange(len(labels))] * 2).tolist(), shares.flatten().tolist(), strict=True
            ):
                if share > 0:
                    axes.text(
                        column, row, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.5 else "black"
                    )
        figure.savefig(out / "confusion.png", dpi=120)


def evaluate(checkpoint: Checkpoint, root: Path | None, out: Path) -> dict[str, float]:
    """Metrics of the checkpoint on photos that it never saw, written into `out` and returned. ValueError as above."""
    params = Params(**checkpoint.params)
    data = held_out_photos(checkpoint, read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes")))
    classifier, spec = checkpoint.classifier()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits, targets = predict(classifier.to(device), eval_loader(data.held_out, params, spec), device)
    logits /= checkpoint.temperature
    confusion = confusion_matrix(logits, targets)
    metrics = summarise(logits, targets)
    out.mkdir(parents=True, exist_ok=True)
    per_class = {label: round(float(f1), 4) for label, f1 in zip(data.labels, f1_scores(confusion), strict=True)}
    report = {**{name: round(value, 4) for name, value in metrics.items()}, "data": data.source, "f1_per_class": per_class}
    (out / "metrics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_confusion(confusion, data.labels, out)

    print(f"{len(targets)} photos never trained on, of {data.source}")
    for name in ("top1", "top5", "f1", "calibration_error"):
        print(f"  {name:18s} {metrics[name]:.4f}")
    wrong = confusion.clone().fill_diagonal_(0)
    for position in wrong.flatten().argsort(descending=True)[:5].tolist():
        true, predicted = divmod(position, len(data.labels))
        if wrong[true, predicted] > 0:
            print(f"  {int(wrong[true, predicted])} x {data.labels[true]} taken for {data.labels[predicted]}")
    print(f"written: {out}/metrics.json, confusion.csv, confusion.png")
    return metrics


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        checkpoint = Checkpoint.load(args.checkpoint)
        root = args.data or (Path(checkpoint.data["root"]) if checkpoint.data["root"] else None)
        evaluate(checkpoint, root, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
