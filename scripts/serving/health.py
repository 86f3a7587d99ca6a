"""Whether this instance lives, and whether it serves: GET /livez and /readyz on a port of their own.

TorchServe's /ping is "Healthy" with no model at all, and while a worker fails to start, for up to five minutes. Here ready
means that the default version has just answered a golden photo, asked as clients ask, and rightly.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple, Self

from scripts.archive.build import MODEL
from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.versions import Golden, UnansweredError, VersionError
from scripts.settings import Settings
from scripts.steps import Steps

ALIVE_S = 300.0  # the main loop comes by at least this often, unless it fetches a large archive over a slow line


class Serving(NamedTuple):
    """What answers where no version is named."""

    server: Server
    version: str
    golden: Golden
    precision: str


class Health:
    """Asks golden photos at an interval, in a thread of its own, and knows what came of it."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self.settings, self.steps = settings, steps
        self.serving: Serving | None = None
        self.draining = False
        self.ready, self.why, self.since = False, "starting", time.time()
        self.worker_restarts: dict[str, int] = {}  # of each version, since it became the default
        self._pids: dict[str, set[int]] = {}
        self._asked, self._checked, self._beat = 0, time.monotonic(), time.monotonic()
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop = True
        self._wake.set()
        self._thread.join(self.settings.check_timeout_s + 5)

    def beat(self) -> None:
        """The main loop is alive."""
        self._beat = time.monotonic()

    def set_serving(self, serving: Serving | None) -> None:
        """Another version is the default now, or none; it is asked at once."""
        self.serving = serving
        self._wake.set()

    def drain(self) -> None:
        """Not ready any more, for good."""
        self.draining = True
        self._set(False, "draining")

    @property
    def live(self) -> bool:
        """Whether the main loop still goes round."""
        return self.draining or time.monotonic() - self._beat < ALIVE_S

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """(ready, what /readyz says)."""
        serving, ready, why = self.serving, self.ready, self.why
        if ready and time.monotonic() - self._checked > 3 * self.settings.check_s + self.settings.check_timeout_s:
            ready, why = False, "no golden photo was asked for too long"
        said = {"ready": ready, "version": serving.version if serving else None}
        return ready, said if ready else said | {"why": why}

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self.settings.check_s if self.ready or self.serving is None else self.settings.recheck_s)
            self._wake.clear()
            if not self._stop and not self.draining and (serving := self.serving) is not None:
                try:
                    self._check(serving)
                except Exception as error:  # this thread must not end: who asks would be told what was true then
                    if self.serving is serving:
                        self._set(False, f"the check failed: {error!r}")
            elif self.serving is None and not self.draining:
                self._set(False, "no version is served yet")

    def _check(self, serving: Serving) -> None:
        self._asked += 1
        try:
            serving.golden.ask(
                serving.server, MODEL, serving.version, self._asked, serving.precision, self.settings.check_timeout_s
            )
            self._look_at_workers(serving)
            outcome: tuple[bool, str] = (True, "")
        except UnansweredError as error:
            # a full queue is no reason to take an instance out: then the others would get its load, too
            outcome = (self.ready, "") if error.status in (0, 503) and self._overloaded(serving) else (False, str(error))
        except VersionError as error:
            outcome = (False, str(error))
        self._checked = time.monotonic()
        if self.serving is serving and not self.draining:  # else another one became the default meanwhile
            self._set(*outcome)

    def _overloaded(self, serving: Serving) -> bool:
        try:
            described = management.version(serving.server, MODEL, serving.version)
        except ManagementError:
            return False
        queue = described["jobQueueStatus"]
        working = any(worker["status"] == "READY" for worker in described["workers"])
        return bool(working and queue["pendingRequests"] > queue["remainingCapacity"])

    def _look_at_workers(self, serving: Serving) -> None:
        try:
            described = management.version(serving.server, MODEL, serving.version)
        except ManagementError:
            return  # it has just answered a photo: that counts
        pids = {worker["pid"] for worker in described["workers"]}
        gone = self._pids.get(serving.version, set()) - pids
        self._pids = {serving.version: pids}
        if gone:
            self.worker_restarts[serving.version] = self.worker_restarts.get(serving.version, 0) + len(gone)

    def _set(self, ready: bool, why: str) -> None:
        if ready != self.ready:
            self.since = time.time()
            self.steps("ready" if ready else "not ready", **({"why": why} if why else {}))
        self.ready, self.why = ready, why


class HealthServer(ThreadingTCPServer):  # no HTTPServer: that one asks the name service for this machine's name
    """Answers GET /livez and /readyz inside `with`: 200, or 503 with the reason."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, health: Health) -> None:
        """Listen. OSError if the port is taken."""
        self.health = health
        super().__init__((host, port), _Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, name="health port", daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HealthServer
    server_version = "seefood"
    timeout = 10  # seconds; a client that says nothing does not hold its thread for ever

    def do_GET(self) -> None:
        """/livez and /readyz."""
        health = self.server.health
        answers: dict[str, Callable[[], tuple[bool, dict[str, Any]]]] = {
            "/livez": lambda: (health.live, {"live": health.live}),
            "/readyz": health.readiness,
        }
        path = self.path.split("?")[0]
        if path not in answers:
            self._answer(404, {"message": "ask for /livez or /readyz"})
            return
        good, said = answers[path]()
        self._answer(200 if good else 503, said)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        body = (json.dumps(said) + "\n").encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: a line a check says nothing."""
