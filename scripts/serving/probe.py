"""A golden photo on its way to the default version: sent as a client sends its photos, and waiting in the queue as theirs do."""

import threading
from collections.abc import Callable
from typing import NamedTuple

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.versions import Golden, UnansweredError, VersionError


class DefaultVersion(NamedTuple):
    """What answers where no version is named, with its golden photos."""

    server: Server
    model: str
    version: str
    golden: Golden | None  # None of an archive that is not ours
    program: str


class Probe:
    """Golden photo `i`, on a thread of its own, so that nobody else waits for its answer."""

    def __init__(self, default: DefaultVersion, i: int, timeout_s: float, done: Callable[[], None]) -> None:
        """Send it; `done` is called when it has been answered or given up."""
        self.default, self.i, self.timeout_s, self.done = default, i, timeout_s, done
        self.over = False
        self.error: VersionError | None = None  # why there is no right answer, once it is over
        self.pids: set[int] | None = None  # of the version's workers, if they are known
        threading.Thread(target=self._run, name="golden photo", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether it waited too long in the queue, or was refused by a full one: the version may be right all the same."""
        return isinstance(self.error, UnansweredError) and self.error.busy and self.pids != set()

    def _run(self) -> None:
        try:
            self._ask(self.default)
        finally:
            self.over = True
            self.done()

    def _ask(self, default: DefaultVersion) -> None:
        try:
            if default.golden is not None:
                default.golden.check(default.server, default.model, default.version, self.i, self.timeout_s, default.program)
        except VersionError as error:
            self.error = error
        except Exception as error:  # its TorchServe may be stopped meanwhile, and the client with it
            self.error = VersionError(f"the check failed: {error!r}")
        try:
            described = management.version(default.server, default.model, default.version)
            self.pids = {worker["pid"] for worker in described["workers"]}
            if default.golden is None and not any(worker["status"] == "READY" for worker in described["workers"]):
                self.error = UnansweredError(f"no worker of {default.model} {default.version} is ready")
        except (ManagementError, RuntimeError):
            return  # the answer counts all the same
