"""The versions of a model in one TorchServe: load one and have it prove itself, or drain one and remove it.

None of this stops traffic. scripts/serving/instance.py does it to follow a release document, `make rollout URL=...` for a
TorchServe that runs without one.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from handler.expected import Expected, expected_answers, name_in_float
from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.process import LOG_DELAY_S
from scripts.errors import SeeFoodError

POLL_S = 0.1
LOAD_POLL_S = 0.03  # while a version loads, which clients may be waiting for
# a worker's traceback in TorchServe's log ends with the exception: MODEL_LOG - ValueError: ...
EXCEPTION = re.compile(r"MODEL_LOG - ((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")


class VersionError(SeeFoodError):
    """A version cannot be served; the message says why."""


class UnansweredError(VersionError):
    """A golden photo got no answer, so nothing is known about the version's answers.

    `busy`: it waited in the queue, or the queue had no room for it, as happens to clients' photos, too.
    """

    def __init__(self, message: str, busy: bool = False) -> None:
        super().__init__(message)
        self.busy = busy


@dataclass(frozen=True)
class Golden:
    """An archive's golden photos, and what each program answered to them where it was exported: golden.json."""

    names: list[str]
    photos: list[bytes]
    expected: dict[str, Expected]  # by program
    texts: list[str]  # beside each photo, mostly ""; a text alone has an empty photo

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Golden":
        """From golden.json."""
        photos = content["photos"]
        return cls(
            [photo["name"] for photo in photos],
            [base64.b64decode(photo["image"]) for photo in photos],
            expected_answers(content),
            [photo.get("text", "") for photo in photos],
        )

    @property
    def num_classes(self) -> int:
        """Of the model."""
        return max(len(one.probabilities[0]) for one in self.expected.values())

    def ask(self, server: Server, path: str, i: int, top_k: int, timeout_s: float) -> httpx.Response:
        """The answer of /predictions/<path> to photo `i`, modulo their number. Raises httpx.HTTPError."""
        i %= len(self.photos)
        return server.predict(path, self.photos[i], top_k, timeout_s, self.texts[i])

    def off(self, i: int, predictions: Sequence[Mapping[str, Any]], program: str = "") -> tuple[float, float]:
        """How far all classes' probabilities for photo `i` are off from this program's, or those of the one that is nearest.

        And how far they may be. VersionError for a program that is not known; KeyError, TypeError, IndexError or ValueError for
        what is no answer, or another model's.
        """
        names = [name for name in self.expected if name in (program, name_in_float(program))] if program else [*self.expected]
        if not names:
            raise VersionError(f"golden.json has no answers of the program {program}")
        pairs = []
        for one in map(self.expected.__getitem__, names):
            row = one.probabilities[i]
            offs = [abs(each["probability"] - row[each["index"]]) for each in predictions]
            pairs.append((math.nan if any(map(math.isnan, offs)) else max(offs), one.tolerance))
        return min(pairs, key=lambda pair: (math.isnan(pair[0]), pair[0] - pair[1]))

    def check(self, server: Server, path: str, version: str, i: int, timeout_s: float, program: str = "") -> None:
        """Send photo `i`, modulo their number, to /predictions/<path> and check the answer, of this program or of any.

        UnansweredError if there is none, VersionError if it is wrong or comes from another version.
        """
        i %= len(self.photos)
        name = self.names[i]
        try:
            response = self.ask(server, path, i, self.num_classes, timeout_s)
        except httpx.HTTPError as error:
            raise UnansweredError(
                f"golden photo {name!r} got no answer: {error or type(error).__name__}", isinstance(error, httpx.TimeoutException)
            ) from error
        if response.is_error:
            raise UnansweredError(
                f"golden photo {name!r} got status {response.status_code}: {response.text[:300]}", _refused_unread(response)
            )
        try:
            answer = response.json()
            answered_by = answer["version"]
            off, tolerance = self.off(i, answer["predictions"], program)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise VersionError(f"golden photo {name!r}: unexpected answer format: {error!r}") from error
        if answered_by != version:
            raise VersionError(f"golden photo {name!r} is answered by version {answered_by}, not {version}")
        if not off <= tolerance:  # nan is wrong, too
            raise VersionError(
                f"golden photo {name!r} answered incorrectly: probability off by {off:.2g}, tolerance {tolerance:.2g}"
            )


def _refused_unread(response: httpx.Response) -> bool:
    """Whether the front end refused it for a full queue; an error of the worker comes with another type."""
    return response.status_code == 503 and "ServiceUnavailableException" in response.text[:200]


def program_of(described: Mapping[str, Any]) -> str:
    """The name of the program that a worker runs, by its description; its precision names that of an older archive. KeyError."""
    return str(described.get("program") or described["precision"])


