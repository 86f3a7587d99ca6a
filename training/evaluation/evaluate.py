"""How good is a checkpoint: `python -m training.evaluation.evaluate --checkpoint runs/latest/checkpoint.pt --out runs/latest`.

Photos go through handler/preprocess.py, as in the worker, and none of them was trained on: the checkpoint holds the sha256
of its training photos. Writes the tables of tables.py, metrics.json, then the pictures of plots.py; one that cannot be drawn is a
warning, and the exit status stays 0. report.py makes one page of them. With --unknown FOLDER, out-of-distribution photos, it
also measures how well each score of confidence.py separates those from photos of the known classes.
"""

import csv
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from handler.preprocess import Spec
from scripts.atomic import write_text
from scripts.command import fail, parser, run
from scripts.folders import files_below
from scripts.phrases import counted
from training.data.sets import Data, read_data
from training.evaluation.confidence import FALSE_POSITIVE_RATE, all_scores, auroc, fit_threshold
from training.evaluation.features import extract_features, training_outputs, training_photos
from training.evaluation.groups import per_group, write_per_group
from training.evaluation.held_out import held_out_photos, split_of
from training.evaluation.metrics import calibration_error, calibration_error_by_chance, confusion_matrix, summarise
from training.evaluation.mistakes import most_confident_mistakes
from training.evaluation.predictions import predict_held_out
from training.evaluation.tables import per_class, write_confusion, write_per_class, write_predictions
from training.folder import is_latest, process_at_work
from training.model import Checkpoint, Classifier
from training.params import Params
from training.remedies import remedy
from training.tracking.journal import Tracker

TTA = "mean of the logits of each photo and its mirror image"
PICTURES = ("confusion.png", "reliability.png", "mistakes.png", "learning_curves.png", "confidence.png")


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


@dataclass(frozen=True)
class Found:
    """Results with out-of-distribution photos; scores (N,) and (M,) and the threshold are of the score that is served."""

    report: dict[str, object]
    known: Tensor
    unknown: Tensor
    threshold: float


def unknown_photos(folder: Path) -> list[Path]:
    """Every file below the folder but leftovers of other programs. ValueError if there is none."""
    paths = files_below(folder, Counter()) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"no out-of-distribution photos in {folder}: the folder is empty or does not exist")
    return paths


def evaluate_unknown(checkpoint: Checkpoint, data: Data, classifier: Classifier, unknown: Sequence[Path]) -> Found:
    """How well each score separates the held-out photos from `unknown`.

    ValueError if no photo can be read, or a class has none that was trained on.
    """
    trained = training_photos(data.train, checkpoint.trained_on)
    if missing := set(range(len(data.labels))) - {photo.index for photo in trained}:
        label = data.labels[min(missing)]
        raise ValueError(f"{data.source} has no training photo of {label}: the scores compare with photos that were trained on")
    spec, device = checkpoint.read_spec(), next(classifier.parameters()).device
    of_unknown, left_out = extract_features(classifier, spec, unknown, device)
    outputs, targets = training_outputs(classifier, spec, trained, device)
    of_known, _ = extract_features(classifier, spec, [photo.path for photo in data.held_out], device)

    scores: dict[str, dict[str, float]] = {}
    report: dict[str, object] = {"photos": len(of_unknown.logits), "left_out": len(left_out), "scores": scores}
    of_text = classifier.tower.width if classifier.tower else 0
    for name, score in all_scores(outputs, targets, checkpoint.temperature, of_text).items():
        known, strange = score(*of_known), score(*of_unknown)
        threshold = fit_threshold(known)
        detected = float((strange < threshold).float().mean())
        scores[name] = {"auroc": round(auroc(known, strange), 4), "detected_at_5_percent_fpr": round(detected, 4)}
        if len(scores) == 1:  # the first is the one that is served
            report |= {"score": name, "threshold": threshold, "false_positive_rate": FALSE_POSITIVE_RATE}
            found = Found(report, known, strange, threshold)
    return found


def fitted_on(checkpoint: Checkpoint, data: Data) -> int | None:
    """Of how many of the held-out photos of `data` the temperature was fitted, and the epoch chosen; None if that is not known.

    By content: another data set, or a later version of this one, may hold them, too.
    """
    if checkpoint.held_out is not None:
        fitted = set(checkpoint.held_out)
        return sum(photo.sha256 in fitted for photo in data.held_out)
    # an older checkpoint: it was fitted on all held-out photos of its own data
    return len(data.held_out) if data.fingerprint == checkpoint.data["fingerprint"] else None


