"""The versions of one TorchServe: load one and let it prove itself, or drain one and remove it. Nothing here stops traffic.

scripts/serving/instance.py does this for a release document, `make rollout URL=...` for a TorchServe that was started by hand.
"""

import base64
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.archive.build import MODEL
from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server

POLL_S = 0.1


class VersionError(RuntimeError):
    """A version cannot be served; the message says why."""


class UnansweredError(VersionError):
    """A golden photo got no answer, so nothing is known about the version's answers; `status` is HTTP's, 0 for none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Golden:
    """An archive's golden photos with the probabilities that training computed: golden.json."""

    names: list[str]
    photos: list[bytes]
    probabilities: list[list[float]]
    tolerance: dict[str, float]  # by precision

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Golden":
        """From golden.json."""
        photos = content["photos"]
        return cls(
            [photo["name"] for photo in photos],
            [base64.b64decode(photo["image"]) for photo in photos],
            [photo["probabilities"] for photo in photos],
            content["tolerance"],
        )

    def ask(self, server: Server, path: str, version: str, i: int, precision: str, timeout_s: float) -> None:
        """Ask photo `i` (counted round) at /predictions/<path>.

        UnansweredError if that gets no answer, VersionError if it gets a wrong one or that of another version.
        """
        i %= len(self.photos)
        name, expected = self.names[i], self.probabilities[i]
        try:
            response = server.predict(path, self.photos[i], len(expected), timeout_s)
        except httpx.HTTPError as error:
            raise UnansweredError(f"golden photo {name!r} got no answer: {error or type(error).__name__}") from error
        if response.is_error:
            raise UnansweredError(
                f"golden photo {name!r} is answered {response.status_code}: {response.text[:300]}", response.status_code
            )
        try:
            answer = response.json()
            answered_by, tolerance = answer["version"], self.tolerance[precision]
            off = max(abs(one["probability"] - expected[one["index"]]) for one in answer["predictions"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise VersionError(f"golden photo {name!r} is answered in another form: {error!r}") from error
        if answered_by != version:
            raise VersionError(f"golden photo {name!r} is answered by version {answered_by}, not {version}")
        if not off <= tolerance:
            raise VersionError(f"golden photo {name!r} is answered wrong: off by {off:.2g}, at most {tolerance:.2g}")


def prove(server: Server, version: str, golden: Golden, timeout_s: float) -> str:
    """Its precision, once a version has answered all golden photos rightly. VersionError if it has not."""
    try:
        precision = str(management.describe(server, MODEL, version)["precision"])
    except (ManagementError, KeyError, TypeError) as error:
        raise VersionError(f"version {version} does not describe itself: {error}") from error
    for i in range(len(golden.photos)):
        golden.ask(server, f"{MODEL}/{version}", version, i, precision, timeout_s)
    return precision


def load(server: Server, version: str, url: str, timeout_s: float, log: Path | None, watch: Callable[[], None]) -> None:
    """Register a version and wait until its workers are ready. VersionError, with nothing left of it, if they are not in time.

    `log` is TorchServe's, where the reason of a failed start stands; `watch` is called meanwhile, and may raise to end it.
    """
    deadline = time.monotonic() + timeout_s
    log_start = log.stat().st_size if log and log.exists() else 0
    try:
        management.register(server, MODEL, url)
        seen: set[int] = set()
        while True:
            workers = management.version(server, MODEL, version)["workers"]
            if workers and all(worker["status"] == "READY" for worker in workers):
                return
            # a worker that fails to start is started again, and again: a process that has gone is a failure
            pids = {worker["pid"] for worker in workers if worker["pid"] > 0}
            if seen - pids or (log and any(not psutil.pid_exists(pid) for pid in pids)):
                raise VersionError(f"version {version} cannot be loaded: {_reason(log, log_start)}")
            seen |= pids
            if time.monotonic() > deadline:
                raise VersionError(f"version {version} was not ready within {timeout_s:g} s")
            watch()
            time.sleep(POLL_S)
    except BaseException as error:
        forget(server, version)
        if isinstance(error, ManagementError):
            raise VersionError(f"version {version} cannot be registered: {error}") from error
        raise


def forget(server: Server, version: str) -> None:
    """Unregister a version that never served, if it is there at all."""
    try:
        management.unregister(server, MODEL, version)
    except ManagementError:
        return  # it was not registered, or TorchServe is gone and its models with it


def _reason(log: Path | None, start: int) -> str:
    """The last exception in TorchServe's log from there on."""
    if log is None:
        return "its worker ended while it started; see TorchServe's log"
    time.sleep(0.5)  # its logging is asynchronous
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    found = [
        match[1] for line in lines if (match := re.search(r"MODEL_LOG - ((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)", line))
    ]
    return found[-1] if found else f"its worker ended while it started; see {log}"


def wait_until_idle(
    server: Server, version: str, golden: Golden, limit_s: float, settle_s: float, beat: Callable[[], None] = lambda: None
) -> bool:
    """Whether a version got to have nothing queued and nothing running within the limit.

    TorchServe tells what is queued. What runs ends before what comes after it: once each worker can have answered a golden
    photo, nothing runs that began before. The same must hold again after `settle_s`, five times that with several workers,
    as one of them may answer for all while another is still busy. `beat` is called meanwhile.
    """
    deadline = time.monotonic() + limit_s
    quiet_since: float | None = None
    while time.monotonic() < deadline:
        beat()
        described = management.version(server, MODEL, version)
        if described["jobQueueStatus"]["pendingRequests"] > 0:
            quiet_since = None
        elif _all_answer(server, version, golden, len(described["workers"]), deadline):
            now = time.monotonic()
            quiet_since = quiet_since or now
            if now - quiet_since >= settle_s * (5 if len(described["workers"]) > 1 else 1):
                return True
        time.sleep(min(POLL_S, settle_s))
    return False


def _all_answer(server: Server, version: str, golden: Golden, workers: int, deadline: float) -> bool:
    def ask(i: int) -> bool:
        try:
            photo = golden.photos[i % len(golden.photos)]
            response = server.predict(f"{MODEL}/{version}", photo, 1, max(0.1, deadline - time.monotonic()))
        except httpx.HTTPError:
            return False
        return response.is_success

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return all(pool.map(ask, range(workers)))


def remove(
    server: Server, version: str, golden: Golden, limit_s: float, settle_s: float, beat: Callable[[], None] = lambda: None
) -> bool:
    """Drain a version that is not the default one and unregister it; whether it was idle then. Raises ManagementError."""
    idle = wait_until_idle(server, version, golden, limit_s, settle_s, beat)
    management.unregister(server, MODEL, version)
    return idle


def read_golden(folder: Path) -> Golden:
    """Of an unpacked archive. VersionError if it cannot be read."""
    try:
        return Golden.of(json.loads((folder / "golden.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VersionError(f"its golden.json cannot be read: {error!r}") from error
