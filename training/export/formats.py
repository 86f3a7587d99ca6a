"""The formats that a trained network is exported to, each written from the same program; export_to() writes one."""

import os
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import nn

from handler.openvino_models import openvino_core
from handler.program import INPUTS, Answers, inputs
from scripts.errors import SeeFoodError, is_full
from training.export.quiet import quiet_libraries

if TYPE_CHECKING:
    import openvino as ov

CALIBRATION_PHOTOS = 300  # NNCF's default


class UnsupportedError(SeeFoodError, ValueError):
    """A format's library cannot take a network: an operator that it lacks, a shape that it cannot trace."""


class OnnxError(UnsupportedError):
    """The network cannot be written as ONNX, so none of the formats that are made from it can be."""


def write_onnx(program: nn.Module, crops: np.ndarray, path: Path, ids: np.ndarray | None = None) -> None:
    """model.onnx: inputs crops, and ids where there are any, outputs probabilities, confidence and features, any batch."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = tuple(torch.from_numpy(given[:2]) for given in inputs(crops, ids))
    names = INPUTS[: len(example)]
    try:
        torch.onnx.export(
            program,
            example,
            path,
            input_names=list(names),
            output_names=list(Answers._fields),
            dynamic_shapes={name: {0: batch} for name in names},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:
        raise OnnxError(why(error)) from error
    remove_traces(path)


def why(error: BaseException) -> str:
    """The first cause of an error of a library, in one line. Want of memory or of disk is raised: it is no fault of the network."""
    first, cause = error, error.__cause__
    while True:
        if isinstance(first, MemoryError) or (isinstance(first, OSError) and is_full(first)):
            raise first
        if cause is None:
            break
        first, cause = cause, cause.__cause__
    text = next((line for line in str(first).splitlines() if line.strip()), "")
    return textwrap.shorten(f"{type(first).__name__}: {text}", 300, placeholder=" ...")


def remove_traces(path: Path) -> None:
    """Take out of an ONNX file what torch notes for debugging: the paths and lines of code on the machine that exported."""
    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


def write_openvino_int8(program: nn.Module, crops: np.ndarray, path: Path, ids: np.ndarray | None = None) -> None:
    """OpenVINO's own format (model.xml and .bin), weights and activations int8 by NNCF, calibrated on `crops`."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(program, crops, file, ids)
        ov.save_model(quantised(file, one_by_one(crops, ids)), path, compress_to_fp16=False)


def quantised(file: Path, photos: Sequence[dict[str, np.ndarray]]) -> "ov.Model":
    """An ONNX file's network with int8 weights, one scale a channel, and activations, calibrated on photos in batches of one."""
    os.environ.setdefault("NNCF_CI", "1")  # else it tells its makers that it is used
    import nncf
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino_core().read_model(file)
    # as OpenVINO's converter does, which only reports its use besides: without, NNCF finds no layer's bias and corrects none
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    return nncf.quantize(
        model,
        nncf.Dataset(photos),
        # activations with a zero point of their own; without, MobileNetV2's linear layers lose 9 points
        preset=nncf.QuantizationPreset.MIXED,
        # keeps sensitive parts in float, attention's and the program's end, and moves outliers into weights (arXiv:2211.10438);
        # the starter, a convolutional network, gains by it, too
        model_type=nncf.ModelType.TRANSFORMER,
        # layer by layer, each after those before it: twice the time of the fast way, which takes all layers' means at once
        fast_bias_correction=False,
        subset_size=len(photos),
    )


def write_onnxruntime_int8(program: nn.Module, crops: np.ndarray, path: Path, ids: np.ndarray | None = None) -> None:
    """An ONNX file with int8 weights and activations by ONNX Runtime's static quantisation, calibrated on `crops`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(one_by_one(crops, ids))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        write_onnx(program, crops, plain, ids)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, path, Crops(), quant_format=QuantFormat.QDQ, per_channel=True, **types)


def one_by_one(crops: np.ndarray, ids: np.ndarray | None) -> list[dict[str, np.ndarray]]:
    """What a program takes, by name, in batches of one."""
    return [dict(zip(INPUTS, (given[None] for given in photo), strict=False)) for photo in zip(*inputs(crops, ids), strict=True)]


def write_torch(program: nn.Module, crops: np.ndarray, path: Path, ids: np.ndarray | None = None) -> None:
    """torch.export's program, any batch."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = tuple(torch.from_numpy(given[:2]) for given in inputs(crops, ids))
    exported = torch.export.export(program, example, dynamic_shapes=tuple({0: batch} for _ in example))
    torch.export.save(exported, path)


@dataclass(frozen=True)
class Format:
    """The file that handler/program.py loads, its precisions, fastest first, and the function that writes it."""

    file: str
    precisions: tuple[str, ...]
    write: Callable[[nn.Module, np.ndarray, Path, np.ndarray | None], None]
    by_onnx: bool = True  # whether it is made from an ONNX file


# by the names that handler.program.PROGRAMS loads; `make compare` times them. Two that have one file share it: it is written once
EXPORT_FORMATS = {
    "openvino": Format("model.onnx", ("bf16", "f32"), write_onnx),
    # what int8 leaves out, such as LeViT's attention, in bf16 or f32
    "openvino-int8": Format("model.xml", ("int8+bf16", "int8"), write_openvino_int8),
    "onnxruntime-int8": Format("model-int8.onnx", ("int8",), write_onnxruntime_int8),
    "onnxruntime": Format("model.onnx", ("f32",), write_onnx),
    "torch": Format("model.pt2", ("bf16", "f16", "f32"), write_torch, by_onnx=False),
}

# one of their programs is the fastest on any CPU; which one depends on the CPU, so that an archive has all that pass
FASTEST = ("openvino", "openvino-int8")


def export_to(format_name: str, program: nn.Module, crops: np.ndarray, folder: Path, ids: np.ndarray | None = None) -> None:
    """Write a format's file into the new folder, calibrated on `crops`, and `ids` of their texts where the model reads them.

    UnsupportedError if its library cannot take the network.
    """
    export_format = EXPORT_FORMATS[format_name]
    folder.mkdir()
    try:
        with quiet_libraries():
            export_format.write(program, crops, folder / export_format.file, ids)
    except UnsupportedError:
        raise
    except Exception as error:  # torch, OpenVINO, NNCF and ONNX Runtime raise types of many kinds
        raise UnsupportedError(why(error)) from error
