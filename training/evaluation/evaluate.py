"""How good is a checkpoint: `python -m training.evaluation.evaluate --checkpoint runs/latest/checkpoint.pt --out runs/latest`.

Photos go through handler/preprocess.py, as in the worker, and none of them was trained on: the checkpoint holds the sha256
of its training photos. Writes metrics.json, the tables of tables.py and the pictures of plots.py; report.py makes one page
of them. With --unknown FOLDER, out-of-distribution photos, it also measures how well each score of confidence.py separates
those from photos of the known classes.
"""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.preprocess import Spec, preprocess
from scripts.atomic import write_text
from scripts.command import parser, run
from training.data.loader import eval_loader
from training.data.sets import Data, read_data
from training.evaluation.confidence import (
    FALSE_POSITIVE_RATE,
    all_scores,
    auroc,
    extract_features,
    fit_threshold,
    training_photos,
)
from training.evaluation.held_out import held_out_photos
from training.evaluation.metrics import calibration_error, confusion_matrix, predict, summarise
from training.evaluation.plots import (
    Mistake,
    plot_confidence,
    plot_confusion,
    plot_learning_curves,
    plot_mistakes,
    plot_reliability,
)
from training.evaluation.tables import per_class, write_confusion, write_per_class, write_predictions
from training.model import Checkpoint, Classifier
from training.params import Params
from training.tracking.journal import Tracker

MAX_MISTAKES = 24  # on the contact sheet: four rows of six, as many as are legible on a page


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answers for N held-out photos: logits float32 (N, C) before the temperature, true classes int64 (N,)."""

    logits: Tensor
    targets: Tensor
    temperature: float

    @property
    def calibrated(self) -> Tensor:
        """Logits (N, C) after the temperature: those that are served."""
        return self.logits / self.temperature


def most_confident_mistakes(data: Data, probabilities: Tensor, spec: Spec) -> list[Mistake]:
    """The wrong answers of the highest probability, highest first, at most MAX_MISTAKES."""
    best, predicted = probabilities.max(1)
    mistakes: list[Mistake] = []
    for position in best.argsort(descending=True).tolist():
        photo, index = data.held_out[position], int(predicted[position])
        if index != photo.index and len(mistakes) < MAX_MISTAKES:
            # the crop and not the whole photo: a class that was cut away explains the mistake
            crop = preprocess(photo.path.read_bytes(), spec)
            mistakes.append(Mistake(crop, data.labels[photo.index], data.labels[index], float(best[position])))
    return mistakes


def unknown_photos(folder: Path) -> list[Path]:
    """Every file below the folder, hidden ones apart. ValueError if there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise ValueError(f"no out-of-distribution photos in {folder}: the folder is empty or does not exist")
    return paths


def evaluate_unknown(
    checkpoint: Checkpoint, data: Data, classifier: Classifier, unknown: Sequence[Path], out: Path
) -> dict[str, object]:
    """How well each score separates the held-out photos from `unknown`; confidence.png shows the score that is served.

    ValueError if no photo can be read, or a class has none that was trained on.
    """
    trained = training_photos(data.train, checkpoint.trained_on)
    if missing := set(range(len(data.labels))) - {photo.index for photo in trained}:
        label = data.labels[min(missing)]
        raise ValueError(f"{data.source} has no training photo of {label}: the scores compare with photos that were trained on")
    spec, device = Spec.from_dict(checkpoint.spec), next(classifier.parameters()).device
    unknown_features, unknown_logits, left_out = extract_features(classifier, spec, unknown, device)
    features, logits, _ = extract_features(classifier, spec, [photo.path for photo in trained], device)
    targets = torch.tensor([photo.index for photo in trained])
    known_features, known_logits, _ = extract_features(classifier, spec, [photo.path for photo in data.held_out], device)

    scores: dict[str, dict[str, float]] = {}
    report: dict[str, object] = {"photos": len(unknown_logits), "left_out": len(left_out), "scores": scores}
    for name, score in all_scores(features, logits, targets, checkpoint.temperature).items():
        of_known, of_unknown = score(known_features, known_logits), score(unknown_features, unknown_logits)
        threshold = fit_threshold(of_known)
        detected = float((of_unknown < threshold).float().mean())
        scores[name] = {"auroc": round(auroc(of_known, of_unknown), 4), "detected_at_5_percent_fpr": round(detected, 4)}
        if len(scores) == 1:  # the first is the one that is served
            report |= {"score": name, "threshold": threshold, "false_positive_rate": FALSE_POSITIVE_RATE}
            plot_confidence(of_known, of_unknown, threshold, out / "confidence.png")
    return report


def measure(answers: Answers) -> dict[str, float]:
    """summarise() after the temperature, the calibration error before it, and the temperature."""
    metrics = summarise(answers.calibrated, answers.targets)
    before = calibration_error(answers.logits, answers.targets)
    return metrics | {"calibration_error_before": before, "temperature": answers.temperature}