def read_golden(folder: Path) -> Golden:
    """The golden photos of an unpacked archive. VersionError if they cannot be read."""
    try:
        return Golden.of(json.loads((folder / "golden.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VersionError(f"its golden.json cannot be read: {error!r}") from error


def prove(
    server: Server, model: str, version: str, golden: Golden, timeout_s: float, watch: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """What a version says of itself that answers all golden photos correctly, each within the time-out. VersionError if not.

    Clients may send it photos already, as to a restarted server's only version: a full queue is waited for. `watch` is called
    meanwhile.
    """
    described: dict[str, Any] = {}

    def describe(deadline: float) -> None:
        try:
            described.update(management.describe(server, model, version, deadline - time.monotonic()))
            program_of(described)
        except (ManagementError, KeyError, TypeError, ValueError) as error:
            busy = isinstance(error, ManagementError) and error.status == 503
            raise UnansweredError(f"version {version} returned no description: {error}", busy) from error

    def check(i: int) -> Callable[[float], None]:
        path = f"{model}/{version}"
        return lambda deadline: golden.check(server, path, version, i, deadline - time.monotonic(), program_of(described))

    for step in (describe, *map(check, range(len(golden.photos)))):
        deadline = time.monotonic() + timeout_s
        while True:
            watch()
            try:
                step(deadline)
                break
            except UnansweredError as error:
                if not error.busy or time.monotonic() + POLL_S > deadline:
                    raise
            time.sleep(POLL_S)
    return described


def load(server: Server, model: str, version: str, url: str, timeout_s: float, log: Path | None, watch: Callable[[], None]) -> None:
    """Register a version and wait until its workers are ready. VersionError, with the version unregistered, if they fail.

    `log` is TorchServe's, for the reason of a failed start; `watch` is called meanwhile, and may raise to give up.
    """
    deadline = time.monotonic() + timeout_s
    log_start = log.stat().st_size if log and log.exists() else 0
    try:
        management.register(server, model, url)
        seen: set[int] = set()
        while True:
            workers = management.version(server, model, version)["workers"]
            if workers and all(worker["status"] == "READY" for worker in workers):
                return
            # TorchServe restarts a worker that fails to start, without end: a process that has gone is a failure
            pids = {worker["pid"] for worker in workers if worker["pid"] > 0}
            if seen - pids or (log and any(not psutil.pid_exists(pid) for pid in pids)):
                raise VersionError(f"version {version} cannot be loaded: {_reason(log, log_start)}")
            seen |= pids
            if time.monotonic() > deadline:
                raise VersionError(f"version {version} was not ready within {timeout_s:g} s")
            watch()
            time.sleep(LOAD_POLL_S)
    except BaseException as error:
        forget(server, model, version)
        if isinstance(error, ManagementError):
            raise VersionError(f"version {version} cannot be registered: {error}") from error
        raise


def _reason(log: Path | None, start: int) -> str:
    """The last exception in TorchServe's log, from position `start` on."""
    if log is None:
        return "its worker ended while it started; see TorchServe's log"
    time.sleep(LOG_DELAY_S)
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    exceptions = [match[1] for line in lines if (match := EXCEPTION.search(line))]
    return exceptions[-1] if exceptions else f"its worker ended while it started; see {log}"


def forget(server: Server, model: str, version: str) -> None:
    """Unregister a version that never served, if it is registered at all."""
    try:
        management.unregister(server, model, version)
    except ManagementError:
        return  # it was not registered, or TorchServe is gone and its models with it


def wait_until_idle(
    server: Server,
    model: str,
    version: str,
    golden: Golden | None,
    limit_s: float,
    settle_s: float,
    beat: Callable[[], None] = lambda: None,
) -> bool:
    """Whether, within the limit, a version came to have nothing queued and nothing running. `beat` is called meanwhile.

    TorchServe's API shows what is queued, but not what is running. A worker takes one batch after the other: once each
    worker can have answered a golden photo, nothing is running that began before. One worker may answer for all while
    another is still busy, so the same must hold again after `settle_s`, or five times that with several workers. Without golden
    photos nothing shows what is running, and it is five times that, too.
    """
    deadline = time.monotonic() + limit_s
    quiet_since: float | None = None
    while time.monotonic() < deadline:
        beat()
        described = management.version(server, model, version)
        workers = len(described["workers"])
        if described["jobQueueStatus"]["pendingRequests"] > 0:
            quiet_since = None
        elif golden is None or _all_answer(server, f"{model}/{version}", golden, workers, deadline):
            now = time.monotonic()
            quiet_since = quiet_since or now
            if now - quiet_since >= settle_s * (5 if workers > 1 or golden is None else 1):
                return True
        time.sleep(min(POLL_S, settle_s))
    return False


def _all_answer(server: Server, path: str, golden: Golden, workers: int, deadline: float) -> bool:
    """Whether as many golden photos as there are workers, sent at once, are all answered."""

    def answers(i: int) -> bool:
        try:
            return golden.ask(server, path, i, 1, max(0.1, deadline - time.monotonic())).is_success
        except httpx.HTTPError:
            return False

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return all(pool.map(answers, range(workers)))


def remove(
    server: Server,
    model: str,
    version: str,
    golden: Golden | None,
    limit_s: float,
    settle_s: float,
    beat: Callable[[], None] = lambda: None,
) -> bool:
    """Drain a version that is not the default and unregister it; whether it was idle by then. Raises ManagementError."""
    idle = wait_until_idle(server, model, version, golden, limit_s, settle_s, beat)
    management.unregister(server, model, version)
    return idle
