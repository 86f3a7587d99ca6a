"""The accuracy gate: an export format is refused where it loses top-1 or names another class than float32 torch where that is sure.

Both are measured on held-out photos. float32 is sure of a photo if its best class is at least SURE_RATIO times as probable as the
next. Elsewhere the two are near a tie, which the least rounding may break the other way: the new name is about as often right, and
top-1 judges whether it is. Where float32 is sure, another name is damage: at most one photo in a hundred, and of no class more than
half. Fewer than MIN_SURE_PHOTOS sure photos cannot show one in a hundred: then all photos count, by MIN_AGREEMENT.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.program import PROGRAMS, Answers, Program, inputs, program_name
from scripts.errors import SeeFoodError
from scripts.phrases import counted
from training.evaluation.confidence import fit_threshold
from training.export.formats import EXPORT_FORMATS, UnsupportedError, why

MAX_LOSS = 0.005  # of top-1 accuracy
SURE_RATIO = 2  # of the probabilities of float32's best class and the next
MIN_SURE_AGREEMENT = 0.99  # share of photos with the same top-1, where float32 is sure
MIN_SURE_PHOTOS = 100
MIN_CLASS_AGREEMENT = 0.5  # of a class's sure photos: of many classes the loss of one hardly shows in the other figures
MIN_CLASS_PHOTOS = 5  # classes with fewer sure photos are not judged alone
MIN_AGREEMENT = {"bf16": 0.99, "f16": 0.99, "f32": 0.99, "int8": 0.98, "int8+bf16": 0.98}  # of all photos, where too few are sure
BATCH = 8


class AccuracyGateError(SeeFoodError, ValueError):
    """No precision of a format passed the gate; the message holds its metrics and the next format to try."""


@dataclass(frozen=True)
class Reference:
    """Held-out photos: crops uint8 (N, H, W, 3), their classes (N,), float32 torch's probabilities (N, num_classes).

    `ids`, int64 (N, L), are of their texts, None where the model reads none.
    """

    crops: np.ndarray
    targets: np.ndarray
    expected: np.ndarray
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """A format's program in one precision, and its metrics on the held-out photos."""

    format_name: str
    program: Program
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        """By which the archive knows the program."""
        return program_name(self.format_name, self.program.precision)


def programs(format_name: str, folder: Path, left_out: list[str] | None = None) -> Iterator[Program]:
    """The format's program in each of its precisions that is possible on this machine; why others are not goes into `left_out`.

    UnsupportedError if it cannot be loaded. None is settled, so all of OpenVINO's answer crop by crop: what is written must not
    depend on what a machine measures. int8 that this CPU computes in float is left out: it would be judged by other answers.
    """
    export_format = EXPORT_FORMATS[format_name]
    for precision in export_format.precisions:
        try:
            program = PROGRAMS[format_name](folder / export_format.file, precision, 0, (1, BATCH))
            if program.in_float:
                raise ValueError("this machine's CPU has no exact int8 (VNNI), so that float32 would be judged in its place")
        except ValueError as error:
            print(f"  {precision}: not on this machine ({error})", flush=True)
            if left_out is not None:
                left_out.append(f"{precision}: {error}")
        except Exception as error:  # OpenVINO and ONNX Runtime raise types of many kinds
            raise UnsupportedError(why(error)) from error
        else:
            yield program


