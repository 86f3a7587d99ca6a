"""A small HTTP server for metrics: GET and HEAD, a function for each path, on threads of its own.

No request bodies, no TLS, no access log (a line for each scrape would hide the others). Photos go to the door.
"""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import NamedTuple, Self

from scripts.settings import Settings


class Answer(NamedTuple):
    """An answer to GET; HEAD gets the same without the body."""

    status: int
    content_type: str
    body: bytes


class HttpServer(ThreadingTCPServer):  # not HTTPServer, which looks up this machine's name in DNS first
    """Answers inside `with`. A path that is not in `routes` gets a 404 that lists them; a query string is ignored."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self, host: str, port: int, routes: Mapping[str, Callable[[], Answer]], timeout_s: float = Settings.http_timeout_s
    ) -> None:
        """Listen. OSError if the port is taken."""
        self.routes, self.timeout_s = routes, timeout_s
        super().__init__((host, port), _Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, name=f"HTTP {self.server_address[1]}", daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, path: str) -> Answer:
        """The answer to a GET of this path."""
        route = self.routes.get(path.split("?")[0])
        return route() if route else Answer(404, "text/plain; charset=utf-8", f"not found, try {', '.join(self.routes)}\n".encode())


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    server_version = "seefood"

    def setup(self) -> None:
        """As the base class, with a time-out: an idle client must not hold its thread for ever."""
        super().setup()
        self.connection.settimeout(self.server.timeout_s)

    def do_GET(self) -> None:
        """The route's answer."""
        answer = self.server.answer(self.path)
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""