def measure(answers: Answers) -> dict[str, float]:
    """summarise() after the temperature, the calibration error before it and by chance, and the temperature."""
    metrics = summarise(answers.calibrated, answers.targets)
    before = calibration_error(answers.logits, answers.targets)
    chance = calibration_error_by_chance(answers.calibrated)
    return metrics | {"calibration_error_before": before, "calibration_error_by_chance": chance, "temperature": answers.temperature}


def write_tables(answers: Answers, confusion: Tensor, data: Data, out: Path) -> list[tuple[object, ...]]:
    """The tables of an evaluation. Returns the rows of per_class()."""
    classes = per_class(confusion, data.labels)
    write_per_class(classes, out)
    write_confusion(confusion, data.labels, out)
    write_predictions(data, answers.calibrated.softmax(1), out)
    return classes


def draw(answers: Answers, confusion: Tensor, data: Data, spec: Spec, found: Found | None, out: Path) -> None:
    """Draw the pictures into `out`. What cannot be drawn is a warning, as all numbers are written by now, and is not there."""
    for name in PICTURES:
        (out / name).unlink(missing_ok=True)  # an earlier evaluation's
    try:
        # not above: where matplotlib cannot be imported there are numbers and no pictures
        from training.evaluation import plots
    except Exception as error:
        return print(f"warning: no picture is drawn: matplotlib cannot be imported ({error})", file=sys.stderr)

    def mistakes(path: Path) -> None:
        plots.plot_mistakes(most_confident_mistakes(data, answers.calibrated.softmax(1), spec), path)

    draws: dict[str, Callable[[Path], None]] = {
        "confusion.png": lambda path: plots.plot_confusion(confusion, data.labels, path),
        "reliability.png": lambda path: plots.plot_reliability(answers.logits, answers.targets, answers.temperature, path),
        "mistakes.png": mistakes,
    }
    if (out / "history.csv").is_file():
        draws["learning_curves.png"] = lambda path: plots.plot_learning_curves(out / "history.csv", path)
    if found is not None:
        draws["confidence.png"] = lambda path: plots.plot_confidence(found.known, found.unknown, found.threshold, path)
    for name, function in draws.items():
        try:
            function(out / name)
        except Exception as error:  # of matplotlib, a font, a full disk
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: {name} is not drawn ({reason}); metrics.json and the tables are complete", file=sys.stderr)
    return None


def evaluate(
    checkpoint: Checkpoint, root: Path | None, out: Path, unknown: Path | None = None, mirrored: bool = False
) -> dict[str, float]:
    """Metrics of the checkpoint on photos that it was not trained on, written to `out` with tables and plots, and returned.

    `unknown` is a folder of out-of-distribution photos. With `mirrored`, each photo's mirror image counts, too
    (metrics.predict); out-of-distribution photos are asked as they are. ValueError as held_out_photos and evaluate_unknown.
    """
    unknown_paths = unknown_photos(unknown) if unknown is not None else []  # before the long part: it may be a wrong path
    params, (classifier, spec) = Params(**checkpoint.params), checkpoint.classifier()  # before the photos: it may not fit
    data = read_data(root, params.val_fraction, params.seed, params.near_duplicates)
    data = held_out_photos(checkpoint, data, ask_test=True)
    logits, targets, read = predict_held_out(checkpoint, classifier, data, mirrored)
    unreadable, data = len(data.held_out) - len(read), replace(data, held_out=tuple(data.held_out[i] for i in read))
    answers = Answers(logits, targets, checkpoint.temperature)
    metrics = measure(answers)

    out.mkdir(parents=True, exist_ok=True)
    # of either logits: a temperature does not change which class is first
    confusion = confusion_matrix(answers.logits, answers.targets)
    classes = write_tables(answers, confusion, data, out)
    report: dict[str, Any] = {name: round(value, 4) for name, value in metrics.items()}
    fitted = fitted_on(checkpoint, data)
    if mirrored:
        report["test_time_augmentation"] = TTA
    report |= {"data": data.source, "split": split_of(data)}
    report |= {"temperature_fitted_on_these": None if fitted is None else fitted > 0, "temperature_photos": fitted}
    report |= {"unreadable_photos": unreadable, "f1_classes": len(targets.unique())}
    report["f1_per_class"] = {str(row[0]): row[3] for row in classes}
    groups = per_group(data.held_out, answers.calibrated, answers.targets)
    write_per_group(groups, out)
    if groups:
        report["top1_per_group"] = {str(row[0]): row[2] for row in groups}
    found = evaluate_unknown(checkpoint, data, classifier, unknown_paths) if unknown is not None else None
    if unknown is not None and found is not None:
        report["out_of_distribution"] = {"unknown": unknown.resolve().name} | found.report
    # after the tables: where it exists, they do; before the pictures, of which none is worth the numbers
    write_text(out / "metrics.json", json.dumps(report, indent=1) + "\n")
    draw(answers, confusion, data, spec, found, out)
    return metrics


