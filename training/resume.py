"""What a run needs to go on where it stopped: progress, signals, and the file that carries it all.

Randomness needs no state here: what a step draws is a function of seed and step (training/data/loader.py, training/recipe.py).
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

from training.data.sets import Data
from training.model import save_whole
from training.params import Params

STATE = "last.pt"
# parameters that a resumed run may change: they do not touch the result
FREE = {"workers", "checkpoint_minutes"}


@dataclass
class Progress:
    """How far a run is: `step` counts optimizer steps; the three sums are of the epoch that is not finished, over all ranks."""

    step: int = 0
    seen: float = 0.0
    loss_sum: float = 0.0
    hits: float = 0.0
    epochs: int = 0
    best: float = float("-inf")
    epochs_since_best: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(path: Path, progress: Progress, params: Params, data: Data, **parts: dict[str, Any]) -> None:
    """Write the state of a run whole or not at all. OSError if the disk is full; the state before stays."""
    run = {"params": params.model_dump(), "labels": data.labels, "fingerprint": data.fingerprint, "root": str(data.root or "")}
    save_whole({"progress": vars(progress), **run, **parts}, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of a run in a file, None if there is none. ValueError if it cannot be read."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert {"progress", "params", "labels", "fingerprint", "root"} <= state.keys()
    except Exception as error:  # torch.load raises pickle, zip, key and type errors alike
        raise ValueError(f"{path} holds no state of a run ({error}); to start anew, choose another --out") from error
    return dict(state)


def run_in(out: Path) -> tuple[Path | None, Params]:
    """Data folder and parameters of the run in the folder `out`. ValueError if there is none."""
    state = load_state(out / STATE)
    if state is None:
        raise ValueError(f"no run to go on with in {out}: {STATE} is missing")
    return Path(state["root"]) if state["root"] else None, Params(**state["params"])


def check_same_run(state: dict[str, Any], params: Params, data: Data, path: Path) -> None:
    """ValueError unless a state is of these parameters and this data; it names what differs."""
    old, new = state["params"], params.model_dump()
    changed = [f"{k} {old.get(k)!r} -> {new.get(k)!r}" for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    changed = [change for change in changed if change.split()[0] not in FREE]
    anew = f"{path} is of another run; to start anew, choose another --out"
    if changed:
        raise ValueError(f"parameters have changed: {', '.join(changed)}. {anew}")
    if tuple(state["labels"]) != data.labels:
        differing = sorted(set(state["labels"]) ^ set(data.labels)) or "their order"
        raise ValueError(f"the label map has changed: {differing} in one of the two only. {anew}")
    if state["fingerprint"] != data.fingerprint:
        raise ValueError(f"the photos have changed: fingerprint {state['fingerprint'][:12]} -> {data.fingerprint[:12]}. {anew}")


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """The run ends before its time, its state saved; the number of the signal that wanted it is `args[0]`."""


class Signals(AbstractContextManager["Signals"]):
    """Within `with`, SIGTERM and SIGINT are noted in `received`, for the run to end after its step; Ctrl-C twice: at once."""

    def __init__(self) -> None:
        self.received, self._interrupt = 0, False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
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


def agree(wish: int) -> int:
    """The greatest wish of all ranks, so that they save and stop after the same step."""
    if not dist.is_initialized():
        return wish
    wishes = torch.tensor(wish)
    dist.all_reduce(wishes, dist.ReduceOp.MAX)
    return int(wishes)


def total(values: list[float], device: torch.device) -> list[float]:
    """Sum of each value over all ranks."""
    if not dist.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return [float(v) for v in sums]
