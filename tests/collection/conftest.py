"""Fixtures of this room: the command in a process of its own, and a web server on loopback that answers by script."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ROOT


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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def collect(tmp_path):
    """Runs the command to its end, into `collected` of the test's folder; variables of the environment by name."""

    def run(source, *options, **variables):
        command = [
            sys.executable,
            "-m",
            "scripts.collection.collect",
            "--out",
            str(tmp_path / "collected"),
            *options,
            "--",
            str(source),
        ]
        quick = {"SEEFOOD_COLLECT_PRIVATE": "true", "SEEFOOD_COLLECT_INTERVAL_S": "0.05"}
        environment = os.environ | quick | variables
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run