def write_tables_and_plots(answers: Answers, data: Data, spec: Spec, out: Path) -> list[tuple[object, ...]]:
    """All files of an evaluation but metrics.json and confidence.png. Returns the rows of per_class()."""
    probabilities = answers.calibrated.softmax(1)
    # of either logits: a temperature does not change which class is first
    confusion = confusion_matrix(answers.logits, answers.targets)
    classes = per_class(confusion, data.labels)
    write_per_class(classes, out)
    write_confusion(confusion, data.labels, out)
    write_predictions(data, probabilities, out)
    plot_confusion(confusion, data.labels, out / "confusion.png")
    plot_reliability(answers.logits, answers.targets, answers.temperature, out / "reliability.png")
    plot_mistakes(most_confident_mistakes(data, probabilities, spec), out / "mistakes.png")
    if (out / "history.csv").is_file():
        plot_learning_curves(out / "history.csv", out / "learning_curves.png")
    return classes


def evaluate(checkpoint: Checkpoint, root: Path | None, out: Path, unknown: Path | None = None) -> dict[str, float]:
    """Metrics of the checkpoint on photos that it was not trained on, written to `out` with tables and plots, and returned.

    `unknown` is a folder of out-of-distribution photos. ValueError as held_out_photos and evaluate_unknown.
    """
    unknown_paths = unknown_photos(unknown) if unknown is not None else []  # before the long part: it may be a wrong path
    params = Params(**checkpoint.params)
    data = held_out_photos(checkpoint, read_data(root, params.val_fraction, params.seed, params.near_duplicates))
    classifier, spec = checkpoint.classifier()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits, targets = predict(classifier.to(device), eval_loader(data.held_out, params, spec), device)
    answers = Answers(logits, targets, checkpoint.temperature)
    metrics = measure(answers)

    out.mkdir(parents=True, exist_ok=True)
    classes = write_tables_and_plots(answers, data, spec, out)
    report: dict[str, Any] = {name: round(value, 4) for name, value in metrics.items()}
    report["data"] = data.source
    # training fits it on the held-out photos of its own data
    report["temperature_fitted_on_these"] = data.fingerprint == checkpoint.data["fingerprint"]
    report["f1_per_class"] = {str(row[0]): row[3] for row in classes}
    (out / "confidence.png").unlink(missing_ok=True)  # an earlier evaluation's
    if unknown is not None:
        found = evaluate_unknown(checkpoint, data, classifier, unknown_paths, out)
        report["out_of_distribution"] = {"unknown": unknown.resolve().name} | found
    # the last file: where it exists, all others do
    write_text(out / "metrics.json", json.dumps(report, indent=1) + "\n")
    return metrics


def track(out: Path, metrics: dict[str, float], epoch: int) -> None:
    """Log an evaluation's files to MLflow, if `out` is the folder of a run."""
    if not (out / "history.csv").is_file():
        return
    tracker = Tracker(out)
    tracker.log_metrics({f"eval_{name}": value for name, value in metrics.items()}, step=epoch)
    for path in sorted([*out.glob("*.png"), *out.glob("*.csv"), out / "metrics.json"]):
        tracker.log_artifact(path)
    tracker.close()


def print_summary(out: Path) -> None:
    """The main metrics, the five worst classes, and how many out-of-distribution photos are detected."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    print(f"{metrics['photos']} held-out photos of {metrics['data']}, none of them trained on")
    for name in ("top1", "top5", "f1"):
        print(f"  {name:18s} {metrics[name]:.4f}")
    before, after = metrics["calibration_error_before"], metrics["calibration_error"]
    print(f"  {'calibration_error':18s} {after:.4f} (before the temperature of {metrics['temperature']:.2f}: {before:.4f})")
    with (out / "per_class.csv").open(encoding="utf-8", newline="") as file:
        worst = list(csv.DictReader(file))[:5]
    for row in worst:
        mostly = f", {row['times']} of them predicted as {row['most_confused_with']}" if row["most_confused_with"] else ""
        print(f"  {row['label']}: F1 {float(row['f1']):.2f} on {row['support']} photos{mostly}")
    if found := metrics.get("out_of_distribution"):
        rate = f"{100 * found['false_positive_rate']:g} %"
        print(f"  {found['photos']} out-of-distribution photos of {found['unknown']}, detected at a false positive rate of {rate}:")
        for name, score in found["scores"].items():
            print(f"    {name:34s} {100 * score['detected_at_5_percent_fpr']:5.1f} %   AUROC {score['auroc']:.4f}")
    print(f"{out} holds metrics.json, tables and plots. Next: make report")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--unknown", type=Path, help="folder of out-of-distribution photos, to see how many are detected")
    args = arguments.parse_args()
    checkpoint = Checkpoint.load(args.checkpoint)
    metrics = evaluate(checkpoint, args.data or checkpoint.data_root, args.out, args.unknown)
    print_summary(args.out)
    track(args.out, metrics, checkpoint.epoch)


if __name__ == "__main__":
    sys.exit(run(main, "metrics.json is as it was"))
