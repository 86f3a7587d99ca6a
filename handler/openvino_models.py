"""A network on OpenVINO, compiled for each size of batch, or taken from what an earlier worker has kept (compiled.py)."""

import contextlib
import io
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from handler.compiled import NOT_KEPT, Compiled

if TYPE_CHECKING:
    import openvino as ov

ANY = 0  # among sizes of batches: any size
BATCHES = "batches"  # ends the name of what is kept about how batches are answered


@cache
def openvino_core() -> "ov.Core":
    """The process's only core, never dropped.

    Its CPU plugin replaces the thread's alternate signal stack and puts the earlier one back at its end: of two
    cores that end in the order in which they began, the second puts back a freed one, and the next signal kills.
    """
    import openvino as ov

    return ov.Core()


class OpenVinoModels:
    """An ONNX file, or OpenVINO's own format, compiled for one size of batch after the other."""

    def __init__(self, path: Path, precision: str, num_threads: int, kept: Compiled) -> None:
        """What is `kept` is read; nothing is written there before keep()."""
        self._path, self._kept, self._into = path, kept, NOT_KEPT
        self._prefix = beginning(path.name, precision)
        self._options = {
            # in an int8 program this applies to the layers that are not quantised
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        # compiled for one batch size a program is a tenth faster, at the price of about its weights' size in memory
        self._compiled: dict[int, ov.CompiledModel] = {}
        self._new: set[int] = set()  # of these, not taken from what was kept

    def compiled(self, size: int) -> "ov.CompiledModel":
        """For batches of this size."""
        if (content := self._kept.read(self._name(size))) is not None:
            with contextlib.suppress(Exception):  # whatever OpenVINO raises of it, it can be compiled
                self._compiled[size] = openvino_core().import_model(content, "CPU", self._options)
                return self._compiled[size]
        model = openvino_core().read_model(self._path)
        if size != ANY:
            model.reshape({given: [size, *given.partial_shape[1:]] for given in model.inputs})
        self._compiled[size] = openvino_core().compile_model(model, "CPU", self._options)
        self._new.add(size)
        self._write(size)
        return self._compiled[size]

    def leave(self, size: int) -> None:
        """Drop all but what is compiled for this size."""
        self._compiled = {size: self._compiled[size]}

    def how(self) -> str:
        """How batches are answered, as an earlier worker has kept it; "" if none has."""
        return (self._kept.read(self._name_of_how) or b"").decode(errors="replace")

    def keep(self, kept: Compiled, sizes: Collection[int], how: str) -> None:
        """Keep what is compiled here, and what will be, and how batches are answered; what is kept of other sizes goes."""
        self._into = kept
        kept.forget(self._prefix, {self._name_of_how, *map(self._name, sizes)})
        for size in self._compiled:
            self._write(size)
        if how != self.how():
            kept.write(self._name_of_how, how.encode())

    def _write(self, size: int) -> None:
        if not self._into.keeps or size not in self._new:
            return
        stream = io.BytesIO()
        try:
            self._compiled[size].export_model(stream)
        except Exception:  # it serves all the same, and the next worker compiles it; OpenVINO raises types of many kinds
            return
        self._into.write(self._name(size), stream.getbuffer())

    def _name(self, size: int) -> str:
        return f"{self._prefix}{size or 'any'}"

    @property
    def _name_of_how(self) -> str:
        return self._prefix + BATCHES


def beginning(file: str, precision: str) -> str:
    """With which the names begin of all that is kept of a file in a precision."""
    return f"{file}-{precision}-"
