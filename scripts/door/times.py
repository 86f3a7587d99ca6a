"""Where a request's time went."""

import re
import time
from dataclasses import dataclass, field
from typing import NamedTuple

# W3C Server-Timing: a metric's name and its duration in milliseconds
METRIC = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


class Step(NamedTuple):
    """What a request did for a photo: "queue" or "backend", from `began` to `ended` by the monotonic clock.

    `number`: the photo's among several, from 0. A call of the backend has the answer's status and the worker's Server-Timing, or
    the error's name and words; `explain`: it was asked for a heat map.
    """

    name: str
    number: int | None
    began: float
    ended: float
    status: int = 0
    timing: str = ""
    error: tuple[str, str] | None = None
    explain: bool = False


@dataclass
class Times:
    """Seconds of one request: for its body, for its turn, and what the worker says of its own; and the bytes of its body."""

    started: float = field(default_factory=time.monotonic)
    body_s: float = 0.0
    queue_s: float = 0.0
    worker_s: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    received: int = 0
    answered: float | None = None
    ended: float | None = None

    @property
    def answer_s(self) -> float | None:
        """From the whole body of photos to the answer's first byte; None without such a body, or an answer."""
        return self.answered - self.started - self.body_s if self.body_s and self.answered else None

    def end(self) -> None:
        """The answer has been sent: the clock stops."""
        self.ended = time.monotonic()

    def queued(self, began: float, number: int | None) -> None:
        """A photo has waited for its turn since then. Of several, the longest wait counts."""
        ended = time.monotonic()
        self.queue_s = max(self.queue_s, ended - began)
        self.steps.append(Step("queue", number, began, ended))

    def asked(self, began: float, number: int | None, status: int, timing: str, explain: bool = False) -> None:
        """The backend, asked then, has answered a photo with this status and this Server-Timing."""
        self.steps.append(Step("backend", number, began, time.monotonic(), status, timing, explain=explain))
        self.take_worker(timing)

    def failed(self, began: float, number: int | None, error: BaseException, explain: bool = False) -> None:
        """The backend, asked then, has not answered."""
        # no error in this object: its traceback holds the photo
        words = type(error).__name__, str(error)
        self.steps.append(Step("backend", number, began, time.monotonic(), error=words, explain=explain))

    def take_worker(self, server_timing: str) -> None:
        """The worker's Server-Timing header. Of several photos, the longest of each counts."""
        for name, milliseconds in METRIC.findall(server_timing):
            self.worker_s[name] = max(self.worker_s.get(name, 0.0), float(milliseconds) / 1000)

    @property
    def total_s(self) -> float:
        """Since the request's head was read, until the answer has been sent."""
        return (self.ended or time.monotonic()) - self.started

    def _parts(self) -> list[tuple[str, float]]:
        return [("body", self.body_s), ("queue", self.queue_s), *self.worker_s.items(), ("total", self.total_s)]

    def in_ms(self) -> dict[str, float]:
        """Each part in milliseconds, and the total."""
        return {name: round(1000 * seconds, 1) for name, seconds in self._parts()}

    def header(self) -> str:
        """The Server-Timing of the answer."""
        return ", ".join([f"{name};dur={1000 * seconds:.1f}" for name, seconds in self._parts()])
