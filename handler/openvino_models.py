"""A network on OpenVINO, compiled for each size of batch, or taken from what an earlier worker has kept (compiled.py).

A size is compiled for all threads together, by which one batch is answered soonest, or for several streams of some threads
each: they answer as many batches side by side, and none waits for the slowest thread of another.
"""

import contextlib
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from handler.compiled import NOT_KEPT, Compiled
from handler.cpu import adds_int8_exactly

if TYPE_CHECKING:
    import openvino as ov

ANY = 0  # among sizes of batches: any size
BATCHES = "batches"  # ends the name of what is kept about how batches are answered


class Form(NamedTuple):
    """For which size of batches a network is compiled, and how many of them are answered side by side."""

    size: int
    streams: int = 1


@cache
def openvino_core() -> "ov.Core":
    """The process's only core, never dropped.

    Its CPU plugin replaces the thread's alternate signal stack and puts the earlier one back at its end: of two
    cores that end in the order in which they began, the second puts back a freed one, and the next signal kills.
    """
    import openvino as ov

    return ov.Core()


def compute_in_float(model: "ov.Model") -> None:
    """Of an int8 network by NNCF keep the rounded weights, as float32, and round no activations: it answers nearly the same."""
    from openvino.passes import ConstantFolding, Manager

    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() != "Constant":
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(node.input_value(0))
    # else OpenVINO multiplies weights of int8 by activations of float32, which not every CPU does
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)


class OpenVinoModels:
    """An ONNX file, or OpenVINO's own format, compiled for one size of batch after the other."""

    def __init__(self, path: Path, precision: str, num_threads: int, kept: Compiled, in_float: bool | None = None) -> None:
        """What is `kept` is read; nothing is written there before keep(). `in_float` is None for what this CPU needs of int8."""
        is_int8 = precision.startswith("int8")
        self.in_float = is_int8 and (not adds_int8_exactly() if in_float is None else in_float)
        self._path, self._kept, self._into = path, kept, NOT_KEPT
        self._prefix = beginning(path.name, precision)
        self._options = {
            # in an int8 program this applies to the layers that are not quantised
            "INFERENCE_PRECISION_HINT": "bf16" if precision in ("bf16", "int8+bf16") and not self.in_float else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            # pinned threads of several workers would have the same cores
            **({"ENABLE_CPU_PINNING": False} if num_threads else {}),
        }
        # compiled for one batch size a program is a tenth faster, at the price of about its weights' size in memory
        self._compiled: dict[Form, ov.CompiledModel] = {}
        self._new: set[Form] = set()  # of these, not taken from what was kept

    def compiled(self, form: Form) -> "ov.CompiledModel":
        """In this form."""
        options = self._options | ({"PERFORMANCE_HINT": "LATENCY"} if form.streams == 1 else {"NUM_STREAMS": form.streams})
        if (content := self._kept.read(self._name(form))) is not None:
            with contextlib.suppress(Exception):  # whatever OpenVINO raises of it, it can be compiled
                self._compiled[form] = openvino_core().import_model(content, "CPU", options)
                return self._compiled[form]
        model = openvino_core().read_model(self._path)
        if self.in_float:
            compute_in_float(model)
        if form.size != ANY:
            model.reshape({given: [form.size, *given.partial_shape[1:]] for given in model.inputs})
        self._compiled[form] = openvino_core().compile_model(model, "CPU", options)
        self._new.add(form)
        self._write(form)
        return self._compiled[form]

    def streams(self, form: Form) -> int:
        """How many streams it has where it is compiled."""
        return int(self._compiled[form].get_property("NUM_STREAMS"))

    def drop(self, form: Form) -> None:
        """Free what is compiled in this form."""
        del self._compiled[form]

    def how(self) -> str:
        """How batches are answered, as an earlier worker has kept it; "" if none has."""
        return (self._kept.read(self._name_of_how) or b"").decode(errors="replace")

    def keep(self, kept: Compiled, how: str) -> None:
        """Keep what is compiled here, and how batches are answered; what is kept in other forms goes."""
        self._into = kept
        kept.forget(self._prefix, {self._name_of_how, *map(self._name, self._compiled)})
        for form in self._compiled:
            self._write(form)
        if how != self.how():
            kept.write(self._name_of_how, how.encode())

    def _write(self, form: Form) -> None:
        if not self._into.keeps or form not in self._new:
            return
        stream = io.BytesIO()
        try:
            self._compiled[form].export_model(stream)
        except Exception:  # it serves all the same, and the next worker compiles it; OpenVINO raises types of many kinds
            return
        self._into.write(self._name(form), stream.getbuffer())

    def _name(self, form: Form) -> str:
        return f"{self._prefix}{form.size or 'any'}" + (f"x{form.streams}" if form.streams > 1 else "")

    @property
    def _name_of_how(self) -> str:
        return self._prefix + BATCHES


def beginning(file: str, precision: str) -> str:
    """With which the names begin of all that is kept of a file in a precision."""
    return f"{file}-{precision}-"
