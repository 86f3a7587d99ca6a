"""The accuracy gate: an export format is refused where it loses top-1 or too often names another class than float32 torch does.

Both are measured on held-out photos; the limits are MAX_LOSS and MIN_AGREEMENT.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.openvino_models import ANY
from handler.program import PROGRAMS, Answers, Program, inputs, program_name
from scripts.errors import SeeFoodError
from scripts.phrases import counted
from training.evaluation.confidence import fit_threshold
from training.export.formats import EXPORT_FORMATS, UnsupportedError, why

MAX_LOSS = 0.005  # of top-1 accuracy
MIN_AGREEMENT = {"bf16": 0.99, "f16": 0.99, "f32": 0.99, "int8": 0.98}  # share of photos with the same top-1
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


def programs(format_name: str, folder: Path) -> Iterator[Program]:
    """The format's program in each of its precisions that is possible on this machine. UnsupportedError if it cannot be loaded."""
    export_format = EXPORT_FORMATS[format_name]
    for precision in export_format.precisions:
        try:
            yield PROGRAMS[format_name](folder / export_format.file, precision, 0, (ANY, 1, BATCH))
        except ValueError as error:
            print(f"  {precision}: not on this machine ({error})", flush=True)
        except Exception as error:  # OpenVINO and ONNX Runtime raise types of many kinds
            raise UnsupportedError(why(error)) from error


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
    return {
        "top1": float((predicted == reference.targets).mean()),
        "top1_float32": float((by_torch == reference.targets).mean()),
        "agreement": float((predicted == by_torch).mean()),
        "photos": len(reference.crops),
        # fitted on this program's own scores: the guarantee of fit_threshold holds for no other program
        "confidence_threshold": fit_threshold(torch.from_numpy(confidence)),
        "ms_per_photo": 1000 * elapsed / len(reference.crops),
    }


def failure(precision: str, metrics: dict[str, float]) -> str | None:
    """Why these metrics do not pass the gate, None if they do."""
    loss = round(metrics["top1_float32"] - metrics["top1"], 9)  # 0.9 - 0.895 is a little over 0.005
    if loss > MAX_LOSS:
        return f"top-1 is {metrics['top1']:.2%}, {100 * loss:.2f} points below float32's, at most {100 * MAX_LOSS} are allowed"
    if metrics["agreement"] < MIN_AGREEMENT[precision]:
        return f"agrees with float32 torch on {metrics['agreement']:.2%} of photos, {MIN_AGREEMENT[precision]:.0%} are required"
    return None


def gate(format_name: str, folder: Path, reference: Reference, tried: Collection[str] = ()) -> list[Measured]:
    """The programs of a format that pass, in the order of its precisions; each verdict is printed.

    AccuracyGateError if none passes, which names the next format that is not among those `tried`, if there is one.
    UnsupportedError if the format's library cannot load or run it.
    """
    passed: list[Measured] = []
    reasons = []
    for program in programs(format_name, folder):
        metrics = measure(program, reference)
        reason = failure(program.precision, metrics)
        print(
            f"  {format_name} in {program.precision}: top-1 {metrics['top1']:.2%} (float32 torch {metrics['top1_float32']:.2%}), "
            f"agrees with float32 torch on {metrics['agreement']:.2%} of {counted(int(metrics['photos']), 'photo')}; "
            + (f"refused: {reason}" if reason else "passes"),
            flush=True,
        )
        if reason:
            reasons.append(f"{program.precision}: {reason}")
        else:
            passed.append(Measured(format_name, program, metrics))
    if not passed:
        names = list(EXPORT_FORMATS)
        behind = names.index(format_name) + 1
        following = [name for name in names[behind:] + names[:behind] if name not in (format_name, *tried)]
        advice = f": try FORMAT={following[0]}" if following else ""
        raise AccuracyGateError(f"{format_name} does not pass the accuracy gate ({'; '.join(reasons)}){advice}")
    return passed
