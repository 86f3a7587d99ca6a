"""One instance's way to the release document: each model's way to its release (served_model.py), one after the other."""

import time
from pathlib import Path
from typing import Any

from scripts.backend.torchserve.process import TorchServe
from scripts.backend.torchserve.versions import VersionError
from scripts.release.fetch import remove_old
from scripts.serving.captured import Captured
from scripts.serving.desired import DesiredState, Problem
from scripts.serving.health import Health
from scripts.serving.repair import unregister_others
from scripts.serving.served_model import ServedModel, Surroundings
from scripts.settings import Settings
from scripts.steps import Steps

STATES = ("starting", "reconciling", "reconciled", "failed", "draining")
UNEXPECTED = "unexpected"  # the key of a problem that no code here foresaw


class Instance:
    """What TorchServe serves here. `reconcile()` brings it closer to the desired state."""

    def __init__(self, desired: DesiredState, run_dir: Path, health: Health, settings: Settings, steps: Steps) -> None:
        self.desired, self.run_dir, self.health = desired, run_dir, health
        self.settings, self.steps = settings, steps
        self.captured = Captured(settings.captured(run_dir), settings.capture_bytes, settings.capture_age_s)
        self.around = Surroundings(desired, run_dir, health, self.captured, settings, steps, self._tick)
        self.models: dict[str, ServedModel] = {}  # released ones, and those that are still to leave
        self._complete = False  # whether all models were served at a time since TorchServe was started
        self._cleaned: dict[str, Any] = {}  # the releases whose old archives are removed

    @property
    def torchserve(self) -> TorchServe | None:
        """The one that runs now."""
        return self.around.torchserve

    @property
    def problems(self) -> dict[str, Problem]:
        """Those of no model; "" is that of the document itself."""
        return self.around.problems

    @property
    def released(self) -> list[ServedModel]:
        """The models that the document names, by name."""
        return [model for name, model in sorted(self.models.copy().items()) if name in self.desired.releases]

    @property
    def loaded(self) -> bool:
        """Whether a version of any model is loaded."""
        return any(model.loaded for model in self.models.copy().values())

    @property
    def state(self) -> str:
        """One of STATES: the first of failed, reconciled, reconciling, starting that is true of a model, of all, of any."""
        if self.health.draining:
            return "draining"
        states = {model.state for model in self.released}
        if "failed" in states or any(problem.lasting for problem in self.problems.copy().values()):
            return "failed"
        return "reconciled" if states == {"reconciled"} else "reconciling" if self.loaded else "starting"

    def state_of(self, model: ServedModel) -> str:
        """One of STATES, of one model."""
        return "draining" if self.health.draining else model.state

    def served(self) -> dict[str, Any]:
        """What the door may ask for, by model: see ServedModel.served. The models that clients find first are those by name."""
        return {model.name: served for model in self.released if (served := model.served())}

    def attach(self, torchserve: TorchServe) -> None:
        """A new TorchServe is up, with nothing loaded."""
        self.around.torchserve = torchserve

    def detach(self) -> None:
        """TorchServe is gone, and with it all versions."""
        self.around.torchserve, self._complete = None, False
        for model in self.models.values():
            model.forget()
        self.health.forget()

    def prepare(self) -> None:
        """What needs no TorchServe, done while that starts: the document is read, and archives of default versions unpacked."""
        self.poll()
        for model in self.released:
            self.health.beat()  # each may fetch an archive
            model.prepare()

    def poll(self) -> None:
        """Read the document if it has changed; a new release gives a model's refused versions another chance."""
        self.captured.prune()  # here, for photos grow old whatever becomes of the document
        before = self.desired.releases
        self.desired.poll()
        releases = self.desired.releases
        new = {name: ServedModel(name, self.around) for name in releases if name not in self.models}
        self.models = self.models | new  # at once: other threads read it
        for name, release in releases.items():
            if release is not before.get(name):
                self.models[name].release_changed()
        self._expect()
        self._note(self.desired.problem)

    def _expect(self) -> None:
        """Have health look at the released models. One that comes new to a ready instance counts once it has been served."""
        self._complete = self._complete or (bool(self.released) and all(model.default for model in self.released))
        known = self.health.models
        new = not self._complete
        expected = [model for model in self.released if new or model.default or model.name in known]
        self.health.expect([model.name for model in expected], [model.name for model in expected if model.is_unverified])

    def _note(self, problem: Problem | None) -> None:
        if problem is None:
            self.problems.pop("", None)
            return
        if self.problems.get("") != problem:  # once, not at every poll
            self.steps("problem", why=problem.why)
        self.problems[""] = problem

    def reconcile(self) -> None:
        """One pass towards the document. ManagementError if TorchServe does not answer, HangsError if it has to be restarted."""
        if self.desired.document is None or self.torchserve is None:
            return
        self.repair()
        unregister_others(self.around.server, list(self.models), self.steps)
        for model in self.released:
            if model.release:  # else it was released no more while another one was loaded
                model.reconcile()
        for name, model in list(self.models.items()):
            if not model.release:
                model.leave()
                if not model.loaded:
                    self.models = {other: one for other, one in self.models.items() if other != name}
        self._expect()
        if self.state == "reconciled" and self._cleaned != self.desired.releases:
            needed = {loaded.folder for model in self.models.values() for loaded in model.loaded.values()}
            remove_old(self.run_dir, needed, self.settings.keep_archives)
            self._cleaned = self.desired.releases.copy()

    def repair(self) -> None:
        """Restart what hangs. HangsError if it is TorchServe."""
        for model in self.released:
            model.repair()

    def _tick(self) -> None:
        """While a version loads: the heartbeat, repair, and polls of the document. VersionError if TorchServe has ended."""
        self.health.beat()
        if self.torchserve is not None and self.torchserve.ended:
            raise VersionError("TorchServe ended meanwhile")
        self.repair()
        if time.monotonic() - self.desired.polled_at > self.settings.poll_s:
            self.poll()
