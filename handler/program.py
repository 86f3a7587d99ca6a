"""The exported program on this machine: uint8 crops -> probabilities, confidence, features, by OpenVINO, ONNX Runtime or torch.

The program of a model that reads texts takes their ids beside the crops (text.py).
An archive holds each program, a format in a precision, that passed the accuracy gate; program.json names them and their files.
Which of them serves: choice.py.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from handler.compiled import NOT_KEPT, Compiled
from handler.openvino_models import ANY, openvino_core
from handler.openvino_network import OpenVinoNetwork

# by the names that an ONNX file has for them; the second where the model reads texts
INPUTS = ("crops", "ids")
CONVERTER = "openvino.tools.ovc"  # which `import openvino` imports, if it is there


class Answers(NamedTuple):
    """For B crops, all float32: probabilities (B, num_classes), confidence (B,), the last layer's input, features (B, D)."""

    probabilities: np.ndarray
    confidence: np.ndarray
    features: np.ndarray


class Program(Protocol):
    """uint8 crops (B, H, W, 3) -> Answers, for any B from 1; with int64 ids (B, L) of texts, where the model reads them."""

    precision: str

    @property
    def in_float(self) -> bool:
        """Whether an int8 program is computed in float32, as this CPU's int8 is inexact (cpu.py)."""

    @property
    def singly(self) -> bool:
        """Whether the crops of a batch are answered each by itself."""

    @property
    def batches(self) -> str:
        """How a batch is answered, in words."""

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers: ...

    def settle(self) -> None:
        """Decide how batches are answered, as an earlier worker did or by measuring, and drop what is not needed."""

    def keep(self, kept: Compiled) -> None:
        """Once it is settled: keep what loading computed, if the format's library can, for the next worker."""


def inputs(crops: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """What a program takes: crops, and ids where there are any."""
    return (crops,) if ids is None else (crops, ids)


def check_possible(precision: str, possible: Collection[str], library: str) -> None:
    """ValueError unless a precision is among those that are possible here."""
    if precision not in possible:
        raise ValueError(f"this machine's {library} runs {', '.join(possible)}, not {precision}")


def check_outputs(count: int) -> None:
    """ValueError unless a program has the outputs of Answers."""
    if count != len(Answers._fields):
        raise ValueError(f"the program has {count} outputs, expected {', '.join(Answers._fields)}: export it again, make export")


class OpenVinoProgram(OpenVinoNetwork):
    """An ONNX file or OpenVINO's own format on the CPU."""

    def __init__(
        self,
        path: Path,
        precision: str,
        num_threads: int,
        batch_sizes: Sequence[int] = (),
        kept: Compiled = NOT_KEPT,
        in_float: bool | None = None,
    ) -> None:
        # without CPU instructions for it bfloat16 is emulated, slower than float32
        native = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        check_possible(precision, ["int8", "int8+bf16", "bf16", "f32"] if native else ["int8", "f32"], "OpenVINO")
        self.precision = precision
        super().__init__(path, precision, num_threads, max(batch_sizes, default=ANY), kept, in_float)
        check_outputs(self.outputs)

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
        return Answers(*self.infer(inputs(crops, ids)))


class OnnxRuntimeProgram:
    """An ONNX file on the CPU by ONNX Runtime."""

    in_float, singly, batches = False, False, "whole"

    def __init__(
        self, path: Path, precision: str, num_threads: int, batch_sizes: Sequence[int] = (), kept: Compiled = NOT_KEPT
    ) -> None:
        import onnxruntime

        check_possible(precision, ["int8", "f32"], "ONNX Runtime")
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # exact int8 on CPUs without VNNI, too (cpu.py)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        check_outputs(len(self._session.get_outputs()))

    def __call__(self, crops: np.ndarray, ids: np.ndarray | None = None) -> Answers:
        return Answers(*self._session.run(None, dict(zip(INPUTS, inputs(crops, ids), strict=False))))

    def settle(self) -> None:
        """Nothing: batches are answered whole."""

    def keep(self, kept: Compiled) -> None:
        """Nothing: this library has no compiled programs to keep."""


class TorchProgram:
    """A torch.export program: on a GPU in half precision, else on the CPU, as the reference."""

    in_float, singly, batches = False, False, "whole"

    def __init__(
        self, path: Path, precision: str, num_threads: int, batch_sizes: Sequence[int] = (), kept: Compiled = NOT_KEPT
    ) -> None:
        import torch
        from torch.export.passes import move_to_device_pass

        self._torch = torch
        on_gpu = torch.cuda.is_available()
        halves = ["bf16", "f16"] if on_gpu and torch.cuda.is_bf16_supported() else ["f16"]
        check_possible(precision, [*halves, "f32"] if on_gpu else ["f32"], "torch")
        self.precision = precision
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

    def settle(self) -> None:
        """Nothing: batches are answered whole."""

    def keep(self, kept: Compiled) -> None:
        """Nothing: this library has no compiled programs to keep."""


PROGRAMS: dict[str, Callable[..., Program]] = {
    "openvino": OpenVinoProgram,
    "openvino-int8": OpenVinoProgram,
    "onnxruntime": OnnxRuntimeProgram,
    "onnxruntime-int8": OnnxRuntimeProgram,
    "torch": TorchProgram,
}


def program_name(format_name: str, precision: str) -> str:
    """By which a program is known, from program.json to FORMAT=: openvino/bf16."""
    return f"{format_name}/{precision}"


def programs_of(description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What program.json says of each program by its name: format, precision, file and metrics.

    Archives of earlier versions have one format, and name a program by its precision alone.
    """
    if "programs" in description:
        return dict(description["programs"])
    about = {key: description[key] for key in ("format", "file")}
    return {name: {**about, "precision": name, **metrics} for name, metrics in description["precisions"].items()}


def import_library(programs: Mapping[str, Mapping[str, Any]]) -> None:
    """Import OpenVINO if one of the programs is its own: some tenths of a second. What is not installed shows in open_program.

    For a worker: OpenVINO's converter of models, a third of that, is left out.
    """
    if any(about["format"].startswith("openvino") for about in programs.values()):
        with contextlib.suppress(ImportError), _left_out(CONVERTER):
            openvino_core()


@contextlib.contextmanager
def _left_out(module: str) -> Iterator[None]:
    """Inside, importing this module is an ImportError, unless it has been imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what Python has for a module that is not to be found
    try:
        yield
    finally:
        del sys.modules[module]


def open_program(
    folder: Path, about: Mapping[str, Any], num_threads: int, batch_sizes: Sequence[int] = (), kept: Compiled = NOT_KEPT
) -> Program:
    """The program in a folder that programs_of() says this about, with so many threads (0: one a core), for batches of any size.

    Batches of `batch_sizes` may be faster than others, at the price of memory. What an earlier worker `kept` is used.

    ValueError for an unknown format, or if this machine does not run it.
    """
    if about["format"] not in PROGRAMS:
        raise ValueError(f"format is {about['format']!r}, expected one of {sorted(PROGRAMS)}")
    try:
        return PROGRAMS[about["format"]](folder / about["file"], about["precision"], num_threads, batch_sizes, kept)
    except ModuleNotFoundError as error:
        raise ValueError(f"the library of the format {about['format']} is not installed: pip install {error.name}") from error


def load_program(folder: Path, description: Mapping[str, Any], num_threads: int, batch_sizes: Sequence[int] = ()) -> Program:
    """The first of an exported folder's programs that this machine runs; see open_program. ValueError if it runs none."""
    reasons = []
    for about in programs_of(description).values():
        try:
            return open_program(folder, about, num_threads, batch_sizes)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))
