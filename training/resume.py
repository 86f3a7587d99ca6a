"""What a run needs to be resumed where it stopped: progress, signals, and the file that holds its state.

No random state is saved: what a step draws is a function of seed and step (training/data/loader.py, training/recipe.py).
"""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from scripts.command import ending_signals
from scripts.errors import SeeFoodError
from training.data.sets import Data
from training.model import save_whole
from training.params import Params, defaults

STATE = "last.pt"
# parameters that a resumed run may change: they do not touch the result, accumulate no more than the number of processes does
FREE = {"workers", "cache", "checkpoint_minutes", "accumulate"}


class OtherRunError(SeeFoodError, ValueError):
    """The folder holds a run of another model, other parameters or other data."""


@dataclass
class Progress:
    """How far a run is: `step` counts optimizer steps; `seen`, `loss_sum`, `hits` are of the unfinished epoch, over all ranks."""

    step: int = 0
    seen: float = 0.0
    loss_sum: float = 0.0
    hits: float = 0.0
    epochs: int = 0
    best: float = float("-inf")
    epochs_since_best: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    path: Path, name: str, progress: Progress, params: Params, data: Data, teacher: list[str], **parts: dict[str, Any]
) -> None:
    """Write the state of a run whole or not at all. OSError if the disk is full; the state before stays.

    `teacher` is the sha256 of each checkpoint that it learns from.
    """
    run = {"name": name, "params": params.model_dump(), "labels": data.labels, "fingerprint": data.fingerprint}
    save_whole({"progress": vars(progress), **run, "root": str(data.root or ""), "teacher": teacher, **parts}, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of a run in a file, None if there is none. ValueError if it cannot be read."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert {"progress", "params", "labels", "fingerprint", "root"} <= state.keys()
    except Exception as error:  # torch.load raises pickle, zip, key and type errors alike
        raise ValueError(
            f"{path} does not hold the state of a run ({error}); to start over, remove it or train into another folder (--out)"
        ) from error
    return dict(state)


def read_run(out: Path, name: str | None) -> tuple[str, Path | None, Params]:
    """Model name, data folder and parameters of the run in the folder `out`; `name`, if given, is its model name.

    ValueError if there is no run, or no name.
    """
    state = load_state(out / STATE)
    if state is None:
        raise ValueError(f"no run to resume in {out}: {STATE} is missing, so nothing was saved there; start a new run")
    name = name or state.get("name")
    if name is None:
        raise ValueError(f"the run in {out} has no model name: give MODEL=NAME (--model)")
    return name, Path(state["root"]) if state["root"] else None, Params(**state["params"])


def check_same_run(state: dict[str, Any], name: str, params: Params, data: Data, teacher: list[str], path: Path) -> None:
    """OtherRunError, naming what differs, unless a state is of this model, these parameters, this data and this teacher."""
    old, new = defaults() | state["params"], params.model_dump()  # a run of an older version goes on
    names = sorted(key for key in (old.keys() | new.keys()) - FREE - {"teacher"} if old.get(key) != new.get(key))
    advice = f"{path} holds another run; to start over, choose another folder (RUN=, --out)"
    if state.get("name", name) != name:
        raise OtherRunError(f"the model's name has changed: {state['name']} -> {name}. {advice}")
    if names:
        changes = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in names)
        raise OtherRunError(f"parameters have changed: {changes}. {advice}")
    if tuple(state["labels"]) != data.labels:
        differing = sorted(set(state["labels"]) ^ set(data.labels)) or "their order"
        raise OtherRunError(f"the label map has changed: {differing} in one of the two only. {advice}")
    if state.get("teacher", []) != teacher:
        raise OtherRunError(f"the teacher has changed: another model is in {params.teacher}. {advice}")
    if state["fingerprint"] != data.fingerprint:
        prints = f"{state['fingerprint'][:12]} -> {data.fingerprint[:12]}"
        raise OtherRunError(f"the photos have changed: fingerprint {prints}. {advice}")


class Stopped(Exception):  # noqa: N818 - not an error: it was asked for
    """The run ends early, its state saved; `args[0]` is the number of the signal, 0 if its caller ended it."""


class Signals(AbstractContextManager["Signals"]):
    """Within `with`, a signal is noted in `received`, and the run ends after its step; a second Ctrl-C ends it at once.

    Noted and not raised: ranks must stop after the same step, and one that left a collective half-way would hang the others.
    """

    def __init__(self) -> None:
        self.received, self._interrupt = 0, False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in ending_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if self._interrupt:
            raise Stopped(number)

    @contextmanager
    def interrupt(self) -> Iterator[None]:
        """Within this `with`, which must leave nothing half-done, a signal raises Stopped where it comes."""
        if self.received:
            raise Stopped(self.received)
        self._interrupt = True
        try:
            yield
        finally:
            self._interrupt = False


def agree(request: int) -> int:
    """The greatest request of all ranks, so that they save and stop after the same step; waits for them all."""
    if not dist.is_initialized():
        return request
    requests = torch.tensor(request)
    dist.all_reduce(requests, dist.ReduceOp.MAX)
    return int(requests)


def total(values: list[float], device: torch.device) -> list[float]:
    """Sum of each value over all ranks."""
    if not dist.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return [float(v) for v in sums]
