"""How good is a checkpoint: `python -m training.evaluation.evaluate --checkpoint runs/latest/checkpoint.pt --out runs/latest`.

Photos go through handler/preprocess.py, as the worker sees them, and none of them was trained on: the checkpoint knows
the sha256 of each that was. Writes metrics.json, per_class.csv, confusion.csv, predictions.csv and the pictures of
plots.py; report.py makes one page of them. With --unknown FOLDER, photos of anything else, it also says
how well each score of confidence.py tells those from the known dishes.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.preprocess import Spec, preprocess
from training.data.loader import eval_loader
from training.data.sets import Data, read_data
from training.evaluation.confidence import FALSE_ALARM_RATE, all_scores, auroc, fit_threshold, look, training_photos
from training.evaluation.metrics import calibration_error, confusion_matrix, f1_scores, predict, summarise
from training.evaluation.plots import plot_confidence, plot_confusion, plot_learning_curves, plot_mistakes, plot_reliability
from training.model import Checkpoint, Classifier
from training.params import Params
from training.tracking.journal import Tracker

WORST = 24  # mistakes on the contact sheet


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


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table, written aside and renamed."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    part.replace(path)


def per_class(confusion: Tensor, labels: Sequence[str]) -> list[tuple[object, ...]]:
    """A row a class, worst F1 first: label, precision, recall, F1, support, most confused with, times."""
    hits, predicted, support = confusion.diag(), confusion.sum(0), confusion.sum(1)
    f1, wrong = f1_scores(confusion), confusion.clone().fill_diagonal_(0)
    rows = []
    for index in f1.argsort(stable=True).tolist():
        times, other = (int(value) for value in wrong[index].max(0))
        precision, recall = (float(hits[index] / total[index].clamp(min=1)) for total in (predicted, support))
        figures = [round(figure, 4) for figure in (precision, recall, float(f1[index]))]
        rows.append((labels[index], *figures, int(support[index]), labels[other] if times else "", times))
    return rows


def write_predictions(data: Data, probabilities: Tensor, out: Path) -> None:
    """predictions.csv: a row a photo; `actual` and `predicted` are the names that DVC's confusion plot expects."""
    best, predicted = probabilities.max(1)
    rows = (
        (photo.path, data.labels[photo.index], data.labels[p], f"{b:.4f}", f"{row[photo.index]:.4f}", int(p == photo.index))
        for photo, p, b, row in zip(data.held_out, predicted.tolist(), best.tolist(), probabilities.tolist(), strict=True)
    )
    header = ("path", "actual", "predicted", "probability", "probability_of_actual", "correct")
    write_csv(out / "predictions.csv", header, rows)


def worst_mistakes(data: Data, probabilities: Tensor, spec: Spec) -> list[tuple[Any, str, str, float]]:
    """The wrong answers that the network is surest of, for the contact sheet."""
    best, predicted = probabilities.max(1)
    mistakes: list[tuple[Any, str, str, float]] = []
    for position in best.argsort(descending=True).tolist():
        photo, p = data.held_out[position], int(predicted[position])
        if p != photo.index and len(mistakes) < WORST:
            crop = preprocess(photo.path.read_bytes(), spec)
            mistakes.append((crop, data.labels[photo.index], data.labels[p], float(best[position])))
    return mistakes


