"""Whether this instance is alive, and whether it is ready: what the door answers to GET /livez and /readyz.

Ready means that the default version gives right answers, and that answers move. A golden photo is sent every few seconds, and
waits in TorchServe's queue behind what the door has let in, a batch or two: while it waits, the instance is busy, and ready as
long as its workers' counters rise. TorchServe's /ping is "Healthy" with no model at all; here it only shows whether the
front end still answers anything.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

from scripts.backend.torchserve import management
from scripts.backend.torchserve.versions import UnansweredError
from scripts.serving.probe import DefaultVersion, Probe
from scripts.settings import Settings
from scripts.steps import Steps

MISSES = 2  # in a row, before it counts: one golden photo that a worker's end took with it, one look that came to a busy machine


class Health:
    """Looks at the default version at an interval, on a thread of its own, and keeps the outcome."""

    def __init__(
        self,
        settings: Settings,
        steps: Steps,
        progress: Callable[[str], float] = lambda version: 0.0,
        door_answers: Callable[[], bool] = lambda: True,
    ) -> None:
        """`progress(version)` is another number after each answer of a version's workers; `door_answers()` as the name says."""
        self.settings, self.steps, self.progress, self.door_answers = settings, steps, progress, door_answers
        self.default: DefaultVersion | None = None
        self.draining = False
        self.ready, self.why, self.since = False, "starting", time.time()
        self.silent_s = 0.0  # for how long the front end has answered nothing
        self.stuck_s = 0.0  # for how long requests have waited and none was answered, or golden photos were answered wrongly
        self.worker_restarts: dict[str, int] = {}  # of each version, since it became the default
        self._pids: dict[str, set[int]] = {}
        self._forget()
        self._probes, self._looked_at, self._beat_at = 0, time.monotonic(), time.monotonic()
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def _forget(self) -> None:
        """Nothing is known about the default version yet."""
        self._probe: Probe | None = None
        self._proved, self._waits = False, False
        self._silent, self._failed, self._fault = 0, 0, "no golden photo has been answered yet"
        self._progress, self._next_probe = 0.0, 0.0
        self.silent_s = self.stuck_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop = True
        self._wake.set()
        self._thread.join(self.settings.look_timeout_s + 5)

    def beat(self) -> None:
        """The main loop calls this to show that it runs."""
        self._beat_at = time.monotonic()

    def set_default(self, default: DefaultVersion | None) -> None:
        """The default version has changed, or there is none; a new one, which has proved itself already, is looked at at once."""
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

    @property
    def _look_limit_s(self) -> float:
        return 2 * (self.settings.look_s + self.settings.look_timeout_s)

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """(ready, the content of /readyz): {"ready", "version"}, and "why" if it is not ready."""
        default, ready, why = self.default, self.ready, self.why
        # the thread that looks may hang: an old success must not count for ever
        if ready and time.monotonic() - self._looked_at > self._look_limit_s:
            ready, why = False, "the last look is too long ago"
        status = {"ready": ready, "version": default.version if default else None}
        return ready, status if ready else status | {"why": why}

    def _run(self) -> None:
        looked_at: DefaultVersion | None = None
        while not self._stop:
            self._wake.wait(self.settings.look_s)
            self._wake.clear()
            default = self.default
            if self._stop or self.draining:
                continue
            if default is None or looked_at is None or default.server is not looked_at.server:
                self._forget()
            elif default is not looked_at:
                self._probe, self._waits, self._failed, self._next_probe = None, False, 0, 0.0
            looked_at = default
            try:
                outcome = self._look(default) if default else (False, "no version is served yet")
            except Exception as error:  # this thread must not end: /readyz would repeat its last outcome for ever
                outcome = (False, f"the check failed: {error!r}")
            if self.default is default and not self.draining:  # else another one became the default meanwhile
                self._set(*outcome)
            self._looked_at = time.monotonic()

    def _look(self, default: DefaultVersion) -> tuple[bool, str]:
        """(ready, why not). Takes no longer than the look's time-out, whatever hangs."""
        answers = management.answers(default.server.inference, "/ping", self.settings.look_timeout_s)
        # since the look before; but if this process was stopped meanwhile, nobody looked
        elapsed_s = min(time.monotonic() - self._looked_at, self._look_limit_s)
        self._silent = 0 if answers else self._silent + 1
        self.silent_s = 0.0 if answers else self.silent_s + elapsed_s
        progress = self.progress(default.version)
        if self._probe is not None and self._probe.over:
            self._take(self._probe)
        moves, self._progress = progress != self._progress, progress
        stuck = self._failed >= MISSES or (self._waits and not moves)
        self.stuck_s = self.stuck_s + elapsed_s if stuck else 0.0
        if self._probe is None and time.monotonic() >= self._next_probe:
            self._probes, self._waits = self._probes + 1, True
            self._probe = Probe(default, self._probes, self.settings.check_timeout_s, self._wake.set)
        if not self.door_answers():
            return False, "the door does not answer"
        if self._silent >= MISSES:
            return False, "the front end does not answer"
        if not self._proved or self._failed >= MISSES:
            return False, self._fault
        if self.stuck_s > self.settings.stall_s:
            return False, f"requests wait, and none has been answered for more than {self.settings.stall_s:g} s"
        return True, ""

    def _take(self, probe: Probe) -> None:
        """Note a golden photo's outcome. One for which there was no time or no room leaves the state as it is."""
        self._probe = None
        self._next_probe = time.monotonic() + self.settings.look_s
        if probe.pids is not None:
            self._count_restarts(probe.default.version, probe.pids)
        if probe.error is None:
            self._proved, self._failed, self._waits = True, 0, False
            self._next_probe = time.monotonic() + self.settings.check_s
        elif not probe.busy:
            # a wrong answer counts at once, a lost one the second time
            self._failed = self._failed + 1 if isinstance(probe.error, UnansweredError) else MISSES
            self._fault, self._waits = str(probe.error), False
            if self._failed < MISSES:
                self._next_probe = 0.0

    def _count_restarts(self, version: str, pids: set[int]) -> None:
        gone = self._pids.get(version, set()) - pids
        self._pids = {version: pids}
        if gone:
            self.worker_restarts[version] = self.worker_restarts.get(version, 0) + len(gone)

    def _set(self, ready: bool, why: str) -> None:
        if ready != self.ready:
            self.since = time.time()
            self.steps("ready" if ready else "not ready", **({"why": why} if why else {}))
        self.ready, self.why = ready, why
