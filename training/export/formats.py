"""The formats that a trained network is served in, each written from the same program, and the gate that each must pass.

A format is refused where it is less accurate than float32 torch on photos that were never trained on, or names another
dish too often: see MAX_LOSS and MIN_AGREEMENT.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handler.program import FORMATS as PROGRAMS
from handler.program import Program, openvino_core
from training.evaluation.confidence import fit_threshold

MAX_LOSS = 0.005  # of top-1 accuracy
MIN_AGREEMENT = {"bf16": 0.99, "f16": 0.99, "f32": 0.99, "int8": 0.98}  # share of photos with the same top-1
BATCH = 8
CALIBRATION_PHOTOS = 300  # as NNCF has it by default


def write_onnx(program: nn.Module, crops: np.ndarray, path: Path) -> None:
    """model.onnx: inputs crops, outputs probabilities and confidence, any batch."""
    example = torch.from_numpy(crops[:2])
    torch.onnx.export(
        program,
        (example,),
        path,
        input_names=["crops"],
        output_names=["probabilities", "confidence"],
        dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1, max=1024)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def write_openvino_int8(program: nn.Module, crops: np.ndarray, path: Path) -> None:
    """OpenVINO's own format (model.xml and .bin), weights and activations int8 by NNCF, whose ranges come from `crops`."""
    import nncf
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(program, crops, onnx)
        model = openvino_core().read_model(onnx)
    # mixed: activations with a zero point of their own; without, MobileNetV2's linear layers lose 9 points
    quantised = nncf.quantize(
        model, nncf.Dataset([crop[None] for crop in crops]), preset=nncf.QuantizationPreset.MIXED, subset_size=len(crops)
    )
    ov.save_model(quantised, path, compress_to_fp16=False)


def write_onnxruntime_int8(program: nn.Module, crops: np.ndarray, path: Path) -> None:
    """model.onnx with int8 weights and activations by ONNX Runtime's static quantisation, ranges from `crops`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(crops)

        def get_next(self) -> dict[str, np.ndarray] | None:
            crop = next(self.left, None)
            return None if crop is None else {"crops": crop[None]}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        write_onnx(program, crops, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, path, Crops(), quant_format=QuantFormat.QDQ, per_channel=True, **types)


def write_torch(program: nn.Module, crops: np.ndarray, path: Path) -> None:
    """torch.export's program, any batch."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(program, (torch.from_numpy(crops[:2]),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)


@dataclass(frozen=True)
class Format:
    """The file that handler/program.py loads, and its precisions, fastest first."""

    file: str
    precisions: tuple[str, ...]
    write: Callable[[nn.Module, np.ndarray, Path], None]


# `make compare` times them
FORMATS = {
    "openvino": Format("model.onnx", ("bf16", "f32"), write_onnx),
    "openvino-int8": Format("model.xml", ("int8",), write_openvino_int8),
    "onnxruntime-int8": Format("model.onnx", ("int8",), write_onnxruntime_int8),
    "onnxruntime": Format("model.onnx", ("f32",), write_onnx),
    "torch": Format("model.pt2", ("bf16", "f16", "f32"), write_torch),
}


# of all on a CPU, depending on whether it has bfloat16
FASTEST = ("openvino", "openvino-int8")


class RefusedError(ValueError):
    """No precision of a format passed the gate; the message holds the figures and names the next format."""


def programs(name: str, folder: Path) -> Iterator[Program]:
    """The format's program in each of its precisions that is possible on this machine."""
    for precision in FORMATS[name].precisions:
        try:
            yield PROGRAMS[name](folder / FORMATS[name].file, [precision], 0, (1, BATCH))
        except ValueError as error:
            print(f"  {precision}: not on this machine ({error})", flush=True)


def in_batches(program: Callable[[np.ndarray], Any], crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities (N, C), confidence (N,)) of N crops."""
    parts = [program(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def measure(program: Program, crops: np.ndarray, targets: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Figures of a format beside `expected`, float32 torch's probabilities (N, C) of the same crops (N, H, W, 3)."""
    started = time.perf_counter()
    probabilities, confidence = in_batches(program, crops)
    elapsed = time.perf_counter() - started
    best, reference = probabilities.argmax(1), expected.argmax(1)
    return {
        "top1": float((best == targets).mean()),
        "top1_float32": float((reference == targets).mean()),
        "agreement": float((best == reference).mean()),
        "photos": len(crops),
        "confidence_threshold": fit_threshold(torch.from_numpy(confidence)),
        "ms_per_photo": 1000 * elapsed / len(crops),
    }


def failure(precision: str, figures: dict[str, float]) -> str | None:
    """Why these figures do not pass the gate, None if they do."""
    loss = round(figures["top1_float32"] - figures["top1"], 9)  # 0.9 - 0.895 is a little over 0.005
    if loss > MAX_LOSS:
        return f"top-1 is {figures['top1']:.2%}, {100 * loss:.2f} points below float32's, at most {100 * MAX_LOSS} are allowed"
    if figures["agreement"] < MIN_AGREEMENT[precision]:
        return f"names float32's dish for {figures['agreement']:.2%} of the photos, expected {MIN_AGREEMENT[precision]:.0%}"
    return None


def gate(
    name: str, folder: Path, crops: np.ndarray, targets: np.ndarray, expected: np.ndarray
) -> list[tuple[Program, dict[str, float]]]:
    """The programs of a format that pass, fastest first, with their figures, each said. Refused if none does."""
    passed, reasons = [], []
    for program in programs(name, folder):
        figures = measure(program, crops, targets, expected)
        reason = failure(program.precision, figures)
        verdict = f"refused: {reason}" if reason else "passes"
        print(
            f"  {name} in {program.precision}: top-1 {figures['top1']:.2%} (float32 torch {figures['top1_float32']:.2%}), "
            f"the same dish for {figures['agreement']:.2%} of {figures['photos']} photos; {verdict}",
            flush=True,
        )
        if reason:
            reasons.append(f"{program.precision}: {reason}")
        else:
            passed.append((program, figures))
    if not passed:
        order = list(FORMATS)
        following = order[order.index(name) + 1] if name != order[-1] else order[0]
        raise RefusedError(f"{name} does not pass the accuracy gate ({'; '.join(reasons)}): try FORMAT={following}")
    return passed
