"""Load on an HTTP server by one cheap process, as it often shares the cores with the server that it measures.

Requests are bytes built beforehand, sent over keep-alive connections by plain asyncio protocols: no task, no future and no
header object for a request. Closed loop: each of N connections sends its next request when it is answered. Open loop:
requests come at random times of a fixed average rate whether or not the server keeps up, and their latency counts from
the time when they were due, so that a stall is seen by all whom it would have met. HTTP/1.1 alone, no redirects.
"""

import asyncio
import itertools
import random
import selectors
import time
from collections import deque
from collections.abc import Sequence

from scripts.bench.connection import Connection, Failure, Job, State
from scripts.bench.http_message import Answer, Target
from scripts.bench.result import Result

CLOCK_PERIOD_S = 0.02  # how often time-outs are looked for, and the event loop's lateness noted
RETRY_S = 0.1  # a closed loop would else spin on a server that refuses
MAX_OPEN_LOOP_CONNECTIONS = 400  # more requests than these wait for a connection, as in a client's pool
MAX_CONCURRENCY = 500  # select() takes no file number of 1024 and more


class _TimedSelector(selectors.SelectSelector):
    """Measures how long the event loop waited."""

    # not epoll, which rounds waits up to whole ms: open-loop requests would be late

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)  # polling costs time, too, and does not count as waiting while there is something to do
        if not ready and timeout != 0:
            before = time.perf_counter()
            ready = super().select(timeout)
            self.waited_s += time.perf_counter() - before
        return ready


