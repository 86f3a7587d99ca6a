"""Load on an HTTP server by one cheap process, as it often shares the cores with the server that it measures.

Requests are bytes built beforehand, sent over keep-alive connections by plain asyncio protocols: no task, no future and no
header object for a request. Closed loop: each of N connections sends its next request when it is answered. Open loop:
requests come at random times of a fixed average rate whether or not the server keeps up, and their latency counts from
the time when they were due, so that a stall is seen by all whom it would have met. HTTP/1.1 alone, no redirects.
"""

import asyncio
import itertools
import math
import random
import selectors
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts.bench.http_message import Answer, Target, parse_answer

PERCENTILES = (50, 90, 99, 99.9)
CLOCK_PERIOD_S = 0.02  # how often time-outs are looked for, and the event loop's lateness noted
RETRY_S = 0.1  # a closed loop would else spin on a server that refuses
MAX_OPEN_LOOP_CONNECTIONS = 400  # more requests than these wait for a connection, as in a client's pool
MAX_CONCURRENCY = 500  # select() takes no file number of 1024 and more
# From here on the generator itself is what is measured: it computes for this share of the time ...
BUSY_SHARE = 0.8
# ... or acts so late, in shares of the median latency and in ms.
LATE_SHARE, LATE_MS = 0.2, 1.0


@dataclass
class Result:
    """What one step of load came to. Latencies in ms, of the requests that were due in the measured time and answered 2xx."""

    mode: str  # "closed" or "open"
    setting: float  # connections, or requests/s
    seconds: float
    latencies_ms: list[float] = field(default_factory=list)  # sorted
    answered: int = 0  # 2xx that came in within the measured time
    errors: Counter[str] = field(default_factory=Counter)  # by status, or refused, reset, timed out, unreachable, not HTTP
    first_error: str = ""
    cpu_share: float = 0.0  # of one core, used by the load generator
    busy_share: float = 0.0  # of the time, in which the load generator had work, be it that it got no core for it
    late_ms: float = 0.0  # how late the load generator's own clock rings, on average

    @property
    def throughput(self) -> float:
        """2xx answers/s."""
        return self.answered / self.seconds

    def percentile(self, percent: float) -> float:
        """The latency that so many percent of the answers do not exceed (nearest rank), NaN without answers."""
        if not self.latencies_ms:
            return math.nan
        return self.latencies_ms[max(0, math.ceil(percent / 100 * len(self.latencies_ms)) - 1)]

    def bottleneck(self) -> str:
        """Why these figures tell of the load generator and not of the server; empty if they do not."""
        if max(self.busy_share, self.cpu_share) > BUSY_SHARE:
            return f"it was busy for {self.busy_share:.0%} of the time, with {self.cpu_share:.0%} of a core"
        median = self.percentile(50)
        if self.late_ms > max(LATE_MS, LATE_SHARE * median):
            return f"it acts {self.late_ms:.1f} ms late, and the median answer takes {median:.1f} ms"
        return ""