def in_batches(program: Callable[..., Iterable[Any]], crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
    """The answers to N crops, with ids of texts where the program takes them, BATCH at a time."""
    parts = [program(*(given[i : i + BATCH] for given in inputs(crops, ids))) for i in range(0, len(crops), BATCH)]
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def measure(program: Program, reference: Reference) -> dict[str, float]:
    """Metrics of a program on the held-out photos, beside float32 torch's. UnsupportedError if it does not run."""
    started = time.perf_counter()
    try:
        probabilities, confidence, _ = in_batches(program, reference.crops, reference.ids)
    except Exception as error:  # as in programs(): an operator may fail only when it runs
        raise UnsupportedError(why(error)) from error
    elapsed = time.perf_counter() - started
    predicted, by_torch = probabilities.argmax(1), reference.expected.argmax(1)
    finite = np.isfinite(probabilities).all(1) & np.isfinite(confidence)
    same = finite & (predicted == by_torch)
    return {
        "top1": float((finite & (predicted == reference.targets)).mean()),
        "top1_float32": float((by_torch == reference.targets).mean()),
        "agreement": float(same.mean()),
        "photos": len(reference.crops),
        **agreement_where_sure(same, reference.expected),
        **({} if finite.all() else {"not_finite": int((~finite).sum())}),
        # fitted on this program's own scores: the guarantee of fit_threshold holds for no other program
        "confidence_threshold": fit_threshold(torch.from_numpy(confidence[finite])),
        "ms_per_photo": 1000 * elapsed / len(reference.crops),
    }


def agreement_where_sure(same: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """`sure_photos`, their number; `agreement_sure`, the share of them with the same class; `lowest_class_agreement`.

    `same` is bool (N,); `expected`, float32's probabilities (N, num_classes). The lowest share is among float32's classes that
    have at least MIN_CLASS_PHOTOS sure photos. What no photo shows is left out.
    """
    second, first = np.sort(np.pad(expected, ((0, 0), (1, 0))), 1)[:, -2:].T  # padded, as there may be one class
    sure = first >= SURE_RATIO * second
    of_class, count = expected.argmax(1)[sure], expected.shape[1]
    photos = np.bincount(of_class, minlength=count)
    kept = np.bincount(of_class, weights=same[sure], minlength=count)
    metrics: dict[str, float] = {"sure_photos": int(sure.sum())}
    if sure.any():
        metrics["agreement_sure"] = float(same[sure].mean())
    if (judged := photos >= MIN_CLASS_PHOTOS).any():
        metrics["lowest_class_agreement"] = float((kept[judged] / photos[judged]).min())
    return metrics


def failure(precision: str, metrics: dict[str, float]) -> str | None:
    """Why these metrics do not pass the gate, None if they do."""
    if count := int(metrics.get("not_finite", 0)):
        return f"the answers to {counted(count, 'photo')} are not finite"
    loss = round(metrics["top1_float32"] - metrics["top1"], 9)  # 0.9 - 0.895 is a little over 0.005
    if loss > MAX_LOSS:
        return f"top-1 is {metrics['top1']:.2%}, {100 * loss:.2f} points below float32's, at most {100 * MAX_LOSS} are allowed"
    lowest = metrics.get("lowest_class_agreement", 1.0)
    if lowest < MIN_CLASS_AGREEMENT:
        return f"of the photos of one class that float32 is sure of, {lowest:.2%} keep it, {MIN_CLASS_AGREEMENT:.0%} are required"
    sure = int(metrics.get("sure_photos", 0))
    if sure >= MIN_SURE_PHOTOS:
        share, required, where = metrics["agreement_sure"], MIN_SURE_AGREEMENT, f"the {sure} photos that it is sure of"
    else:
        share, required, where = metrics["agreement"], MIN_AGREEMENT[precision], "photos"
    if share < required:
        return f"agrees with float32 torch on {share:.2%} of {where}, {required:.0%} are required"
    return None


def agreement(metrics: dict[str, float]) -> str:
    """Both agreements in words: 98.46% of 583 photos, 100.00% of the 532 where it is sure."""
    of_all = f"{metrics['agreement']:.2%} of {counted(int(metrics['photos']), 'photo')}"
    if not metrics["sure_photos"]:
        return f"{of_all}, where it is sure of none"
    return f"{of_all}, {metrics['agreement_sure']:.2%} of the {int(metrics['sure_photos'])} where it is sure"


def gate(format_name: str, folder: Path, reference: Reference, tried: Collection[str] = ()) -> list[Measured]:
    """The programs of a format that pass, in the order of its precisions; each verdict is printed.

    AccuracyGateError if none passes, which names the next format that is not among those `tried`, if there is one.
    UnsupportedError if the format's library cannot load or run it.
    """
    passed: list[Measured] = []
    reasons: list[str] = []
    refused: list[str] = []
    for program in programs(format_name, folder, reasons):
        metrics = measure(program, reference)
        reason = failure(program.precision, metrics)
        print(
            f"  {format_name} in {program.precision}: top-1 {metrics['top1']:.2%} (float32 torch {metrics['top1_float32']:.2%}), "
            f"agrees with float32 torch on {agreement(metrics)}; " + (f"refused: {reason}" if reason else "passes"),
            flush=True,
        )
        if reason:
            refused.append(f"{program.precision}: {reason}")
        else:
            passed.append(Measured(format_name, program, metrics))
    if not passed:
        names = list(EXPORT_FORMATS)
        behind = names.index(format_name) + 1
        following = [name for name in names[behind:] + names[:behind] if name not in (format_name, *tried)]
        advice = f": try FORMAT={following[0]}" if following else ""
        verdict = "does not pass the accuracy gate" if refused else "cannot be judged on this machine"
        raise AccuracyGateError(f"{format_name} {verdict} ({'; '.join(refused or reasons)}){advice}")
    return passed
