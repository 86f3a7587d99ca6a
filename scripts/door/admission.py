"""Who goes on to the worker, and when: by what a request costs, not by how many there are.

The worker gets as much at a time as it needs for full batches, within its budget of CPU. The rest waits here, where a client that
hangs up frees its place, and where a costly photo lets cheap ones pass. Golden photos of the server do not come this way: behind
what the worker has they wait for a batch or two.
"""

import asyncio
import heapq
import itertools
import time
from dataclasses import dataclass, field

from handler.cost import Cost
from scripts.door.errors import DoorError

# a second of CPU lets those pass that come so many seconds later and cost nothing
PATIENCE = 10.0


@dataclass(frozen=True)
class Limits:
    """What the worker gets at a time: requests, CPU seconds, bytes; and what may wait, in CPU seconds."""

    running: int = 16
    running_cpu_s: float = 1.5
    running_bytes: int = 64 * 1024 * 1024
    waiting_cpu_s: float = 10.0


@dataclass(order=True)
class _Waiting:
    turn: float
    number: int
    cost: Cost = field(compare=False)
    go: asyncio.Future[None] = field(compare=False)


class Admission:
    """Places at one worker. `cost.memory` is the photo's bytes here."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running, self.running_cpu_s, self.running_bytes = 0, 0.0, 0
        self.waiting_cpu_s = 0.0
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    async def enter(self, cost: Cost) -> None:
        """Take a place, which `leave` frees, once there is one. DoorError 503 if too much waits already."""
        if self._waiting or not self._fits(cost):
            await self._wait(cost)
        else:
            self._take(cost)

    def leave(self, cost: Cost) -> None:
        """Free a place that was taken."""
        self._free(cost)
        self._next()

    def _fits(self, cost: Cost) -> bool:
        """Whether it may run now. What is over a limit by itself runs alone."""
        limits = self.limits
        return not self.running or (
            self.running < limits.running
            and self.running_cpu_s + cost.cpu_s <= limits.running_cpu_s
            and self.running_bytes + cost.memory <= limits.running_bytes
        )

    def _take(self, cost: Cost) -> None:
        self.running, self.running_cpu_s = self.running + 1, self.running_cpu_s + cost.cpu_s
        self.running_bytes += cost.memory

    def _free(self, cost: Cost) -> None:
        self.running, self.running_cpu_s = self.running - 1, self.running_cpu_s - cost.cpu_s
        self.running_bytes -= cost.memory

    async def _wait(self, cost: Cost) -> None:
        if self._waiting and self.waiting_cpu_s + cost.cpu_s > self.limits.waiting_cpu_s:
            raise DoorError(
                "the server is busy: send this request again later",
                503,
                "BusyError",
                retry_after_s=max(1.0, self.waiting_cpu_s / 2),
            )
        turn = time.monotonic() + PATIENCE * cost.cpu_s
        waiting = _Waiting(turn, next(self._numbers), cost, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiting)
        self.waiting_cpu_s += cost.cpu_s
        self._next()  # its turn may be before that of a costly one, for which there is no room
        try:
            await waiting.go
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._leave(waiting)
                heapq.heapify(self._waiting)
            elif not waiting.go.cancelled():  # its turn came at the same moment
                self._free(cost)
            self._next()
            raise

    def _leave(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        self.waiting_cpu_s -= waiting.cost.cpu_s

    def _next(self) -> None:
        """Let those in whose turn it is."""
        while self._waiting and self._fits(self._waiting[0].cost):
            waiting = heapq.heappop(self._waiting)
            self.waiting_cpu_s -= waiting.cost.cpu_s
            if not waiting.go.done():
                self._take(waiting.cost)
                waiting.go.set_result(None)
