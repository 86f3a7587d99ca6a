"""Who goes on to the workers, and when: by what a request costs, not by how many there are, and each model in its turn.

The workers get as much at a time as they need for full batches, within their budget of CPU. The rest waits here, where a client
that hangs up frees its place, and where a costly photo lets cheap ones pass. Golden photos of the server do not come this way:
behind what a worker has they wait for a batch or two.

Of several models with waiting requests that one goes next which has had the least CPU (start-time fair queueing, Goyal, Vin and
Cheng 1996), and a worker with nothing to do gets a request at once, whatever the others have.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from handler.cost import Cost
from scripts.door.errors import DoorError
from scripts.door.shares import Shares

# a second of CPU lets those pass that come so many seconds later and cost nothing
PATIENCE = 10.0


@dataclass(frozen=True)
class Limits:
    """What the workers get at a time: requests, CPU seconds, bytes; and what may wait, in CPU seconds."""

    running: int = 16
    running_cpu_s: float = 1.5
    running_bytes: int = 64 * 1024 * 1024
    waiting_cpu_s: float = 10.0
    each_worker: bool = True  # a model of which nothing runs gets a request beyond the first two


@dataclass(order=True)
class _Waiting:
    turn: float
    number: int
    cost: Cost = field(compare=False)
    go: asyncio.Future[None] = field(compare=False)


@dataclass
class _Flow:
    """One model's requests. `had_cpu_s` is what it has had, and at least what others had when it came."""

    running: int = 0
    running_cpu_s: float = 0.0
    had_cpu_s: float = 0.0
    waiting_cpu_s: float = 0.0
    waiting: list[_Waiting] = field(default_factory=list)  # a heap


class Admission:
    """Places at the workers. `cost.memory` is the photo's bytes here."""

    def __init__(self, limits: Limits, models: Callable[[], int] = lambda: 1) -> None:
        """`models()` is how many share the limits now."""
        self.limits, self.models = limits, models
        self.running, self.running_cpu_s, self.running_bytes = 0, 0.0, 0
        self._flows: dict[str, _Flow] = {}
        self._had_cpu_s = 0.0  # by the model whose turn it was last, before it had it
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(flow.waiting) for flow in self._flows.values())

    @property
    def waiting_cpu_s(self) -> float:
        """What they will cost."""
        return sum(flow.waiting_cpu_s for flow in self._flows.values())

    async def enter(self, cost: Cost, model: str = "") -> None:
        """Take a place, which `leave` frees, once there is one. DoorError 503 if too much of this model waits already."""
        flow = self._flows.setdefault(model, _Flow())
        if not flow.running and not flow.waiting:
            flow.had_cpu_s = max(flow.had_cpu_s, self._had_cpu_s)  # nobody saves up turns
        if self.waiting or not self._fits(cost, flow):
            await self._wait(cost, flow)
        else:
            self._take(cost, flow)

    def leave(self, cost: Cost, model: str = "") -> None:
        """Free a place that was taken."""
        self._free(cost, self._flows[model])
        self._next()

    def _fits(self, cost: Cost, flow: _Flow) -> bool:
        """Whether it may run now. What is over a limit by itself runs alone."""
        limits = self.limits
        if not self.running:
            return True
        if self.running_bytes + cost.memory > limits.running_bytes:
            return False
        if limits.each_worker and not flow.running:
            return True
        # a worker that is slow, or hangs, must not hold all places
        others = [other for other in self._flows.values() if other is not flow]
        places, cpu_s = self._shares()
        return places.has_room(flow.running + 1, [other.running for other in others]) and cpu_s.has_room(
            flow.running_cpu_s + cost.cpu_s, [other.running_cpu_s for other in others]
        )

    def _shares(self) -> tuple[Shares, Shares]:
        """Of places, and of CPU seconds, at the workers."""
        models = self.models()
        return Shares(self.limits.running, models), Shares(self.limits.running_cpu_s, models)

    def _take(self, cost: Cost, flow: _Flow) -> None:
        self.running, self.running_cpu_s = self.running + 1, self.running_cpu_s + cost.cpu_s
        self.running_bytes += cost.memory
        self._had_cpu_s = max(self._had_cpu_s, flow.had_cpu_s)
        flow.running, flow.running_cpu_s = flow.running + 1, flow.running_cpu_s + cost.cpu_s
        flow.had_cpu_s += cost.cpu_s

    def _free(self, cost: Cost, flow: _Flow) -> None:
        self.running, self.running_cpu_s = self.running - 1, self.running_cpu_s - cost.cpu_s
        self.running_bytes -= cost.memory
        flow.running, flow.running_cpu_s = flow.running - 1, flow.running_cpu_s - cost.cpu_s

    def _has_room(self, cost: Cost, flow: _Flow) -> bool:
        """Whether one more request may wait. The first of a model always may."""
        if not flow.waiting:
            return True
        shares = Shares(self.limits.waiting_cpu_s, self.models())
        others = [other.waiting_cpu_s for other in self._flows.values() if other is not flow]
        return shares.has_room(flow.waiting_cpu_s + cost.cpu_s, others)

    async def _wait(self, cost: Cost, flow: _Flow) -> None:
        if not self._has_room(cost, flow):
            raise DoorError(
                "the server is busy: send this request again later",
                503,
                "BusyError",
                retry_after_s=max(1.0, self.waiting_cpu_s / 2),
            )
        turn = time.monotonic() + PATIENCE * cost.cpu_s
        waiting = _Waiting(turn, next(self._numbers), cost, asyncio.get_running_loop().create_future())
        heapq.heappush(flow.waiting, waiting)
        flow.waiting_cpu_s += cost.cpu_s
        self._next()  # its turn may be before that of a costly one, for which there is no room
        try:
            await waiting.go
        except asyncio.CancelledError:
            if waiting in flow.waiting:
                flow.waiting.remove(waiting)
                flow.waiting_cpu_s -= cost.cpu_s
                heapq.heapify(flow.waiting)
            elif not waiting.go.cancelled():  # its turn came at the same moment
                self._free(cost, flow)
            self._next()
            raise

    def _next(self) -> None:
        """Let those in whose turn it is."""
        while flow := self._whose_turn():
            waiting = heapq.heappop(flow.waiting)
            flow.waiting_cpu_s -= waiting.cost.cpu_s
            if not waiting.go.done():
                self._take(waiting.cost, flow)
                waiting.go.set_result(None)

    def _whose_turn(self) -> _Flow | None:
        """The model whose first request may run now; None if nobody's may."""
        places, cpu_s = self._shares()
        for flow in sorted((flow for flow in self._flows.values() if flow.waiting), key=lambda flow: flow.had_cpu_s):
            if self._fits(flow.waiting[0].cost, flow):
                return flow
            if flow.running < places.own and flow.running_cpu_s < cpu_s.own:
                return None  # nobody goes past a model that waits for its own part
        return None
