"""What hangs is started again, and what was changed by hand is undone: each repair is one logged step.

A worker that ends by itself is restarted by TorchServe, and a TorchServe that ends by supervisor.py. Repair is for what goes on
running and answers nothing: a stopped process, a dead thread of the front end behind a worker that is "READY". First the
default version's workers are restarted, then, if that does not help, TorchServe.
"""

import time
from collections.abc import Mapping, Set

import psutil

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server, Workers
from scripts.errors import SeeFoodError
from scripts.serving.health import Health
from scripts.serving.probe import DefaultVersion
from scripts.settings import Settings
from scripts.steps import Steps


class HangsError(SeeFoodError):
    """TorchServe has to be restarted; the message says why."""


class Repair:
    """Called at every tick of the main loop: does what health calls for, each as one logged step."""

    def __init__(self, health: Health, settings: Settings, steps: Steps) -> None:
        self.health, self.settings, self.steps = health, settings, steps
        self._restarted_at: float | None = None  # the workers, for what holds up answers now

    def __call__(self, workers: Workers) -> None:
        """Repair what has hung for long enough; the default version shall have so many workers. HangsError."""
        health, limit_s = self.health, self.settings.repair_s
        if health.silent_s > limit_s:
            raise HangsError(f"its front end has not answered for {health.silent_s:.0f} s")
        if health.stuck_s == 0:
            self._restarted_at = None
        default = health.default
        if default is None or health.stuck_s <= limit_s:
            return
        now = time.monotonic()
        if self._restarted_at is not None and now - self._restarted_at <= limit_s:
            return
        try:
            described = management.version(default.server, default.model, default.version)["workers"]
            if any(_starts(worker) for worker in described) and health.stuck_s < self.settings.load_timeout_s:
                return
            if self._restarted_at is not None:
                raise HangsError(f"new workers have not helped: {health.why}")
            self._restarted_at = now
            self._restart_workers(default, workers, {worker["pid"] for worker in described})
        except ManagementError as error:
            raise HangsError(str(error)) from error

    def _restart_workers(self, default: DefaultVersion, workers: Workers, pids: set[int]) -> None:
        self.steps("repair", what="workers restarted", version=default.version, why=self.health.why)
        management.restart_workers(default.server, default.model, default.version, workers, pids - {0, -1})


def _starts(worker: dict[str, object]) -> bool:
    """Whether it is about to be ready: not ready yet, but its process runs."""
    pid = worker["pid"]
    return worker["status"] != "READY" and isinstance(pid, int) and pid > 0 and psutil.pid_exists(pid)


def undo_changes(
    server: Server, model: str, wanted: Mapping[str, Workers], leaving: Set[str], default: str | None, steps: Steps
) -> set[str]:
    """Have `model`'s wanted versions served with so many workers, and nothing else. Those that are gone. ManagementError.

    Versions that are leaving are left alone: TorchServe has scaled one down that it could not unregister.
    """
    registered = management.versions(server, model)
    gone = wanted.keys() - registered
    for version in gone:
        steps("repair", what="to be loaded again", version=version, why="it was unregistered by hand")
    if default in registered and default in wanted and (found := management.default_version(server, model)) != default:
        steps("repair", what="default set back", version=default, why=f"it was changed to {found} by hand")
        management.set_default(server, model, default)
    for version in wanted.keys() & registered:
        workers = Workers.of(registered[version])
        if workers != wanted[version]:
            why = f"they were scaled to {workers.least} to {workers.most} by hand"
            steps("repair", what="workers scaled back", version=version, why=why)
            management.scale(server, model, version, wanted[version])
    for name in management.models(server):
        foreign = management.versions(server, name).keys() - (wanted.keys() | leaving if name == model else set())
        # the default last: TorchServe keeps it while there are others
        for version in sorted(foreign, key=lambda version: version == management.default_version(server, name)):
            steps("repair", what="unregistered", model=name, version=version, why="it was registered by hand")
            management.unregister(server, name, version)
    return gone
