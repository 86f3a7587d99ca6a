"""How many photos are labelled and how long the rest will take, on stderr: a bar on a terminal, else a line now and then."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from scripts.phrases import counted

EVERY_S = 30.0  # between two lines


class Progress:
    """Used with `with`. `count` may take long, and is called on a thread of its own; `done` were there before."""

    def __init__(self, count: Callable[[], int], done: int) -> None:
        self.done = done
        self.total: int | None = None
        self._before, self._started = done, time.monotonic()
        self._last = self._started
        self._bar: tqdm[Any] | None = tqdm(initial=done, unit="photo") if sys.stderr.isatty() else None
        threading.Thread(target=self._count, args=(count,), name="count", daemon=True).start()

    def _count(self, count: Callable[[], int]) -> None:
        try:
            self.total = count()
        except Exception:  # it can only be an error that the run itself meets, too
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self) -> None:
        """One photo more."""
        self.done += 1
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update()
        elif time.monotonic() - self._last >= EVERY_S:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Photos a second, of this run."""
        return (self.done - self._before) / max(1e-9, time.monotonic() - self._started)

    def line(self) -> str:
        """How far it is, for people."""
        rate = self.rate
        if self.total is None:
            return f"{counted(self.done, 'photo')}, {rate:.1f} photos/s"
        left_s = max(0, self.total - self.done) / max(1e-9, rate)
        return f"{self.done} of {counted(self.total, 'photo')}, {rate:.1f} photos/s, {duration(left_s)} left"


def duration(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