def track(out: Path, metrics: dict[str, float], epoch: int, mirrored: bool = False) -> None:
    """Log an evaluation's files to MLflow, if `out` is the folder of a run; with `mirrored` the metrics alone, as eval_tta_..."""
    if not (out / "history.csv").is_file():
        return
    tracker = Tracker(out)
    prefix = "eval_tta_" if mirrored else "eval_"
    tracker.log_metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step=epoch)
    for path in [] if mirrored else sorted([*out.glob("*.png"), *out.glob("*.csv"), out / "metrics.json"]):
        tracker.log_artifact(path)
    tracker.close()


def print_summary(out: Path) -> None:
    """The main metrics, the five worst groups and classes, and how many out-of-distribution photos are detected."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    print(f"{counted(metrics['photos'], metrics['split'] + ' photo')} of {metrics['data']}, none of them trained on")
    if metrics["unreadable_photos"]:
        print(f"  {metrics['unreadable_photos']} more cannot be read and are left out")
    if tta := metrics.get("test_time_augmentation"):
        print(f"  test-time augmentation: {tta}")
    for name in ("top1", "top5", "f1"):
        absent = len(metrics["f1_per_class"]) - metrics["f1_classes"] if name == "f1" else 0
        over = f" (over {metrics['f1_classes']} of {len(metrics['f1_per_class'])} classes: the others have no photos here)"
        print(f"  {name:18s} {metrics[name]:.4f}" + (over if absent else ""))
    before, after = metrics["calibration_error_before"], metrics["calibration_error"]
    print(f"  {'calibration_error':18s} {after:.4f} (before the temperature of {metrics['temperature']:.2f}: {before:.4f})")
    print(f"  {'':18s} {metrics['calibration_error_by_chance']:.4f} is what a calibrated model shows on so many photos, by chance")
    for group, top1 in list(metrics.get("top1_per_group", {}).items())[:5]:
        print(f"  group {group}: top-1 {top1:.4f}")
    with (out / "per_class.csv").open(encoding="utf-8", newline="") as file:
        worst = list(csv.DictReader(file))[:5]
    for row in worst:
        mostly = f", {row['times']} of them predicted as {row['most_confused_with']}" if row["most_confused_with"] else ""
        print(f"  {row['label']}: F1 {float(row['f1']):.2f} on {counted(int(row['support']), 'photo')}{mostly}")
    if found := metrics.get("out_of_distribution"):
        rate = f"{100 * found['false_positive_rate']:g} %"
        print(
            f"  {counted(found['photos'], 'out-of-distribution photo')} of {found['unknown']}, "
            f"detected at a false positive rate of {rate}:"
        )
        for name, score in found["scores"].items():
            print(f"    {name:34s} {100 * score['detected_at_5_percent_fpr']:5.1f} %   AUROC {score['auroc']:.4f}")
    run_value = "" if is_latest(out) else f" {shlex.quote(f'RUN={out}')}"
    following = "" if tta else f" Next: make report{run_value}"
    print(f"{out} holds metrics.json, tables and plots.{following}")


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--unknown", type=Path, help="folder of out-of-distribution photos, to see how many are detected")
    arguments.add_argument("--tta", action="store_true", help="test-time augmentation: each photo's mirror image counts, too")
    args = arguments.parse_args()
    out = args.out / "tta" if args.tta else args.out  # the run's own figures are those of what is served
    checkpoint = Checkpoint.load(args.checkpoint)
    if pid := process_at_work(args.checkpoint.parent):
        print(f"{args.checkpoint.parent} is at work, as process {pid}: this is its best epoch so far, {checkpoint.epoch}")
    try:
        metrics = evaluate(checkpoint, args.data or checkpoint.data_root, out, args.unknown, args.tta)
    except Exception as error:
        if known := remedy(error):
            return fail(f"{known.text}; then the same command again")
        raise
    print_summary(out)
    track(args.out, metrics, checkpoint.epoch, args.tta)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "metrics.json is as it was"))
