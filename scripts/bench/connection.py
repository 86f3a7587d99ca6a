"""One keep-alive connection of the load generator."""

import asyncio
import enum
from collections.abc import Callable
from typing import NamedTuple

from scripts.bench.http_message import Answer, Target, parse_answer


class Job(NamedTuple):
    """A request to send, and when it was due, in the event loop's time."""

    request: bytes
    due: float


class Failure(NamedTuple):
    """A request that got no answer: refused, reset, timed out, unreachable, not HTTP; and the details."""

    kind: str
    detail: str


class State(enum.Enum):
    """What a connection is doing."""

    CONNECTING = enum.auto()  # its request is sent once it is open
    BUSY = enum.auto()  # its request is on its way
    IDLE = enum.auto()  # open, and can take a request
    CLOSED = enum.auto()  # takes no request; its socket may not be gone yet


Ended = Callable[["Connection", Job, Answer | Failure], None]


class Connection(asyncio.Protocol):
    """CONNECTING, then BUSY and IDLE in turn, then CLOSED. Calls `ended` for each request, and `lost` when its socket is gone."""

    def __init__(self, job: Job, ended: Ended, lost: Callable[["Connection"], None]) -> None:
        self.job, self.state = job, State.CONNECTING
        self.ended, self.lost = ended, lost
        self.transport: asyncio.Transport | None = None
        self.received = b""

    async def open(self, target: Target, timeout_s: float) -> None:
        """Connect and send the request. Time-outs count from when that was due."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self.job.due + timeout_s):
                if target.socket:
                    await loop.create_unix_connection(lambda: self, target.socket)
                else:
                    await loop.create_connection(lambda: self, target.host, target.port, ssl=target.tls or None)
        except (OSError, UnicodeError) as error:  # TimeoutError and all of SSL's are among them
            kinds = {"ConnectionRefusedError": "refused", "ConnectionResetError": "reset", "TimeoutError": "timed out"}
            if self.state is State.CONNECTING:
                self.fail(kinds.get(type(error).__name__, "unreachable"), str(error) or "no connection in time")
            if self.transport is None:  # else connection_lost follows
                self.lost(self)
            return
        if self.state is State.CONNECTING:  # not if the server has closed it already
            self.send(self.job)

    def send(self, job: Job) -> None:
        """Send a request on a connection that is open and has none."""
        self.job, self.state, self.received = job, State.BUSY, b""
        assert self.transport is not None
        self.transport.write(job.request)

    def fail(self, kind: str, detail: str) -> None:
        """Close the connection, whose request failed in this way."""
        self.close()
        self.ended(self, self.job, Failure(kind, detail))

    def close(self) -> None:
        """Take no request any more."""
        self.state = State.CLOSED
        if self.transport is not None:
            self.transport.abort()

    def _parse(self, at_end: bool) -> None:
        try:
            answer = parse_answer(self.received, at_end)
        except ValueError as error:
            self.fail("not HTTP", str(error))
            return
        if answer is not None:
            self.state = State.IDLE
            if at_end or not answer.keep_alive:
                self.close()
            self.ended(self, self.job, answer)

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of the answer; what comes without a request, or after the answer, is ignored."""
        if self.state is State.BUSY:
            self.received = self.received + data if self.received else data
            self._parse(at_end=False)

    def eof_received(self) -> None:
        """The server ends the connection, which asyncio closes then."""
        if self.state is State.IDLE:
            self.state = State.CLOSED

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: if that does not complete the answer, the request failed."""
        if self.state is State.BUSY:
            self._parse(at_end=True)
        if self.state in (State.BUSY, State.CONNECTING):
            self.fail("reset", "the connection was closed before the answer was whole")
        self.state = State.CLOSED
        self.lost(self)
