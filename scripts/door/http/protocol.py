"""One connection, from bytes to requests: one is taken after another, each when the answer before it is complete.

So answers keep the order of the requests, and an error behind good requests waits for their answers. What comes early stays
in a buffer, up to a bound. A head is checked as a whole and then given to the parser. How a connection ends: lifetime.py.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from scripts.door.http.chunks import ChunkScanner
from scripts.door.http.connections import Connections
from scripts.door.http.cycle import Cycle
from scripts.door.http.head import RequestLine, check_fields, check_partial, check_size, for_parser, parse_request_line
from scripts.door.http.lifetime import NEVER, Lifetime
from scripts.door.http.refusal import Refusal
from scripts.door.http.request_id import request_id


class DoorProtocol(Lifetime):
    """uvicorn's protocol with its own way from bytes to requests."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], connections: Connections) -> None:
        super().__init__(config, server_state, app_state, connections)
        self._chunks: ChunkScanner | None = None
        self._left = 0  # of a body with a content-length
        self._head_is_complete = False
        self._stays_open = False  # as the request asks

    # --- what the transport calls ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or answer at once that there is no room. Over TLS it has its place since its handshake began."""
        super().connection_made(transport)
        if self not in self.all.open:
            self.take_place()
        self.deadline = min(self.deadline, self.loop.time() + self.limits.first_byte_s)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that its client has gone, and free the place."""
        self.is_ending = True
        self.buffer = b""
        self.all.remove(self)
        self.disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what can be taken now."""
        if self.is_ending:
            self.discard(len(data))
            return
        self.buffer = self.buffer + data if self.buffer else data
        if self.flow is not None:  # else the client was faster than the end of our handshake
            self._advance()

    def eof_received(self) -> None:
        """A client that has closed its side has gone: one that waits for the rest of its answer cannot be told from it."""
        self.disconnect()

    # --- from bytes to requests ---

    def _advance(self) -> None:
        try:
            while self.buffer and not self.is_ending:
                if self.in_body:
                    self._take_body()
                elif self.is_busy:
                    if len(self.buffer) > self.limits.pipelined_bytes:
                        self.pause()
                    return
                elif not self._take_head():
                    return
        except Refusal as refusal:
            self.refuse(refusal)
        except httptools.HttpParserError as error:
            self.refuse(Refusal(400, f"the request is malformed: {error}"))

    def _take_head(self) -> bool:
        """Start the request at the front of the buffer; whether its head was there as a whole."""
        self.is_head_request, self.headers, self.request_id = False, [], None
        skip = 0
        while self.buffer.startswith(b"\r\n", skip):  # RFC 9112, section 2.2: empty lines before a request are skipped
            skip += 2
        end = self.buffer.find(b"\r\n\r\n", skip) + 4
        if end < 4:
            self.buffer = self.buffer[skip:]
            self._wait_for_head()
            return False
        head, self.buffer = self.buffer[skip:end], self.buffer[end:]
        self.all.leave(self)
        self.deadline = NEVER
        self._start(head)
        return True

    def _wait_for_head(self) -> None:
        if self not in self.all.heads:
            self.all.leave(self)
            self.all.heads[self] = None
            self.deadline = self.loop.time() + self.limits.head_s
        if self.buffer not in (b"", b"\r"):
            check_partial(self.buffer, self.limits)

    def _start(self, head: bytes) -> None:
        """Check a whole head, and run the application on it."""
        self.is_head_request = head.startswith(b"HEAD ")
        line = parse_request_line(head, self.limits)
        check_size(head, self.limits)
        self.in_body, self._head_is_complete = True, False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(for_parser(head, line))  # fills `headers`, and clears `in_body` where there is no body
        expects = check_fields(self.headers, line.minor == 0)
        self._fill_scope(line)
        self.cycle = self._make_cycle(expects and self.in_body)
        if self.in_body:
            self._expect_body()
        self._start_asgi_task(self.cycle, self.app)

    def _fill_scope(self, line: RequestLine) -> None:
        if line.authority is not None:  # RFC 9112, section 3.2.2: it counts instead of the field
            self.headers[:] = [(b"host", line.authority), *(header for header in self.headers if header[0] != b"host")]
        self.scope["http_version"] = "1.1" if line.minor else "1.0"
        self.scope["method"] = line.method.decode("ascii")
        self.scope["raw_path"] = line.path
        self.scope["path"] = line.decoded_path()
        self.scope["query_string"] = line.query
        self.request_id = request_id(self.headers)
        self.scope["state"].update(request_id=self.request_id, call_when_gone=self.call_when_gone)

    def _make_cycle(self, expects: bool) -> Cycle:
        cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=self._stays_open,
            on_response=self.on_response_complete,
        )
        cycle.protocol = self
        if not self.in_body:
            cycle.more_body = False
            cycle.message_event.set()
        return cycle

    def _expect_body(self) -> None:
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        self._left = lengths[0] if lengths else 0
        self._chunks = None if lengths else ChunkScanner(self.limits)
        self.start_reading()

    def _take_body(self) -> None:
        data = self.buffer
        if self._chunks:
            end = self._chunks.end(data)
        else:
            end = self._left if self._left <= len(data) else None
            self._left -= len(data)
        piece, self.buffer = (data, b"") if end is None else (data[:end], data[end:])
        self.reading.moved += len(piece)
        if self._chunks:
            self.parser.feed_data(piece)
        else:  # nothing in it is the parser's
            self.on_body(piece)
            if end is not None:
                self.on_message_complete()
        if self.in_body != (end is None):
            raise Refusal(400, "the body of the request is malformed")
        if not self.in_body and not self.is_busy:
            self.wait_for_request()

    # --- what the parser calls ---

    def on_url(self, url: bytes) -> None:
        """Nothing: the request line was read before."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head. Trailers are dropped, and never count as headers (RFC 9110, section 6.5.1)."""
        if not self._head_is_complete:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """What follows is the body."""
        self._head_is_complete = True
        self._stays_open = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body to the application, unless it has answered already."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.take(body)
        if len(cycle.received) > self.limits.buffered_bytes:
            self.pause()

    def on_message_complete(self) -> None:
        """The body is complete, or there is none."""
        self.in_body = False
        if self.is_busy:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # --- what a cycle calls ---

    def check_reuse(self, cycle: Cycle) -> None:
        """Close after an answer that comes before the end of a long body, or of one that the client may never send."""
        if self.in_body and (cycle.waiting_for_100_continue or self._chunks or self._left > self.limits.drain_bytes):
            cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """Go on with the next request, or end the connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.cycle.keep_alive:
            self.finish()
            return
        self.resume()
        if not self.in_body:
            self.wait_for_request()
            self._advance()
