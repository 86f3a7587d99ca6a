"""What an instance says of itself, written beside the release document whenever it changes."""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from scripts.release.document import fingerprint
from scripts.serving.instance import Instance
from scripts.serving.metrics import MetricsServer

LOOK_S = 0.5


class Stopped(BaseException):
    """SIGINT or SIGTERM came in; not an Exception, so that nothing on the way swallows it."""


class Reporter:
    """Writes this instance's status beside the release document whenever it changes, in a thread of its own."""

    def __init__(self, instance: Instance, metrics: MetricsServer) -> None:
        self.instance, self.metrics = instance, metrics
        self._state, self._since = instance.state, time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._away = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *args: object) -> None:
        self._stop.set()
        self._thread.join(30)
        # of one that was told to stop nothing is left; of one that failed, why
        self._write(kind is not None and not issubclass(kind, Stopped))

    def _run(self) -> None:
        written, due = "", 0.0
        while not self._stop.wait(LOOK_S):
            if self.instance.state != self._state:
                self._state, self._since = self.instance.state, time.time()
            said = to_text(status_of(self.instance, {}, self._since))
            if said != written or time.monotonic() > due:
                written, due = said, time.monotonic() + self._every_s()
                self._write(True)

    def _every_s(self) -> float:
        """More often while somebody is likely to watch: a canary may stay for days."""
        document, settings = self.instance.document, self.instance.settings
        watched = document is not None and document["stage"] in ("baking", "canary")
        lately = time.monotonic() - self.instance.obeyed_since < settings.rollout_s + settings.bake_s
        return min(settings.poll_s, settings.heartbeat_s) if watched and lately else settings.heartbeat_s

    def _write(self, there: bool) -> None:
        try:
            status = status_of(self.instance, self.metrics.figures(), self._since) if there else None
            self.instance.store.write_status(self.instance.name, status)
            self._away = ""
        except Exception as error:  # this thread must not end: StoreError above all, but also figures that just go
            if repr(error) != self._away:
                self.instance.steps("status cannot be written", why=error)
            self._away = repr(error)


def status_of(instance: Instance, figures: Mapping[str, Any], since: float) -> dict[str, Any]:
    """What an instance says of itself, for the status document; `since` is when its state began (seconds since 1970)."""
    document, (ready, said) = instance.document, instance.health.readiness()
    return {
        "instance": instance.name,
        "state": instance.state,
        "since": round(since, 1),
        "why": "; ".join(problem.why for problem in list(instance.problems.values())) or said.get("why", ""),
        "release": fingerprint(document) if document else None,
        "default": instance.default,
        "versions": sorted(instance.loaded),
        "ready": ready,
        "shadow": instance.shadow,
        "figures": figures,
        "worker_restarts": dict(instance.health.worker_restarts),
    }


def to_text(status: Mapping[str, Any]) -> str:
    """To tell whether a status has changed: all but its figures."""
    return json.dumps({key: value for key, value in status.items() if key != "figures"}, sort_keys=True)
