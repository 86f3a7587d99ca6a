"""Fixtures of this room: the command, and a web server on loopback that answers by script."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from scripts.collection import collect as command
from scripts.collection.check import Checker
from scripts.command import run


class WebServer(ThreadingHTTPServer):
    """`pages` has (status, headers, body) by path, or a function of the request that returns that; `asked` the paths, in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Script)
        self.pages, self.asked, self.agents = {}, [], set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Script(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.agents.add(self.headers["user-agent"])
        page = self.server.pages.get(self.path, (404, {}, b""))
        status, headers, body = page(self) if callable(page) else page
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web():
    with WebServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Done(NamedTuple):
    """As subprocess.CompletedProcess has it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def checker():
    """The tests' one: its decoders start once."""
    return Checker()


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys, checker):
    """Runs the command in this process, into `collected` of the test's folder."""
    monkeypatch.setenv("SEEFOOD_COLLECT_PRIVATE", "true")
    monkeypatch.setenv("SEEFOOD_COLLECT_INTERVAL_S", "0.05")
    monkeypatch.setattr(command, "Checker", lambda: checker)

    def run_it(source, *options):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["collect", "--out", str(tmp_path / "collected"), *options, "--", str(source)])
        return Done(run(command.main), *capsys.readouterr())

    return run_it
