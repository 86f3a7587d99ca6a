"""Whether this instance is alive, and whether it is ready: what the door answers to GET /livez and /readyz.

Ready means that the default version of each model gives right answers, and that answers move. A golden photo is sent every few
seconds, and waits in TorchServe's queue behind what the door has let in, a batch or two: while it waits, the instance is busy, and
ready as long as its workers' counters rise. TorchServe's /ping is "Healthy" with no model at all; here it only shows whether the
front end still answers anything.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from scripts.backend.torchserve import management
from scripts.serving.model_health import MISSES as MISSES
from scripts.serving.model_health import ModelHealth
from scripts.serving.probe import DefaultVersion
from scripts.settings import Settings
from scripts.steps import Steps


class Health:
    """Looks at the default versions at an interval, on a thread of its own, and keeps the outcome."""

    def __init__(
        self,
        settings: Settings,
        steps: Steps,
        progress: Callable[[], Mapping[tuple[str, str], float]] = dict,
        door_answers: Callable[[], bool] = lambda: True,
    ) -> None:
        """`progress()` has, by (model, version), another number after each answer; `door_answers()` as the name says."""
        self.settings, self.steps, self.progress, self.door_answers = settings, steps, progress, door_answers
        self.models: dict[str, ModelHealth] = {}  # those that have a default version, and those that shall
        self.unverified: set[str] = set()  # of those, the ones that do not count
        self.draining = False
        self.ready, self.why = False, "starting"
        self.silent_s = 0.0  # for how long the front end has answered nothing
        self._silent = 0
        self._began = self._looked_at = self._beat_at = time.monotonic()
        self._wake, self._stop = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

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

    def expect(self, models: Collection[str], unverified: Collection[str] = ()) -> None:
        """Ready is what has each of these models ready, but for those whose archive is not ours. Others are forgotten."""
        self.unverified = set(unverified)
        kept = {name: one for name, one in self.models.items() if name in models}
        new = {name: ModelHealth(self.settings, self._wake.set) for name in models if name not in kept}
        if new or len(kept) < len(self.models):
            self.models = kept | new  # at once: the other thread reads it meanwhile
            self._wake.set()

    def set_default(self, default: DefaultVersion) -> None:
        """A model's default version has changed; a new one, which has proved itself already, is looked at at once."""
        if default.model not in self.models:
            self.expect([*self.models, default.model])
        self.models[default.model].default = default
        self._wake.set()

    def forget(self) -> None:
        """No model has a default version any more."""
        for model in self.models.values():
            model.default = None
        self._wake.set()

    def drain(self) -> None:
        """Not ready any more, for good."""
        self.draining = True
        for model in self.models.values():
            model.ready, model.why = False, "draining"
        self._set(False, "draining")

    @property
    def live(self) -> bool:
        """Whether the main loop still runs. Draining takes as long as its limits say."""
        return self.draining or time.monotonic() - self._beat_at < self.settings.alive_s

    @property
    def _look_limit_s(self) -> float:
        return 2 * (self.settings.look_s + self.settings.look_timeout_s)

    @property
    def _is_old(self) -> bool:
        # the thread that looks may hang: an old success must not count for ever
        return time.monotonic() - self._looked_at > self._look_limit_s

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """(ready, the content of /readyz): {"ready", "version"}, and "why" if it is not ready.

        Of several models {"ready", "models": {name: {"ready", "version"}}}, with a "why" for each that is not.
        """
        models = self.models
        ready, why = self.ready, self.why
        if ready and self._is_old:
            ready, why = False, "the last look is too long ago"
        if len(models) > 1:
            parts = {name: self.of(name) for name in sorted(models)}
            return ready, {"ready": ready, "models": parts} | ({} if ready else {"why": why})
        default = next((one.default for one in models.values()), None)
        status = {"ready": ready, "version": default.version if default else None}
        return ready, status if ready else status | {"why": why}

    def of(self, name: str) -> dict[str, Any]:
        """What readiness() says of one model; with "unverified" if its archive is not ours."""
        model = self.models.get(name)
        ready, why, default = (model.ready, model.why, model.default) if model else (False, "not served yet", None)
        if ready and self._is_old:
            ready, why = False, "the last look is too long ago"
        status: dict[str, Any] = {"ready": ready, "version": default.version if default else None}
        status |= {"unverified": True} if name in self.unverified else {}
        return status if ready else status | {"why": why}

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(self.settings.look_s)
            self._wake.clear()
            if self._stop or self.draining:
                continue
            models = self.models
            defaults = {name: model.default for name, model in models.items()}
            try:
                self._look(models, defaults)
                faults = {name: self._fault(models[name]) for name in defaults}
            except Exception as error:  # this thread must not end: /readyz would repeat its last outcome for ever
                faults = dict.fromkeys(defaults, f"the check failed: {error!r}")
            for name, why in faults.items():
                # else another one became the default meanwhile
                if models[name].default is defaults[name] and not self.draining:
                    models[name].ready, models[name].why = not why, why
            if models is self.models and not self.draining:
                counted = {name: model for name, model in models.items() if name not in self.unverified} or models
                self._set(*_of_all({name: model.why for name, model in counted.items() if not model.ready}, len(counted)))
            self._looked_at = time.monotonic()

    def _look(self, models: Mapping[str, ModelHealth], defaults: Mapping[str, DefaultVersion | None]) -> None:
        """Look at the front end, and at each default version. Takes no longer than the look's time-out, whatever hangs."""
        served = next((one for one in defaults.values() if one), None)
        # from one look's beginning to the next, so that what a look waits counts; but if this process was stopped, nobody looked
        began = time.monotonic()
        elapsed_s, self._began = min(began - self._began, self._look_limit_s), began
        answers = served is None or management.answers(served.server.inference, "/ping", self.settings.look_timeout_s)
        self._silent = 0 if answers else self._silent + 1
        self.silent_s = 0.0 if answers else self.silent_s + elapsed_s
        progress = self.progress() if served else {}  # of all models at once: it reads a folder
        for name, default in defaults.items():
            models[name].look(default, elapsed_s, progress.get((default.model, default.version), 0.0) if default else 0.0)

    def _fault(self, model: ModelHealth) -> str:
        """Why a model is not ready, "" if it is."""
        if model.default is not None and not self.door_answers():
            return "the door does not answer"
        if model.default is not None and self._silent >= MISSES:
            return "the front end does not answer"
        return model.fault()

    def _set(self, ready: bool, why: str) -> None:
        if ready != self.ready:
            self.steps("ready" if ready else "not ready", **({"why": why} if why else {}))
        self.ready, self.why = ready, why


def _of_all(faults: dict[str, str], models: int) -> tuple[bool, str]:
    """(ready, why not) of an instance by what is wrong with each model; of several, the model is named."""
    if not models:
        return False, "no version is served yet"
    if len(faults) == models and len(set(faults.values())) == 1:  # one cause, such as a door that does not answer
        return False, next(iter(faults.values()))
    return not faults, "; ".join(f"{name}: {why}" for name, why in sorted(faults.items()))