class _Run:
    """One step of load, from its warm-up until the last answer."""

    def __init__(self, target: Target, requests: Sequence[bytes], result: Result, warm_up_s: float, timeout_s: float) -> None:
        self.selector = _TimedSelector()
        self.target, self.result, self.timeout_s, self.warm_up_s = target, result, timeout_s, warm_up_s
        self.requests = itertools.cycle(requests)
        self.limit = int(result.setting) if result.mode == "closed" else MAX_OPEN_LOOP_CONNECTIONS
        self.connections: set[Connection] = set()  # of any state, until their sockets are gone
        self.idle: list[Connection] = []  # some may have been closed by the server since
        self.opening: set[asyncio.Task[None]] = set()
        self.waiting: deque[Job] = deque()  # for a connection
        self.pending = 0  # requests that have not ended
        self.cpu_start_s = self.waited_start_s = 0.0
        self.late = [0.0]

    async def drive(self) -> Result:
        """Send the load and wait for its last answer."""
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time() + self.warm_up_s
        self.end = self.start + self.result.seconds
        self.loop.call_at(self.start, self._start_measuring)
        clock = asyncio.ensure_future(self._clock())
        if self.result.mode == "closed":
            for _ in range(self.limit):
                self.submit(self.loop.time())
        else:
            await self._arrivals()
        await asyncio.sleep(self.end - self.loop.time())
        self.result.cpu_share = (time.process_time() - self.cpu_start_s) / self.result.seconds
        self.result.busy_share = 1 - (self.selector.waited_s - self.waited_start_s) / self.result.seconds
        while self.pending:
            await asyncio.sleep(CLOCK_PERIOD_S)
        clock.cancel()
        for connection in self.connections:
            connection.close()
        await asyncio.gather(clock, *self.opening, return_exceptions=True)
        while self.connections:
            await asyncio.sleep(0)
        self.result.latencies_ms.sort()
        self.result.late_ms = 1000 * sum(self.late) / len(self.late)
        return self.result

    def _start_measuring(self) -> None:
        self.cpu_start_s, self.waited_start_s = time.process_time(), self.selector.waited_s

    async def _arrivals(self) -> None:
        gaps, due = random.Random(0), self.loop.time()
        while (due := due + gaps.expovariate(self.result.setting)) < self.end:
            if due > self.loop.time():
                await asyncio.sleep(due - self.loop.time())
            self.submit(due)

    async def _clock(self) -> None:
        while True:
            planned = self.loop.time() + CLOCK_PERIOD_S
            await asyncio.sleep(CLOCK_PERIOD_S)
            now = self.loop.time()
            if self.start <= now < self.end:
                self.late.append(now - planned)
            oldest = now - self.timeout_s
            for connection in [c for c in self.connections if c.state is State.BUSY and c.job.due < oldest]:
                connection.fail("timed out", f"no answer within {self.timeout_s:g} s")
            while self.waiting and self.waiting[0].due < oldest:
                self._end(self.waiting.popleft(), Failure("timed out", f"not sent within {self.timeout_s:g} s"))

    def submit(self, due: float) -> None:
        """Send the next request, on an idle connection, a new one, or when one is free."""
        self.pending += 1
        job = Job(next(self.requests), due)
        while self.idle:
            connection = self.idle.pop()
            if connection.state is State.IDLE:
                connection.send(job)
                return
        if len(self.connections) < self.limit:
            self._open(job)
        else:
            self.waiting.append(job)

    def _open(self, job: Job) -> None:
        connection = Connection(job, self._ended, self._lost)
        self.connections.add(connection)
        task = self.loop.create_task(connection.open(self.target, self.timeout_s))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    def _ended(self, connection: Connection, job: Job, outcome: Answer | Failure) -> None:
        if connection.state is State.IDLE:
            if self.waiting:
                connection.send(self.waiting.popleft())
            else:
                self.idle.append(connection)
        self._end(job, outcome)

    def _lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.waiting:
            self._open(self.waiting.popleft())

    def _end(self, job: Job, outcome: Answer | Failure) -> None:
        """Note how a request ended; in a closed loop the next one follows."""
        now = self.loop.time()
        self.pending -= 1
        self._note(job, now, outcome)
        if self.result.mode == "closed" and now < self.end:
            if isinstance(outcome, Failure) and outcome.kind in ("refused", "unreachable"):
                self.pending += 1
                self.loop.call_later(RETRY_S, self._retry)
            else:
                self.submit(now)

    def _retry(self) -> None:
        self.pending -= 1
        if (now := self.loop.time()) < self.end:
            self.submit(now)

    def _note(self, job: Job, now: float, outcome: Answer | Failure) -> None:
        result = self.result
        good = isinstance(outcome, Answer) and 200 <= outcome.status < 300
        if good and self.start <= now < self.end:
            result.answered += 1
        if not self.start <= job.due < self.end:
            return
        if good:
            result.latencies_ms.append(1000 * (now - job.due))
            return
        if isinstance(outcome, Answer):
            outcome = Failure(str(outcome.status), " ".join(outcome.body[:500].decode(errors="replace").split()))
        result.errors[outcome.kind] += 1
        result.first_error = result.first_error or f"{outcome.kind}: {outcome.detail}"


def _measure(target: Target, requests: Sequence[bytes], result: Result, warm_up_s: float, timeout_s: float) -> Result:
    run = _Run(target, requests, result, warm_up_s, timeout_s)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(run.selector)) as runner:
        return runner.run(run.drive())


def closed_loop(
    target: Target, requests: Sequence[bytes], concurrency: int, seconds: float, warm_up_s: float = 1.0, timeout_s: float = 30.0
) -> Result:
    """`concurrency` connections, each sending its next request when it is answered; warm-up first, which does not count."""
    return _measure(target, requests, Result("closed", concurrency, seconds), warm_up_s, timeout_s)


def open_loop(
    target: Target, requests: Sequence[bytes], rate: float, seconds: float, warm_up_s: float = 1.0, timeout_s: float = 30.0
) -> Result:
    """Requests at random times (Poisson, fixed seed), `rate` a second on average; latency counts from when each was due."""
    return _measure(target, requests, Result("open", rate, seconds), warm_up_s, timeout_s)
