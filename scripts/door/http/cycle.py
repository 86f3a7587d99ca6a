"""One request and its answer, between the connection and the application: ASGI's receive and send."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from scripts.door.errors import error_body
from scripts.door.http.refusal import status_line

if TYPE_CHECKING:
    from scripts.door.http.protocol import DoorProtocol

BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# the layer's own: framing and the connection are not the application's
FRAMING = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Cycle(RequestResponseCycle):
    """uvicorn's cycle, which runs the application, with bodies and answers as RFC 9112 has them for HTTP/1.0, too."""

    protocol: "DoorProtocol"
    received: bytes | bytearray = b""  # of the body, and not taken by the application yet
    on_gone: Callable[[], None] | None = None
    _is_started = False  # by the application; `response_started`: the client has got a part of it
    _head = b""  # of the answer; ASGI has it sent with the first part of the body, and one packet is faster than two
    _left: int | None = None  # of the answer's content-length
    _chunked = False
    _without_body = False

    def take(self, piece: bytes) -> None:
        """The next piece of the body. The usual one is alone, and not copied."""
        if not self.received:
            self.received = piece
        elif isinstance(self.received, bytearray):
            self.received += piece
        else:
            self.received = bytearray(self.received + piece)
        self.message_event.set()

    # what is sent and received are dictionaries whose keys the ASGI specification defines
    async def receive(self) -> Any:
        """The next part of the body, or `http.disconnect` once the client has gone or was answered."""
        if self.waiting_for_100_continue and not self.disconnected:
            self.waiting_for_100_continue = False
            self.protocol.write(CONTINUE)
        if not self.disconnected and not self.response_complete:
            self.protocol.resume()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            self.message_event.set()
            return {"type": "http.disconnect"}
        body, self.received = bytes(self.received), b""
        if not self.more_body:
            self.protocol.resume()  # else the end of a client that hangs up is not seen
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """A part of the answer; waits while the client does not read what was sent before. Nothing for a client that has gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if self.response_complete or kind != ("http.response.body" if self._is_started else "http.response.start"):
            raise RuntimeError(f"the application sent {kind} out of turn")
        if not self._is_started:
            self._start(message["status"], message.get("headers", ()))
            return
        more = bool(message.get("more_body", False))
        self._write_body(message.get("body", b""), more)
        if not more:
            self._complete()

    async def send_500_response(self) -> None:
        """The API's error, after a fault of the application."""
        self._is_started, self._left, self._chunked = False, None, False
        message, id_of_request = "the server failed; its log says why, by this id", self.scope["state"]["request_id"]
        body = error_body(500, "InternalError", message, id_of_request)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [status_line(status)]
        self.protocol.check_reuse(self)
        for name, value in self.default_headers:
            lines += (name, b": ", value, b"\r\n")
        has_id = False
        for name, value in headers:
            name = name.lower()
            if BAD_NAME.search(name) or BAD_VALUE.search(value):
                raise RuntimeError(f"the header {name!r} of the answer is malformed")
            if name in FRAMING:
                self.keep_alive = self.keep_alive and not (name == b"connection" and b"close" in value.lower())
                continue
            if name == b"content-length":
                self._left = int(value)
                if status == 204:  # RFC 9110, section 8.6: it has none
                    continue
            has_id = has_id or name == b"x-request-id"
            lines += (name, b": ", value, b"\r\n")
        if not has_id:
            lines.append(b"x-request-id: %b\r\n" % self.scope["state"]["request_id"].encode())
        self._frame(status, lines)
        self._is_started = True
        self.waiting_for_100_continue = False
        self._head = b"".join(lines)

    def _frame(self, status: int, lines: list[bytes]) -> None:
        """Decide how the end of the answer is told (RFC 9112, section 6.3), and whether the connection stays."""
        is_http_1_0 = self.scope["http_version"] == "1.0"
        self._without_body = self.scope["method"] == "HEAD" or status in (204, 304)
        if self._left is None and not self._without_body:
            if is_http_1_0:
                self.keep_alive = False
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif is_http_1_0:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")

    def _write_body(self, body: bytes, more: bool) -> None:
        if self._without_body:
            body = b""
        elif self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk if more else chunk + b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError(f"the answer's body differs from its content-length by {-self._left} bytes")
        self.protocol.write(self._head + body if self._head else body)
        self.response_started, self._head = True, b""

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        self.on_response()
