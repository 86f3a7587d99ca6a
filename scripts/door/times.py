"""Where a request's time went."""

import re
import time
from dataclasses import dataclass, field

# W3C Server-Timing: a metric's name and its duration in milliseconds
METRIC = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


@dataclass
class Times:
    """Seconds of one request: for its body, for its turn, and what the worker says of its own; and the bytes of its body."""

    started: float = field(default_factory=time.monotonic)
    body_s: float = 0.0
    queue_s: float = 0.0
    worker_s: dict[str, float] = field(default_factory=dict)
    received: int = 0
    ended: float | None = None

    def end(self) -> None:
        """The answer has been sent: the clock stops."""
        self.ended = time.monotonic()

    def queued(self, seconds: float) -> None:
        """A photo has waited for its turn. Of several, the longest wait counts."""
        self.queue_s = max(self.queue_s, seconds)

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
