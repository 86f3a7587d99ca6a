"""The exported program on this machine: uint8 crops -> probabilities, confidence, features, by OpenVINO, ONNX Runtime or torch.

The program of a model that reads texts takes their ids beside the crops (text.py).
An archive holds one export format; program.json names it, its file and the precisions that passed the accuracy gate.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from handler.batching import is_faster_whole, return_freed_memory

if TYPE_CHECKING:
    import openvino as ov


# by the names that an ONNX file has for them; the second where the model reads texts
INPUTS = ("crops", "ids")


class Answers(NamedTuple):
    """For B crops, all float32: probabilities (B, num_classes), confidence (B,), the last layer's input, features (B, D)."""

    probabilities: np.ndarray
    confidence: np.ndarray
    features: np.ndarray


class Program(Protocol):
    """uint8 crops (B, H, W, 3) -> Answers, for any B from 1; with int64 ids (B, L) of texts, where the model reads them."""

    precision: str

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers: ...


def inputs(crops: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """What a program takes: crops, and ids where there are any."""
    return (crops,) if ids is None else (crops, ids)


def choose(precisions: Sequence[str], possible: Sequence[str], library: str) -> str:
    """The first of an archive's precisions, fastest first, that is possible here. ValueError if none is."""
    for precision in precisions:
        if precision in possible:
            return precision
    raise ValueError(f"this machine's {library} runs {list(possible)}, the archive's precisions are {list(precisions)}")


def check_outputs(count: int) -> None:
    """ValueError unless a program has the outputs of Answers."""
    if count != len(Answers._fields):
        raise ValueError(f"the program has {count} outputs, expected {', '.join(Answers._fields)}: export it again, make export")


@cache
def openvino_core() -> "ov.Core":
    """The process's only core, never dropped.

    Its CPU plugin replaces the thread's alternate signal stack and puts the earlier one back at its end: of two
    cores that end in the order in which they began, the second puts back a freed one, and the next signal kills.
    """
    import openvino as ov

    return ov.Core()


class OpenVinoProgram:
    """An ONNX file or OpenVINO's own format on the CPU."""

    def __init__(self, path: Path, precisions: Sequence[str], num_threads: int, batch_sizes: Sequence[int] = ()) -> None:
        core = openvino_core()
        # without CPU instructions for it bfloat16 is emulated, slower than float32
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = choose(precisions, ["int8", "bf16", "f32"] if native else ["int8", "f32"], "OpenVINO")
        options = {
            # in an int8 program this applies to the layers that are not quantised
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }

        def compiled(size: int | None = None) -> "ov.InferRequest":
            model = core.read_model(path)
            check_outputs(len(model.outputs))
            if size is not None:  # a program for one batch size is some percent faster
                model.reshape({given: [size, *given.partial_shape[1:]] for given in model.inputs})
            return core.compile_model(model, "CPU", options).create_infer_request()

        self._sized = {size: compiled(size) for size in batch_sizes}
        self._any_size = None if self._is_enough_alone() else compiled()
        return_freed_memory()

    def _is_enough_alone(self) -> bool:
        """Whether the program for one crop answers all batches; then the others are dropped, whose activations are large."""
        if 1 not in self._sized:
            return False
        most = max(self._sized)
        for request in self._sized.values():
            for tensor in request.input_tensors:
                tensor.data[:] = 0
        if most > 1 and is_faster_whole(most, self._sized[1].infer, self._sized[most].infer):
            return False
        self._sized = {1: self._sized[1]}
        return True

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
        given = inputs(crops, ids)
        if self._any_size is None:
            return Answers(*map(np.concatenate, zip(*(self._infer(self._sized[1], one) for one in _singly(given)), strict=True)))
        return self._infer(self._sized.get(len(crops), self._any_size), given)

    @staticmethod
    def _infer(request: "ov.InferRequest", given: Sequence[np.ndarray]) -> Answers:
        answers = request.infer(dict(enumerate(given)))
        # copies: OpenVINO's own memory is overwritten by the next call
        return Answers(*(np.array(answers[index]) for index in range(len(Answers._fields))))


def _singly(given: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Inputs of B crops as B batches of one."""
    return (tuple(one[i : i + 1] for one in given) for i in range(len(given[0])))


class OnnxRuntimeProgram:
    """An ONNX file on the CPU by ONNX Runtime."""

    def __init__(self, path: Path, precisions: Sequence[str], num_threads: int, batch_sizes: Sequence[int] = ()) -> None:
        import onnxruntime

        self.precision = choose(precisions, ["int8", "f32"], "ONNX Runtime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        check_outputs(len(self._session.get_outputs()))

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
        return Answers(*self._session.run(None, dict(zip(INPUTS, inputs(crops, ids), strict=False))))


class TorchProgram:
    """A torch.export program: on a GPU in half precision, else on the CPU, as the reference."""

    def __init__(self, path: Path, precisions: Sequence[str], num_threads: int, batch_sizes: Sequence[int] = ()) -> None:
        import torch
        from torch.export.passes import move_to_device_pass

        self._torch = torch
        on_gpu = torch.cuda.is_available()
        halves = ["bf16", "f16"] if on_gpu and torch.cuda.is_bf16_supported() else ["f16"]
        self.precision = choose(precisions, [*halves, "f32"] if on_gpu else ["f32"], "torch")
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._half = {"bf16": torch.bfloat16, "f16": torch.float16}.get(self.precision)
        if not on_gpu:
            torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
        program = torch.export.load(path)
        check_outputs(len(program.graph_signature.user_outputs))
        self._module = (move_to_device_pass(program, self._device) if on_gpu else program).module()

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
        torch = self._torch
        half = torch.autocast(self._device.type, self._half or torch.bfloat16, enabled=self._half is not None)
        with torch.inference_mode(), half:
            outputs = self._module(*(torch.from_numpy(given).to(self._device) for given in inputs(crops, ids)))
        return Answers(*(output.float().cpu().numpy() for output in outputs))


PROGRAMS: dict[str, Callable[[Path, Sequence[str], int, Sequence[int]], Program]] = {
    "openvino": OpenVinoProgram,
    "openvino-int8": OpenVinoProgram,
    "onnxruntime": OnnxRuntimeProgram,
    "onnxruntime-int8": OnnxRuntimeProgram,
    "torch": TorchProgram,
}


def load_program(folder: Path, description: Mapping[str, Any], num_threads: int, batch_sizes: Sequence[int] = ()) -> Program:
    """The program in a folder, as its program.json describes it, with so many threads (0: one a core), for batches of any size.

    Batches of `batch_sizes` may be faster than others, at the price of memory; with 1 among them, OpenVINO answers crop by crop
    where this machine does that as fast.

    ValueError for an unknown format, or if this machine runs none of the archive's precisions.
    """
    if description["format"] not in PROGRAMS:
        raise ValueError(f"format is {description['format']!r}, expected one of {sorted(PROGRAMS)}")
    try:
        program = PROGRAMS[description["format"]]
        return program(folder / description["file"], list(description["precisions"]), num_threads, batch_sizes)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this archive's format is {description['format']}, whose library is not installed: pip install {error.name}"
        ) from error