def other_photos(unknown: Path) -> list[Path]:
    """Every file below the folder, hidden ones apart. ValueError if there is none."""
    paths = sorted(path for path in unknown.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise ValueError(f"no photos of anything else in {unknown}: the folder is empty or does not exist")
    return paths


def evaluate_unknown(
    checkpoint: Checkpoint, data: Data, classifier: Classifier, others: Sequence[Path], out: Path
) -> dict[str, object]:
    """How each score tells the held-out photos from `others`; confidence.png shows the one that is served.

    ValueError if no photo can be read, or a class has none that was trained on.
    """
    trained = training_photos(data.train, checkpoint.trained_on)
    if missing := set(range(len(data.labels))) - {photo.index for photo in trained}:
        name = data.labels[min(missing)]
        raise ValueError(f"{data.source} has no photo of {name} that was trained on: the scores compare with such photos")
    spec, device = Spec.from_dict(checkpoint.spec), next(classifier.parameters()).device
    other_features, other_logits, left_out = look(classifier, spec, others, device)
    features, logits, _ = look(classifier, spec, [photo.path for photo in trained], device)
    targets = torch.tensor([photo.index for photo in trained])
    held_features, held_logits, _ = look(classifier, spec, [photo.path for photo in data.held_out], device)

    table: dict[str, dict[str, float]] = {}
    report: dict[str, object] = {"photos": len(other_logits), "left_out": len(left_out), "scores": table}
    for name, score in all_scores(features, logits, targets, checkpoint.temperature).items():
        known, other = score(held_features, held_logits), score(other_features, other_logits)
        threshold = fit_threshold(known)
        caught = float((other < threshold).float().mean())
        table[name] = {"auroc": round(auroc(known, other), 4), "caught_at_5_percent": round(caught, 4)}
        if len(table) == 1:  # the first is the one that is served
            report |= {"score": name, "threshold": threshold, "false_alarm_rate": FALSE_ALARM_RATE}
            plot_confidence(known, other, threshold, out / "confidence.png")
    return report


def evaluate(checkpoint: Checkpoint, root: Path | None, out: Path, unknown: Path | None = None) -> dict[str, float]:
    """Metrics of the checkpoint on photos that it never saw, written into `out` with tables and pictures, and returned.

    `unknown` is a folder with photos of anything else. ValueError as held_out_photos and evaluate_unknown.
    """
    others = other_photos(unknown) if unknown is not None else []
    params = Params(**checkpoint.params)
    data = held_out_photos(checkpoint, read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes")))
    classifier, spec = checkpoint.classifier()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits, targets = predict(classifier.to(device), eval_loader(data.held_out, params, spec), device)
    confusion, temperature = confusion_matrix(logits, targets), checkpoint.temperature
    before, metrics = calibration_error(logits, targets), summarise(logits / temperature, targets)
    metrics |= {"calibration_error_before": before, "temperature": temperature}
    classes, probabilities = per_class(confusion, data.labels), (logits / temperature).softmax(1)

    out.mkdir(parents=True, exist_ok=True)
    header = ("label", "precision", "recall", "f1", "support", "most_confused_with", "times")
    write_csv(out / "per_class.csv", header, classes)
    write_csv(out / "confusion.csv", ("true", *data.labels), zip(data.labels, *confusion.T.tolist(), strict=True))
    write_predictions(data, probabilities, out)
    plot_confusion(confusion, data.labels, out / "confusion.png")
    plot_reliability(logits, targets, temperature, out / "reliability.png")
    plot_mistakes(worst_mistakes(data, probabilities, spec), out / "mistakes.png")
    if (out / "history.csv").is_file():
        plot_learning_curves(out / "history.csv", out / "learning_curves.png")
    fitted_here = data.fingerprint == checkpoint.data["fingerprint"]
    report: dict[str, object] = {name: round(value, 4) for name, value in metrics.items()}
    report |= {
        "data": data.source,
        "temperature_fitted_on_these": fitted_here,
        "f1_per_class": {str(row[0]): row[3] for row in classes},
    }
    (out / "confidence.png").unlink(missing_ok=True)  # an earlier evaluation's
    if unknown is not None:
        found = evaluate_unknown(checkpoint, data, classifier, others, out)
        report["out_of_distribution"] = {"unknown": unknown.resolve().name} | found
    part = out / "metrics.json.part"
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    part.replace(out / "metrics.json")  # the last one: where it is, all the others are
    return metrics


def track(out: Path, metrics: dict[str, float], epoch: int) -> None:
    """Give MLflow what an evaluation wrote, if `out` is the folder of a run."""
    if not (out / "history.csv").is_file():
        return
    tracker = Tracker(out)
    tracker.log_metrics({f"eval_{name}": value for name, value in metrics.items()}, step=epoch)
    for path in sorted([*out.glob("*.png"), *out.glob("*.csv"), out / "metrics.json"]):
        tracker.log_artifact(path)
    tracker.close()


def say(metrics: dict[str, float], data_source: str, out: Path) -> None:
    """The short of it, for a person."""
    print(f"{metrics['photos']} photos never trained on, of {data_source}")
    for name in ("top1", "top5", "f1"):
        print(f"  {name:18s} {metrics[name]:.4f}")
    before, after = metrics["calibration_error_before"], metrics["calibration_error"]
    print(f"  {'calibration_error':18s} {after:.4f} (before the temperature of {metrics['temperature']:.2f}: {before:.4f})")
    with (out / "per_class.csv").open(encoding="utf-8", newline="") as file:
        worst = list(csv.DictReader(file))[:5]
    for row in worst:
        mostly = f", {row['times']} taken for {row['most_confused_with']}" if row["most_confused_with"] else ""
        print(f"  {row['label']}: F1 {float(row['f1']):.2f} of {row['support']} photos{mostly}")
    if confidence := json.loads((out / "metrics.json").read_text(encoding="utf-8")).get("out_of_distribution"):
        print(f"  of {confidence['photos']} photos of {confidence['unknown']}, caught at 5 % false alarms:")
        for name, row in confidence["scores"].items():
            print(f"    {name:34s} {100 * row['caught_at_5_percent']:5.1f} %   AUROC {row['auroc']:.4f}")
    print(f"written to {out}: metrics.json, tables and pictures. Next: make report")


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unknown", type=Path, help="folder with photos of anything else: is the model unsure of them?")
    args = parser.parse_args()
    try:
        checkpoint = Checkpoint.load(args.checkpoint)
        root = args.data or checkpoint.data_root
        metrics = evaluate(checkpoint, root, args.out, args.unknown)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(metrics, json.loads((args.out / "metrics.json").read_text(encoding="utf-8"))["data"], args.out)
    track(args.out, metrics, checkpoint.epoch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
