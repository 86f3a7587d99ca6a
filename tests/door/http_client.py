"""A real server in a thread, and a client that shows every byte."""

import asyncio
import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from scripts.door.http.limits import Limits
from scripts.door.http.server import HttpServer, Listener
from tests.conftest import LIMIT_S
from tests.door.http_app import App
from tests.waiting import until

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
DEFAULT = Limits()


class Served(NamedTuple):
    """A running server of one listener, and its application."""

    port: int
    server: HttpServer
    app: App

    def connect(self) -> "Client":
        return connect(self.port)

    @property
    def ended(self) -> Counter[str]:
        return self.server.connections[0].ended


def connect(port: int) -> "Client":
    client = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(client)


@contextlib.contextmanager
def serve(limits: Limits = DEFAULT, certfile: Path | None = None, keyfile: Path | None = None) -> Iterator[Served]:
    """The application on a free port, in a thread."""
    app = App()
    server = HttpServer([Listener(app, "127.0.0.1", 0, limits, certfile, keyfile)])

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: server.is_started)
        yield Served(server.ports[0], server, app)
    finally:
        server.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for given, value in self.headers if given == name]
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    def json(self):
        return json.loads(self.body)


class Client:
    """A connection on which every byte is the test's own. Closed by `with`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.file = sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes) -> "Answer":
        """The answer to a request."""
        self.send(data)
        answer = self.answer(data.split(b" ")[0].decode("latin-1"))
        assert answer is not None, "the connection ended without an answer"
        return answer

    def answer(self, method: str = "GET") -> Answer | None:
        """The next answer, byte-exact to its end; None where the connection ended instead."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            raise AssertionError("the connection was reset") from None
        if not line:
            return None
        version, status = line.split()[:2]
        assert version == b"HTTP/1.1"
        headers = []
        while (field := self.file.readline()) != b"\r\n":
            assert field.endswith(b"\r\n"), field
            name, _, value = field.decode("latin-1").rstrip().partition(": ")
            headers.append((name, value))
        return Answer(int(status), headers, self._body(method, int(status), dict(headers)))

    def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (100, 204, 304):
            return b""
        if "content-length" in headers:
            length = int(headers["content-length"])
            body = self.file.read(length)
            assert len(body) == length
            return body
        if "transfer-encoding" not in headers:
            return self.file.read()
        body = b""
        while size := int(self.file.readline(), 16):
            body += self.file.read(size)
            assert self.file.read(2) == b"\r\n"
        assert self.file.readline() == b"\r\n"
        return body

    def is_closed(self) -> bool:
        """Whether nothing more comes, and the connection ends in order. Waits for it."""
        try:
            rest = self.file.read(1)
        except ConnectionResetError:
            raise AssertionError("the connection was reset") from None
        assert rest == b"", rest
        return True
