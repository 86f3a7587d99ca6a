"""What is known of one model's default version: whether it gives right answers, and whether its answers move."""

import time
from collections.abc import Callable

from scripts.backend.torchserve.versions import UnansweredError
from scripts.serving.probe import DefaultVersion, Probe
from scripts.settings import Settings

MISSES = 2  # in a row, before it counts: one golden photo that a worker's end took with it, one look that came to a busy machine
NOTHING = "no version is served yet"


class ModelHealth:
    """Looked at by Health's thread, which keeps the outcome here."""

    def __init__(self, settings: Settings, wake: Callable[[], None]) -> None:
        """`wake()` is called when a golden photo is over."""
        self.settings, self.wake = settings, wake
        self.default: DefaultVersion | None = None
        self.ready, self.why = False, NOTHING
        self.stuck_s = 0.0  # for how long requests have waited and none was answered, or golden photos were answered wrongly
        self.worker_restarts: dict[str, int] = {}  # of each version, since it became the default
        self._pids: dict[str, set[int]] = {}
        self._probes = 0
        self._looked_at: DefaultVersion | None = None
        self._forget()

    def _forget(self) -> None:
        """Nothing is known about the default version yet."""
        self._probe: Probe | None = None
        self._proved, self._waits = False, False
        self._failed, self._fault = 0, "no golden photo has been answered yet"
        self._progress, self._next_probe = 0.0, 0.0
        self.stuck_s = 0.0

    def look(self, default: DefaultVersion | None, elapsed_s: float, progress: float) -> None:
        """Look at this default version, so long after the look before: golden photos that are over count, others are sent.

        `progress` is another number after each answer of its workers.
        """
        if default is None or self._looked_at is None or default.server is not self._looked_at.server:
            self._forget()
            self._pids = {}  # workers that went with their TorchServe are no restarts of their own
        elif default is not self._looked_at:
            self._probe, self._waits, self._failed, self._next_probe = None, False, 0, 0.0
        self._looked_at = default
        if default is None:
            return
        if self._probe is not None and self._probe.over:
            self._take(self._probe)
        moves, self._progress = progress != self._progress, progress
        stuck = self._failed >= MISSES or (self._waits and not moves)
        self.stuck_s = self.stuck_s + elapsed_s if stuck else 0.0
        if self._probe is None and time.monotonic() >= self._next_probe:
            self._probes, self._waits = self._probes + 1, True
            self._probe = Probe(default, self._probes, self.settings.check_timeout_s, self.wake)

    def fault(self) -> str:
        """Why it is not ready by the looks so far; "" if it is."""
        if self._looked_at is None:
            return NOTHING
        if not self._proved or self._failed >= MISSES:
            return self._fault
        if self.stuck_s > self.settings.stall_s:
            return f"requests wait, and none has been answered for more than {self.settings.stall_s:g} s"
        return ""

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
