"""A network on OpenVINO that answers batches of any size, in the parts that are the fastest on this machine.

A crop alone is answered by all threads. The crops of a batch are answered side by side, in as many streams of threads as there are
cores: in parts of one crop, or in larger ones where settle() finds that these are faster.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from handler.batching import is_faster_in_parts
from handler.compiled import Compiled
from handler.openvino_models import ANY, Form, OpenVinoModels

if TYPE_CHECKING:
    import openvino as ov

Outputs = tuple[np.ndarray, ...]


class OpenVinoNetwork:
    """Inputs of B crops, each an array (B, ...), to the outputs, each (B, ...)."""

    def __init__(
        self, path: Path, precision: str, num_threads: int, most: int, kept: Compiled, in_float: bool | None = None
    ) -> None:
        """For batches of any size, and of up to `most` the faster: ANY is for any size, in one form that takes the least memory.

        `num_threads` is 0 for one a core. What an earlier worker has `kept` is used. `in_float` as OpenVinoModels has it.
        """
        self._models = OpenVinoModels(path, precision, num_threads, kept, in_float)
        self._most = most
        streams = max(1, min(num_threads or len(os.sched_getaffinity(0)), most))
        self._alone, self._single = (Form(1), Form(1, streams)) if most else (Form(ANY), Form(ANY))
        self._requests: dict[Form, list[BoundRequest]] = {}
        for form in {self._alone, self._single}:
            self._prepare(form)
        # OpenVINO has no more than there are cores: of two threads on one core it may take one
        self._streams = self._models.streams(self._single) if streams > 1 else 1
        # parts in which a full batch is spread over the streams
        self._larger = Form(-(-most // self._streams), self._streams)
        how = self._models.how()
        self._part = self._larger if how == self._how(self._larger) else self._single
        self._is_settled = self._larger.size == 1 or most == ANY or how == self._how(self._part)
        if self._part == self._larger:
            self._prepare(self._larger)

    @property
    def outputs(self) -> int:
        """Their number."""
        return self._requests[self._alone][0].count

    @property
    def in_float(self) -> bool:
        """Whether an int8 network is computed in float32, as this CPU's int8 is inexact."""
        return self._models.in_float

    @property
    def singly(self) -> bool:
        """Whether the crops of a batch are answered each by itself."""
        return self._part.size == 1

    @property
    def batches(self) -> str:
        """How a batch is answered, in words."""
        if self._part.size == ANY:
            return "whole"
        parts = "one by one" if self.singly else f"in parts of {self._part.size}"
        return parts if self._streams == 1 else f"{parts}, {self._streams} side by side"

    def _prepare(self, form: Form) -> None:
        """Compile it, or take what was kept; with as many requests as a full batch needs."""
        compiled = self._models.compiled(form)
        parts = self._most // form.size if form.size and (form != self._alone or form == self._single) else 1
        self._requests[form] = [BoundRequest(compiled, form) for _ in range(parts)]

    def _how(self, part: Form) -> str:
        return f"{part.size} of {self._most}"  # for another largest batch it is measured anew

    def settle(self) -> None:
        """Decide in which parts batches are answered, unless an earlier worker has. What is compiled for others is freed."""
        if self._is_settled:
            return
        self._is_settled = True
        self._prepare(self._larger)
        zeros = [np.zeros((self._most, *one.shape[1:]), one.dtype) for one in self._requests[self._single][0].given]
        if is_faster_in_parts(lambda: self._in_parts(zeros, self._single), lambda: self._in_parts(zeros, self._larger)):
            self._part = self._larger
        else:
            del self._requests[self._larger]
            self._models.drop(self._larger)

    def keep(self, kept: Compiled) -> None:
        """Once it is settled: keep what was compiled for the next worker."""
        self._models.keep(kept, self._how(self._part))

    def infer(self, given: Sequence[np.ndarray]) -> Outputs:
        """The outputs for B crops."""
        if self._most == ANY or len(given[0]) == 1:
            return self._requests[self._alone][0].infer(given)
        return tuple(map(np.concatenate, zip(*self._in_parts(given, self._part), strict=True)))

    def _in_parts(self, given: Sequence[np.ndarray], part: Form) -> list[Outputs]:
        """The outputs of a batch, in parts of this form; the crops that are left over are single."""
        outputs: list[Outputs] = []
        for first in range(0, len(given[0]), self._most):
            several = [each[first : first + self._most] for each in given]
            count = len(several[0])
            # in a batch that is not full, streams that share the crops are done before one that answers a whole part
            is_shared = -(-count // self._streams) < part.size
            in_parts = 0 if is_shared else count // part.size * part.size
            spans = [(part, i) for i in range(0, in_parts, part.size)] + [(self._single, i) for i in range(in_parts, count)]
            free = {form: iter(self._requests[form]) for form in (part, self._single)}
            outputs += _answered([(next(free[form]), [each[i : i + form.size] for each in several]) for form, i in spans])
        return outputs


class BoundRequest:
    """OpenVINO's request for one inference at a time, of crops of a form, bound to arrays of its own."""

    def __init__(self, compiled: "ov.CompiledModel", form: Form) -> None:
        self._request = compiled.create_infer_request()
        self.count = len(self._request.output_tensors)
        # its own memory, where the size is fixed: handing over other arrays takes OpenVINO's Python longer
        self.given = [tensor.data for tensor in self._request.input_tensors] if form.size != ANY else []
        self._outputs = [tensor.data for tensor in self._request.output_tensors] if form.size != ANY else []

    def infer(self, given: Sequence[np.ndarray]) -> Outputs:
        """The outputs for these, on the calling thread."""
        self._request.infer(self._take(given), share_outputs=True)
        return self.outputs()

    def start(self, given: Sequence[np.ndarray]) -> None:
        """Begin; wait() until outputs() has them."""
        self._request.start_async(self._take(given))

    def wait(self) -> None:
        """Until it has ended. Raises whatever OpenVINO does where it fails."""
        self._request.wait()

    def outputs(self) -> Outputs:
        """Copies: OpenVINO's own memory is overwritten by the next call."""
        return tuple(np.array(one) for one in self._outputs or [tensor.data for tensor in self._request.output_tensors])

    def _take(self, given: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        if not self.given:
            return dict(enumerate(given))
        for own, one in zip(self.given, given, strict=True):
            if own.shape != one.shape or own.dtype != one.dtype:
                raise ValueError(f"given {one.dtype} {one.shape}, the network takes {own.dtype} {own.shape}")
            own[...] = one
        return {}


def _answered(started: Sequence[tuple[BoundRequest, Sequence[np.ndarray]]]) -> list[Outputs]:
    """The outputs of requests for what each is given: side by side, where they are of several streams."""
    with contextlib.ExitStack() as waiting:
        for request, given in started:
            request.start(given)
            waiting.callback(request.wait)  # of all, even where one fails: none may be under way in the next batch
    return [request.outputs() for request, _ in started]
