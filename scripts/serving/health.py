"""Whether this instance is alive, and whether it is ready: GET /livez and /readyz on a port of their own.

TorchServe's /ping is "Healthy" with no model at all, and while a worker fails to start, for up to five minutes. Here ready
means that the default version has just answered a golden photo correctly, sent as a client sends its photos.
"""

import json
import threading
import time
from typing import Any, NamedTuple, Self

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.versions import Golden, UnansweredError, VersionError
from scripts.serving.http_server import Answer, HttpServer
from scripts.settings import Settings
from scripts.steps import Steps


class DefaultVersion(NamedTuple):
    """What answers where no version is named, with its golden photos."""

    server: Server
    model: str
    version: str
    golden: Golden
    precision: str


class Health:
    """Sends golden photos to the default version at an interval, on a thread of its own, and keeps the outcome."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self.settings, self.steps = settings, steps
        self.default: DefaultVersion | None = None
        self.draining = False
        self.ready, self.why, self.since = False, "starting", time.time()
        self.worker_restarts: dict[str, int] = {}  # of each version, since it became the default
        self._pids: dict[str, set[int]] = {}
        self._checks, self._checked_at, self._beat_at = 0, time.monotonic(), time.monotonic()
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
        """The main loop calls this to show that it runs."""
        self._beat_at = time.monotonic()

    def set_default(self, default: DefaultVersion | None) -> None:
        """The default version has changed, or there is none; a new one is checked at once."""
        self.default = default
        self._wake.set()

    def drain(self) -> None:
        """Not ready any more, for good."""
        self.draining = True
        self._set(False, "draining")

    @property
    def live(self) -> bool:
        """Whether the main loop still runs. Draining takes as long as its limits say."""
        return self.draining or time.monotonic() - self._beat_at < self.settings.alive_s

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """(ready, the content of /readyz): {"ready", "version"}, and "why" if it is not ready."""
        default, ready, why = self.default, self.ready, self.why
        # the check's thread may hang: an old success must not count for ever
        if ready and time.monotonic() - self._checked_at > 3 * self.settings.check_s + self.settings.check_timeout_s:
            ready, why = False, "the last check is too long ago"
        status = {"ready": ready, "version": default.version if default else None}
        return ready, status if ready else status | {"why": why}

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self.settings.check_s if self.ready or self.default is None else self.settings.recheck_s)
            self._wake.clear()
            if not self._stop and not self.draining and (default := self.default) is not None:
                try:
                    self._check(default)
                except Exception as error:  # this thread must not end: /readyz would repeat its last outcome for ever
                    if self.default is default:
                        self._set(False, f"the check failed: {error!r}")
            elif self.default is None and not self.draining:
                self._set(False, "no version is served yet")

    def _check(self, default: DefaultVersion) -> None:
        self._checks += 1
        outcome: tuple[bool, str] = (True, "")
        try:
            default.golden.check(
                default.server, default.model, default.version, self._checks, default.precision, self.settings.check_timeout_s
            )
            self._count_restarts(default)
        except UnansweredError as error:
            # a full queue is no reason to take an instance out: the others would get its load on top of theirs
            outcome = (self.ready, "") if error.status in (0, 503) and _overloaded(default) else (False, str(error))
        except VersionError as error:
            outcome = (False, str(error))
        self._checked_at = time.monotonic()
        if self.default is default and not self.draining:  # else another one became the default meanwhile
            self._set(*outcome)

    def _count_restarts(self, default: DefaultVersion) -> None:
        try:
            described = management.version(default.server, default.model, default.version)
        except ManagementError:
            return  # the golden photo was answered all the same: that counts
        pids = {worker["pid"] for worker in described["workers"]}
        gone = self._pids.get(default.version, set()) - pids
        self._pids = {default.version: pids}
        if gone:
            self.worker_restarts[default.version] = self.worker_restarts.get(default.version, 0) + len(gone)

    def _set(self, ready: bool, why: str) -> None:
        if ready != self.ready:
            self.since = time.time()
            self.steps("ready" if ready else "not ready", **({"why": why} if why else {}))
        self.ready, self.why = ready, why


def _overloaded(default: DefaultVersion) -> bool:
    """Whether its queue is more than half full while at least one worker works."""
    try:
        described = management.version(default.server, default.model, default.version)
    except ManagementError:
        return False
    queue = described["jobQueueStatus"]
    working = any(worker["status"] == "READY" for worker in described["workers"])
    return bool(working and queue["pendingRequests"] > queue["remainingCapacity"])


def health_server(host: str, port: int, health: Health) -> HttpServer:
    """Answers /livez and /readyz inside `with`: 200, or 503 with the reason. OSError if the port is taken."""

    def livez() -> Answer:
        return _answer(health.live, {"live": health.live})

    def readyz() -> Answer:
        return _answer(*health.readiness())

    return HttpServer(host, port, {"/livez": livez, "/readyz": readyz}, health.settings.http_timeout_s)


def _answer(good: bool, status: dict[str, Any]) -> Answer:
    return Answer(200 if good else 503, "application/json", (json.dumps(status) + "\n").encode())
