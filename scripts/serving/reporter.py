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
from scripts.serving.served_model import ServedModel

POLL_S = 0.5
# stages of a rollout in which somebody may be watching
WATCHED_STAGES = ("baking", "canary")
MAX_CLASSES = 1000  # in a status; each of the others has less than a thousandth of a version's answers


class Reporter:
    """Writes the status inside `with`, and removes it after an orderly end."""

    def __init__(self, instance: Instance, metrics: MetricsServer) -> None:
        self.instance, self.metrics = instance, metrics
        self._states: dict[str, str] = {}
        self._since: dict[str, float] = {}
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
            self._note_states()
            text = to_text(status_of(self.instance, {}, self._since))
            if text != written or time.monotonic() > due:
                written, due = text, time.monotonic() + self._interval_s()
                self._write(True)

    def _note_states(self) -> None:
        """Note since when each model has been in its state."""
        instance = self.instance
        states = {"": instance.state} | {model.name: instance.state_of(model) for model in instance.released}
        for name, state in states.items():
            if self._states.get(name) != state:
                self._since[name] = time.time()
        self._states = states

    def _interval_s(self) -> float:
        """Shorter while a rollout watches; but a canary may stay for days."""
        desired, settings = self.instance.desired, self.instance.settings
        watched = any(release["stage"] in WATCHED_STAGES for release in desired.releases.values())
        lately = time.monotonic() - desired.followed_since < settings.rollout_s + settings.bake_s
        return min(settings.poll_s, settings.heartbeat_s) if watched and lately else settings.heartbeat_s

    def _write(self, keep: bool) -> None:
        try:
            self._note_states()
            status = status_of(self.instance, self.metrics.totals(), self._since) if keep else None
            self.instance.desired.store.write_status(self.instance.desired.instance, status)
            self._last_error = ""
            self._written.set(1)
        except Exception as error:  # this thread must not end: StoreError above all, but also a metrics file that vanishes
            if repr(error) != self._last_error:
                self.instance.steps("status cannot be written", why=error)
            self._last_error = repr(error)
            self._written.set(0)


def status_of(instance: Instance, totals: Mapping[str, Mapping[str, Any]], since: Mapping[str, float]) -> dict[str, Any]:
    """The status document: of one model that model's part, of several {"instance", "models": {name: its part}}.

    `totals` are those of MetricsServer; `since` is when each model's state began (seconds since 1970), "" without a model.
    """
    head = {"instance": instance.desired.instance}
    models = instance.released
    if not models:
        why = "; ".join(problem.why for problem in list(instance.problems.values())) or instance.health.readiness()[1].get(
            "why", ""
        )
        state = {"state": instance.state, "since": round(since.get("", 0.0), 1), "why": why, "release": None, "default": None}
        return head | state | {"versions": [], "ready": False, "shadow": None, "figures": {}, "worker_restarts": {}}
    if len(models) == 1:
        name = models[0].name
        # the counts of workers that ended before anybody saw which model they served are nobody else's
        of_model = {**totals.get("", {}), **totals.get(name, {})}
        return head | {"model": name} | _part(instance, models[0], of_model, since.get(name, 0.0))
    parts = {model.name: _part(instance, model, totals.get(model.name, {}), since.get(model.name, 0.0)) for model in models}
    return head | {"models": parts}


def _part(instance: Instance, model: ServedModel, totals: Mapping[str, Any], since: float) -> dict[str, Any]:
    """What the status says of one model."""
    release, shadow, health = model.release, model.shadow, instance.health.of(model.name)
    checked = instance.health.models.get(model.name)
    unverified = sorted(version for version, one in model.loaded.items() if one and one.golden is None)
    return {
        "state": instance.state_of(model),
        "since": round(since, 1),
        "why": "; ".join(problem.why for problem in model.all_problems) or health.get("why", ""),
        "release": fingerprint(release) if release else None,
        "default": model.default,
        "versions": sorted(model.loaded),
        **({"unverified": unverified} if unverified else {}),
        "programs": {version: one.program_and_why for version, one in sorted(model.loaded.items()) if one},
        "ready": health["ready"],
        # not what was found under another release, in the moment in which this one is taken over
        "shadow": shadow if shadow and release and shadow["release"] == fingerprint(release) else None,
        "figures": {version: _bounded(total, version in model.loaded) for version, total in totals.items()},
        "worker_restarts": dict(checked.worker_restarts) if checked else {},
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
    """The status that was made without metrics, which change with each request: another text means that it has changed."""
    return json.dumps(status, sort_keys=True)