class _TimedSelector(selectors.SelectSelector):
    """Knows how long the event loop waited. Not epoll: that rounds waits up to whole ms, and open-loop requests would be late."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)  # asking costs time, too: it is no waiting while there is something to do
        if not ready and timeout != 0:
            before = time.perf_counter()
            ready = super().select(timeout)
            self.waited_s += time.perf_counter() - before
        return ready


class _Job(NamedTuple):
    request: bytes
    due: float


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, run: "_Run") -> None:
        self.run = run
        self.job: _Job | None = None
        self.transport: asyncio.Transport | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, job: _Job) -> None:
        self.job, self.received = job, b""
        assert self.transport is not None
        self.transport.write(job.request)

    def data_received(self, data: bytes) -> None:
        self.received = self.received + data if self.received else data
        self._look(ended=False)

    def _look(self, ended: bool) -> None:
        try:
            answer = parse_answer(self.received, ended)
        except ValueError as error:
            self.give_up("not HTTP", str(error))
            return
        if answer is not None and self.job is not None:
            job, self.job = self.job, None
            alive = answer.keep_alive and not ended
            if not alive:
                self.close()
            self.run.ended(job, answer, "", self if alive else None)

    def give_up(self, kind: str, detail: str = "") -> None:
        """End the connection; its request, if any, failed in this way."""
        job, self.job = self.job, None
        self.close()
        if job is not None:
            self.run.ended(job, None, kind, None, detail)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def eof_received(self) -> None:
        self.run.leave_idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.lost(self)
        if self.job is not None:
            self._look(ended=True)
            self.give_up("reset", "the connection was closed before the answer was whole")


class _Run:
    """One step of load, from its warm-up until the last answer."""

    def __init__(self, target: Target, requests: Sequence[bytes], result: Result, warm_up_s: float, timeout_s: float) -> None:
        self.selector = _TimedSelector()
        self.target, self.result, self.timeout_s, self.warm_up_s = target, result, timeout_s, warm_up_s
        self.requests = itertools.cycle(requests)
        self.limit = int(result.setting) if result.mode == "closed" else MAX_OPEN_LOOP_CONNECTIONS
        self.idle: list[_Connection] = []
        self.waiting: deque[_Job] = deque()
        self.open: set[_Connection] = set()
        self.connecting: set[asyncio.Task[None]] = set()
        self.used = self.pending = 0  # connections, open or being opened; requests without an end
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
        for connection in list(self.open):
            connection.close()
        await asyncio.gather(clock, *self.connecting, return_exceptions=True)
        while self.open:
            await asyncio.sleep(0)
        self.result.latencies_ms.sort()
        self.result.late_ms = 1000 * sum(self.late) / max(1, len(self.late))
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
            for connection in [c for c in self.open if c.job is not None and c.job.due < oldest]:
                connection.give_up("timed out", f"no answer within {self.timeout_s:g} s")
            while self.waiting and self.waiting[0].due < oldest:
                self.ended(self.waiting.popleft(), None, "timed out", None, f"not sent within {self.timeout_s:g} s", held=False)

    def submit(self, due: float) -> None:
        """Send the next request, on an idle connection, a new one, or when one is free."""
        self.pending += 1
        job = _Job(next(self.requests), due)
        if self.idle:
            self.idle.pop().send(job)
        elif self.used < self.limit:
            self._connect(job)
        else:
            self.waiting.append(job)

    def _connect(self, job: _Job) -> None:
        self.used += 1
        task = self.loop.create_task(self._open(job))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def _open(self, job: _Job) -> None:
        try:
            async with asyncio.timeout_at(job.due + self.timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self), self.target.host, self.target.port, ssl=self.target.tls or None
                )
        except (OSError, UnicodeError) as error:  # TimeoutError and all of SSL's are among them
            kinds = {"ConnectionRefusedError": "refused", "ConnectionResetError": "reset", "TimeoutError": "timed out"}
            self.ended(job, None, kinds.get(type(error).__name__, "unreachable"), None, str(error) or "no connection in time")
            return
        self.open.add(connection)
        connection.send(job)

    def lost(self, connection: _Connection) -> None:
        """A connection is gone."""
        self.open.discard(connection)
        self.leave_idle(connection)

    def leave_idle(self, connection: _Connection) -> None:
        """The server ends a connection: if it is idle, it makes room for another."""
        if connection in self.idle:
            self.idle.remove(connection)
            self.used -= 1

    def ended(
        self, job: _Job, answer: Answer | None, kind: str, connection: _Connection | None, detail: str = "", held: bool = True
    ) -> None:
        """Note how a request ended; `connection` if it can be used again, `held` if the request had one at all."""
        now = self.loop.time()
        self.pending -= 1
        self._note(job, now, answer, kind, detail)
        if connection is not None:
            if self.waiting:
                connection.send(self.waiting.popleft())
            else:
                self.idle.append(connection)
        elif held:
            self.used -= 1
            if self.waiting:
                self._connect(self.waiting.popleft())
        if self.result.mode == "closed" and now < self.end:
            if kind in ("refused", "unreachable"):
                self.pending += 1
                self.loop.call_later(RETRY_S, self._again)
            else:
                self.submit(now)

    def _again(self) -> None:
        self.pending -= 1
        if (now := self.loop.time()) < self.end:
            self.submit(now)

    def _note(self, job: _Job, now: float, answer: Answer | None, kind: str, detail: str) -> None:
        result = self.result
        good = answer is not None and 200 <= answer.status < 300
        if good and self.start <= now < self.end:
            result.answered += 1
        if not self.start <= job.due < self.end:
            return
        if good:
            result.latencies_ms.append(1000 * (now - job.due))
            return
        if answer is not None:
            kind, detail = str(answer.status), " ".join(answer.body[:500].decode(errors="replace").split())
        result.errors[kind] += 1
        result.first_error = result.first_error or f"{kind}: {detail}"


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
