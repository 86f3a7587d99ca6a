"""What hangs is started again, and what was changed by hand is undone: each repair is one logged step.

A worker that ends by itself is restarted by TorchServe, and a TorchServe that ends by supervisor.py. Repair is for what goes on
running and answers nothing: a stopped process, a dead thread of the front end behind a worker that is "READY". First the
default version's workers are restarted, then, if that does not help, TorchServe, unless other models are served well by it.
"""

import time
from collections.abc import Collection, Mapping, Set

import psutil

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server, Workers
from scripts.errors import SeeFoodError
from scripts.serving.health import Health
from scripts.settings import Settings
from scripts.steps import Steps


class HangsError(SeeFoodError):
    """TorchServe has to be restarted; the message says why."""


class Repair:
    """Called for a model at every tick of the main loop: does what health calls for, each as one logged step."""

    def __init__(self, health: Health, model: str, settings: Settings, steps: Steps) -> None:
        self.health, self.model, self.settings, self.steps = health, model, settings, steps
        self._restarted_at: float | None = None  # the workers, for what holds up answers now

    def __call__(self, workers: Workers) -> None:
        """Repair what has hung for long enough; the default version shall have so many workers. HangsError."""
        limit_s = self.settings.repair_s
        if self.health.silent_s > limit_s:
            raise HangsError(f"its front end has not answered for {self.health.silent_s:.0f} s")
        health = self.health.models.get(self.model)
        if health is None or health.stuck_s == 0:
            self._restarted_at = None
        if health is None or health.default is None or health.stuck_s <= limit_s:
            return
        default, now = health.default, time.monotonic()
        if self._restarted_at is not None and now - self._restarted_at <= limit_s:
            return
        try:
            described = management.version(default.server, default.model, default.version)["workers"]
            if any(_starts(worker) for worker in described) and health.stuck_s < self.settings.load_timeout_s:
                return
            # where other models are served well it is this one's workers: they are restarted again, and not all with TorchServe
            if self._restarted_at is not None and not any(one.ready for one in self.health.models.values()):
                raise HangsError(f"new workers have not helped: {health.why}")
            self._restarted_at = now
            self.steps("repair", what="workers restarted", version=default.version, why=health.why)
            pids = {worker["pid"] for worker in described} - {0, -1}
            management.restart_workers(default.server, default.model, default.version, workers, pids)
        except ManagementError as error:
            raise HangsError(str(error)) from error


def _starts(worker: dict[str, object]) -> bool:
    """Whether it is about to be ready: not ready yet, but its process runs."""
    pid = worker["pid"]
    return worker["status"] != "READY" and isinstance(pid, int) and pid > 0 and psutil.pid_exists(pid)


def undo_changes(
    server: Server, model: str, wanted: Mapping[str, Workers], leaving: Set[str], default: str | None, steps: Steps
) -> set[str]:
    """Have `model`'s wanted versions served with so many workers, and no others of it. Those that are gone. ManagementError.

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
    _unregister(server, model, registered.keys() - wanted.keys() - leaving, steps)
    return gone


def unregister_others(server: Server, ours: Collection[str], steps: Steps) -> None:
    """Have no other models served than ours. ManagementError."""
    for model in management.models(server) - set(ours):
        _unregister(server, model, management.versions(server, model).keys(), steps)


def _unregister(server: Server, model: str, foreign: Collection[str], steps: Steps) -> None:
    # the default last: TorchServe keeps it while there are others
    for version in sorted(foreign, key=lambda version: version == management.default_version(server, model)):
        steps("repair", what="unregistered", model=model, version=version, why="it was registered by hand")
        management.unregister(server, model, version)
