"""One connection's times and its end. It has one deadline, and the sweep of all connections checks it: no timers."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from scripts.door.addresses import address_in, is_in, owner_of
from scripts.door.http.connections import Connections
from scripts.door.http.cycle import Cycle
from scripts.door.http.pace import Pace
from scripts.door.http.refusal import Refusal, refusal_bytes
from scripts.door.http.request_id import request_id

NEVER = float("inf")


class Lifetime(HttpToolsProtocol):
    """What a connection waits for, and for how long."""

    cycle: Cycle

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], connections: Connections) -> None:
        super().__init__(config, server_state, app_state)
        self.all, self.limits = connections, connections.limits
        self.address = ""  # of its customer: addresses.py; of a proxy none
        self.headers = []
        self.request_id: str | None = None  # of the request that is being taken or answered
        self.buffer = b""  # received, and not taken yet
        self.in_body = False  # of a request whose body has not ended
        self.is_head_request = False
        self.is_ending = False  # nothing that arrives is taken any more
        self.is_refused = False  # had no place from the start
        self.deadline = NEVER  # for its first byte, the end of a head or a body, the next request, or its own end
        self.reading = Pace()  # a body
        self._writing = Pace()  # answers
        self._is_writing = False
        self._discarded = 0
        self._lingers_until = NEVER

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def meet(self, transport: asyncio.Transport) -> None:
        """Take a place for a connection that has a handshake before it."""
        self.transport = transport
        self.client = get_remote_addr(transport)
        self.take_place()
        if not self.is_ending:
            self.deadline = NEVER  # the handshake has a time of its own

    def take_place(self) -> None:
        """Count the connection; without a place it gets an answer that says so, and ends."""
        address = address_in(self.client[0] if self.client else "")
        self.address = "" if is_in(address, self.limits.proxies) else owner_of(address)
        refusal = self.all.add(self)
        if refusal:
            self.is_refused = True
            if self.all.may_linger() and self.flow is not None:  # before a handshake there is nobody to answer
                self.refuse(refusal)
            else:
                self.end(str(refusal.status), at_once=True)

    # --- what it waits for ---

    def wait_for_request(self) -> None:
        """The next request may come, and need not."""
        self.deadline = self.loop.time() + self.limits.idle_s
        self.all.idle[self] = None

    def start_reading(self) -> None:
        """A body begins."""
        now = self.loop.time()
        self.reading.start(now)
        self.deadline = now + self.limits.body_s

    def pause(self) -> None:
        """Take nothing more from the client for now."""
        self.flow.pause_reading()
        self.all.paused.add(self)
        self.reading.pause(self.loop.time())

    def resume(self) -> None:
        """Take more from the client, unless too much waits behind the request that is being answered."""
        if self in self.all.paused and (self.in_body or not self.is_busy or len(self.buffer) <= self.limits.pipelined_bytes):
            self.flow.resume_reading()
            self.all.paused.discard(self)
            self.reading.resume(self.loop.time())

    def write(self, data: bytes) -> None:
        """Send to the client."""
        if self.transport.is_closing():
            return
        self.transport.write(data)
        if not self._is_writing:
            self._is_writing = True
            self._writing.start(self.loop.time())
        self._writing.moved += len(data)

    def check_time(self, now: float) -> None:
        """End what has taken too long."""
        if self._is_writing:
            self._check_writing(now)
        if now >= self.deadline:
            self._time_out(now)
        elif self.in_body and not self.is_ending and self.reading.is_slow(now, self.limits.body_rate, self.limits.body_grace_s):
            self._refuse_body("is too slow")

    def _check_writing(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._is_writing = unsent > 0
        if not unsent:
            return
        self._writing.moved -= unsent
        if self._writing.is_slow(now, self.limits.write_rate, self.limits.write_grace_s):
            self.end("slow reader", at_once=True)
        self._writing.moved += unsent

    def _time_out(self, now: float) -> None:
        if self.is_ending:
            if self._is_writing:  # its pace counts
                self.deadline = now + 1.0
            else:
                self.end("lingered")  # over TLS its end is told first
        elif self.in_body:
            self._refuse_body(f"took over {self.limits.body_s:g} s")
        elif self in self.all.heads:
            self.refuse(Refusal(408, f"the head of the request took over {self.limits.head_s:g} s"), "slow head")
        else:
            self.end("idle")

    def _refuse_body(self, why: str) -> None:
        if self.is_busy:
            self.refuse(Refusal(408, f"the body of the request {why}: send it faster"), "slow body")
        else:  # answered already, and only read past
            self.end("slow body", at_once=True)

    # --- how it ends ---

    def disconnect(self) -> None:
        """Tell the application that its client has gone."""
        if self.is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.flow.resume_writing()
            if self.cycle.on_gone:
                self.cycle.on_gone()

    def call_when_gone(self, callback: Callable[[], None] | None) -> None:
        """For the application: a call as soon as the client of its request hangs up; `receive` tells only whoever waits in it."""
        self.cycle.on_gone = callback

    def client_gone(self) -> None:
        """The system reports the end of a connection that was not read from."""
        self.disconnect()
        self.end("gone", at_once=True)

    def refuse(self, refusal: Refusal, cause: str = "") -> None:
        """Answer what cannot be served, unless an answer has begun; then end. Counted by the cause, or by the status."""
        self.all.ended[cause or str(refusal.status)] += 1
        self.disconnect()
        if self.is_busy and self.cycle.response_started:
            self.end("broken off", at_once=True)
            return
        common = self.server_state.default_headers
        self.write(refusal_bytes(refusal, common, self.request_id or request_id(self.headers), self.is_head_request))
        self._linger()

    def finish(self) -> None:
        """End after an answer."""
        if self.in_body or self.buffer:
            self._linger()
        else:
            self.is_ending = True
            self.transport.close()

    def end(self, cause: str, at_once: bool = False) -> None:
        """Close; `at_once`: what was not sent yet is lost."""
        self.all.ended[cause] += 1
        self.all.leave(self)
        self.is_ending = True
        self.deadline = NEVER
        if self.flow is None:  # within a handshake, whose end is reported late
            self.transport.abort()
            self.all.remove(self)
        elif at_once:
            self.transport.abort()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close the sending side and read on: with data unread a close resets the connection under the answer (RFC 9112, 9.6)."""
        self.is_ending = True
        self.all.leave(self)
        self.all.lingering[self] = None
        self._lingers_until = self.loop.time() + self.limits.linger_s
        self.discard(len(self.buffer))
        self.buffer = b""
        self.flow.resume_reading()
        self.all.paused.discard(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def discard(self, length: int) -> None:
        """Count what is read past."""
        self._discarded += length
        if self._discarded > self.limits.linger_bytes:
            self.end("lingered", at_once=True)
        elif self in self.all.lingering:
            self.deadline = min(self._lingers_until, self.loop.time() + self.limits.linger_silent_s)

    def shutdown(self) -> None:
        """The server stops: the answer in flight is the last."""
        if self.is_busy:
            self.cycle.keep_alive = False
        elif self.is_ending:
            self.deadline = self._lingers_until = min(self.deadline, self.loop.time() + 1.0)
        else:
            self.end("stopped")

    def file(self) -> int:
        """The descriptor of the socket, or -1."""
        socket = self.transport.get_extra_info("socket")
        return -1 if socket is None else int(socket.fileno())
