"""The instance's status, written beside the release document whenever it changes, on a thread of its own."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from prometheus_client import Gauge

from scripts.release.document import fingerprint
from scripts.serving.instance import Instance
from scripts.serving.metrics import MetricsServer

POLL_S = 0.5
# stages of a rollout in which somebody may be watching
WATCHED_STAGES = ("baking", "canary")
MAX_CLASSES = 1000  # in a status; each of the others has less than a thousandth of a version's answers


class Reporter:
    """Writes the status inside `with`, and removes it after an orderly end."""

    def __init__(self, instance: Instance, metrics: MetricsServer) -> None:
        self.instance, self.metrics = instance, metrics
        self._state, self._since = instance.state, time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._last_error = ""
        text = "whether the last status was written, without which no rollout sees the instance"
        self._written = Gauge("seefood_instance_status_written", text, registry=metrics.of_instance)
        self._written.set(1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *args: object) -> None:
        self._stop.set()
        self._thread.join(30)
        # after an orderly end (a signal) nothing stays; after a failure the status stays, with the reason
        self._write(kind is not None and not issubclass(kind, KeyboardInterrupt))

    def _run(self) -> None:
        written, due = "", 0.0
        while not self._stop.wait(POLL_S):
            if self.instance.state != self._state:
                self._state, self._since = self.instance.state, time.time()
            text = to_text(status_of(self.instance, {}, self._since))
            if text != written or time.monotonic() > due:
                written, due = text, time.monotonic() + self._interval_s()
                self._write(True)

    def _interval_s(self) -> float:
        """Shorter while a rollout watches; but a canary may stay for days."""
        desired, settings = self.instance.desired, self.instance.settings
        watched = desired.document is not None and desired.document["stage"] in WATCHED_STAGES
        lately = time.monotonic() - desired.followed_since < settings.rollout_s + settings.bake_s
        return min(settings.poll_s, settings.heartbeat_s) if watched and lately else settings.heartbeat_s

    def _write(self, keep: bool) -> None:
        try:
            status = status_of(self.instance, self.metrics.totals(), self._since) if keep else None
            self.instance.desired.store.write_status(self.instance.desired.instance, status)
            self._last_error = ""
            self._written.set(1)
        except Exception as error:  # this thread must not end: StoreError above all, but also a metrics file that vanishes
            if repr(error) != self._last_error:
                self.instance.steps("status cannot be written", why=error)
            self._last_error = repr(error)
            self._written.set(0)


def status_of(instance: Instance, totals: Mapping[str, Any], since: float) -> dict[str, Any]:
    """The status document. `totals` are those of MetricsServer, `since` is when the state began (seconds since 1970)."""
    document, shadow, (ready, readiness) = instance.desired.document, instance.shadow, instance.health.readiness()
    return {
        "instance": instance.desired.instance,
        "state": instance.state,
        "since": round(since, 1),
        "why": "; ".join(problem.why for problem in list(instance.problems.values())) or readiness.get("why", ""),
        "release": fingerprint(document) if document else None,
        "default": instance.default,
        "versions": sorted(instance.loaded),
        "ready": ready,
        # not what was found under another document, in the moment in which this one is taken over
        "shadow": shadow if shadow and document and shadow["release"] == fingerprint(document) else None,
        "figures": {version: _bounded(total, version in instance.loaded) for version, total in totals.items()},
        "worker_restarts": dict(instance.health.worker_restarts),
    }


def _bounded(total: Mapping[str, Any], loaded: bool) -> dict[str, Any]:
    """A version's figures for the status, which a rollout reads of each instance: answers only while somebody may ask for more."""
    bounded = {name: counts for name, counts in total.items() if name != "answers"}
    if loaded and "answers" in total:
        bounded["answers"] = {**total["answers"], **_most_frequent(total["answers"]["classes"])}
    return bounded


def _most_frequent(classes: Mapping[str, float]) -> dict[str, Any]:
    """All classes; of more than MAX_CLASSES the most frequent, how many answers have others, and a hash of all labels."""
    if len(classes) <= MAX_CLASSES:
        return {"classes": dict(classes)}
    kept = dict(sorted(classes.items(), key=lambda one: (-one[1], one[0]))[:MAX_CLASSES])
    labels = hashlib.sha256(json.dumps(sorted(classes)).encode()).hexdigest()
    return {"classes": kept, "others": sum(classes.values()) - sum(kept.values()), "labels": labels[:16]}


def to_text(status: Mapping[str, Any]) -> str:
    """Everything but the metrics, which change with each request: another text means that the status has changed."""
    return json.dumps({key: value for key, value in status.items() if key != "figures"}, sort_keys=True)
