"""One model's way to its release: fetch, load, prove, make default, drain, remove. Other models go on meanwhile.

The version that serves goes on serving until its successor has proved itself. A version that fails is unloaded, and not
retried before the release changes. What may pass by itself (the store is away, no room on the disk, an archive that is not
there yet) is retried at every poll.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.process import TorchServe
from scripts.backend.torchserve.versions import VersionError, remove
from scripts.release.document import fingerprint
from scripts.release.fetch import fetch
from scripts.release.store import DeniedError, StoreError
from scripts.serving.captured import Captured
from scripts.serving.desired import DesiredState, Problem
from scripts.serving.health import Health
from scripts.serving.loading import Loaded, register
from scripts.serving.probe import DefaultVersion
from scripts.serving.repair import Repair, undo_changes
from scripts.serving.shadow import compare, shadow_of
from scripts.settings import Settings
from scripts.steps import Steps


class NotWantedError(RuntimeError):
    """The release changed while a version was loaded, and does not name it any more."""


@dataclass
class Surroundings:
    """What the models of an instance share. `tick()` is what goes on while one of them takes minutes."""

    desired: DesiredState
    run_dir: Path
    health: Health
    captured: Captured
    settings: Settings
    steps: Steps
    tick: Callable[[], None] = lambda: None
    torchserve: TorchServe | None = None
    problems: dict[str, Problem] = field(default_factory=dict)  # of no model: "" is the document itself

    @property
    def server(self) -> Server:
        """TorchServe's addresses. Only while it is up."""
        assert self.torchserve is not None
        return self.torchserve.server


class ServedModel:
    """What TorchServe serves of one model. `reconcile()` brings it closer to its release."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name, self.around, self.desired, self.settings = name, around, around.desired, around.settings
        # where there is one model, no step needs to name it
        self.steps = around.steps.about(lambda: {"model": name} if len(around.desired.releases) > 1 else {})
        self.loaded: dict[str, Loaded] = {}
        self.leaving: set[str] = set()  # of those, the ones that get no more requests
        self.default: str | None = None  # the version that answers where none is named ...
        self.wanted: str | None = None  # ... and the one that shall
        self.problems: dict[str, Problem] = {}  # by version
        self.shadow: dict[str, Any] | None = None
        self._unpacked: dict[str, tuple[str, Path]] = {}  # (checksum, folder) of a version that prepare() has unpacked
        self._refused: dict[str, str] = {}  # versions that failed, under this release
        self._repair = Repair(around.health, name, around.settings, self.steps)

    @property
    def release(self) -> dict[str, Any] | None:
        """Its part of the document, None if it is released no more."""
        return self.desired.releases.get(self.name)

    @property
    def is_unverified(self) -> bool:
        """Whether the archive of its default version is not ours."""
        release = self.release
        return bool(release and release["versions"][release["default"]].get("unverified"))

    @property
    def all_problems(self) -> list[Problem]:
        """Its own, and those of no model."""
        return [*self.around.problems.copy().values(), *self.problems.copy().values()]

    @property
    def state(self) -> str:
        """One of instance.STATES."""
        problems, release = self.all_problems, self.release
        if any(problem.lasting for problem in problems):
            return "failed"
        complete = release is not None and set(self.loaded) == set(release["versions"]) and self.default == self.wanted
        compared = release is None or "shadow" not in release or (self.shadow or {}).get("release") == fingerprint(release)
        return "reconciled" if complete and compared and not problems else "reconciling" if self.loaded else "starting"

    def served(self) -> dict[str, Any]:
        """What the door may ask for: {"default": version or None, "versions": {version: its description}}; {} for nothing."""
        versions = {version: dict(one.description) for version, one in self.loaded.copy().items() if version not in self.leaving}
        return {"default": self.default, "versions": versions} if versions and self.release else {}

    def forget(self) -> None:
        """TorchServe is gone, and with it all versions."""
        self.loaded, self.leaving, self.default = {}, set(), None

    def release_changed(self) -> None:
        """Refused versions get another chance."""
        self._refused, self.shadow = {}, None

    def _note(self, version: str, problem: Problem | None) -> None:
        if problem is None:
            self.problems.pop(version, None)
            return
        if self.problems.get(version) != problem:  # once, not at every poll
            self.steps("problem", version=version, why=problem.why)
        self.problems[version] = problem

    def prepare(self) -> None:
        """Unpack the archive of the version that shall be the default. What is in the way shows again when it is loaded."""
        release = self.release
        assert release is not None
        version = self.desired.default(self.name)
        entry = release["versions"][version]
        try:
            self._unpacked[version] = entry["sha256"], self._fetch(version, entry)
        except (StoreError, ValueError, OSError) as error:
            self.steps("not_prepared", version=version, why=str(error))

    def _fetch(self, version: str, entry: Mapping[str, Any]) -> Path:
        """The folder of an unpacked archive, as fetch() gives it: no TorchServe has had it yet."""
        checksum, folder = self._unpacked.pop(version, ("", Path()))
        if checksum == entry["sha256"] and folder.is_dir():
            return folder
        return fetch(self.desired.store, self.around.run_dir, version, entry, self.settings, self.steps)

    def reconcile(self) -> None:
        """One pass towards the release. ManagementError if TorchServe does not answer, HangsError if it has to be restarted."""
        release = self.release
        assert release is not None
        self.wanted = self.desired.default(self.name)
        for version in [version for version in self.problems if version not in release["versions"]]:
            del self.problems[version]
        self._undo_changes()
        for version in self._in_order(release):
            self._load(version, release["versions"][version])
            if self.release is not release:
                return  # it changed meanwhile
        if "shadow" in release and self.shadow is None:
            self._compare(release)
        if self.wanted in self.loaded:
            self._make_default(self.wanted)
        elif self.default is None:
            self._fall_back(release)
        if self.default == self.wanted:
            for version in [version for version in self.loaded if version not in release["versions"]]:
                self._remove(version)
        if self.state == "reconciled" and self.desired.last_good.get(self.name) != release:
            self.desired.note_good(release)
            self.steps("reconciled", document=fingerprint(release), default=self.default, versions=sorted(self.loaded))

    def leave(self) -> None:
        """Drain and remove all versions of a model that is released no more, the default last. ManagementError."""
        for version in sorted(self.loaded, key=lambda version: version == self.default):
            self._remove(version)
        self.default = self.default if self.default in self.loaded else None

    def _in_order(self, release: Mapping[str, Any]) -> list[str]:
        """Its versions, the wanted one first. Without a default, proved ones before all: TorchServe makes the first its own."""
        first = self.default is None
        return sorted(
            release["versions"],
            key=lambda version: (
                first and not self.desired.proved(self.name, version, release["versions"][version]),
                version != self.wanted,
            ),
        )

    def repair(self) -> None:
        """Restart what hangs. HangsError if it is TorchServe."""
        if self.default is not None:
            self._repair(self.loaded[self.default].workers)

    def _undo_changes(self) -> None:
        """Undo what somebody else has changed by hand; versions that were unregistered are loaded again."""
        wanted = {version: loaded.workers for version, loaded in self.loaded.items() if version not in self.leaving}
        for version in undo_changes(self.around.server, self.name, wanted, self.leaving, self.default, self.steps):
            del self.loaded[version]
        if self.default not in self.loaded:
            self.default = None

    def _fall_back(self, release: Mapping[str, Any]) -> None:
        """The wanted version cannot be served: serve that of the last good release, or another one, rather than none."""
        good = self.desired.last_good.get(self.name)
        if good is not None and good["default"] != self.wanted:
            self._load(str(good["default"]), good["versions"][good["default"]])
        candidates = [*([good["default"]] if good else []), release["default"], *sorted(self.loaded)]
        for version in candidates:
            if version in self.loaded:
                self.steps("serving another version instead", version=version)
                self._make_default(version)
                return

    def _load(self, version: str, entry: Mapping[str, Any]) -> None:
        """Have a version loaded, or note why it is not. ManagementError."""
        loaded = self.loaded.get(version)
        if loaded and loaded.sha256 != entry["sha256"]:
            self._refused[version] = (
                f"version {version} is served with sha256 {loaded.sha256[:12]}, which does not match the release document's "
                f"{entry['sha256'][:12]}: a version never changes"
            )
        if version in self._refused:
            return self._note(version, Problem(self._refused[version], True))
        if loaded:
            self.leaving.discard(version)  # it could not be removed, and is wanted again
            return self._note(version, None)
        started = time.monotonic()
        try:
            folder = self._fetch(version, entry)
            try:
                assert self.around.torchserve is not None
                log, watch = self.around.torchserve.log, self._watch(version)
                self.loaded[version] = register(self.around.server, self.name, version, entry, folder, log, self.settings, watch)
            except (VersionError, NotWantedError):
                if not self.desired.proved(self.name, version, entry):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        except NotWantedError:
            return self.steps("not wanted any more", version=version)
        except StoreError as error:
            # a missing permission ends a rollout at once, by its name
            return self._note(version, Problem(str(error), isinstance(error, DeniedError)))
        except FileNotFoundError as error:
            return self._note(version, Problem(f"the archive is not there: {error}", True))
        except (VersionError, ValueError) as error:
            # an archive that was served here before can be served: retried at every poll
            if not self.desired.proved(self.name, version, entry):
                self._refused[version] = str(error)
            return self._note(version, Problem(str(error), version in self._refused))
        except OSError as error:  # retried at every poll: there may be room again
            return self._note(version, Problem(f"{entry['archive']} cannot be unpacked: {error.strerror}", True))
        now = self.loaded[version]
        self.steps("loaded", version=version, program=now.program, why=now.why, took_s=time.monotonic() - started)
        return self._note(version, None)

    def _watch(self, version: str) -> Callable[[], None]:
        """What goes on while a version loads, which may take minutes, until it is not wanted any more."""
        release = self.release

        def watch() -> None:
            self.around.tick()
            now = self.release
            if now is not release and (now is None or version not in now["versions"]):
                raise NotWantedError(version)

        return watch

    def _make_default(self, version: str) -> None:
        if version != self.default:
            server, loaded = self.around.server, self.loaded[version]
            management.set_default(server, self.name, version)
            self.default = version
            self.around.health.set_default(DefaultVersion(server, self.name, version, loaded.golden, loaded.program))
            self.steps("default", version=version)

    def _remove(self, version: str) -> None:
        """Drain a version and unregister it. What TorchServe cannot unregister is tried again at the next poll."""
        started, first = time.monotonic(), version not in self.leaving
        self.leaving.add(version)
        if first:
            self.steps("draining", version=version)
        limits, beat = (self.settings.drain_s, self.settings.settle_s), self.around.health.beat
        try:
            idle = remove(self.around.server, self.name, version, self.loaded[version].golden, *limits, beat)
        except ManagementError as error:
            if not error.status:
                raise
            self._note(version, Problem(f"version {version} cannot be removed: {error}", False))
            return
        del self.loaded[version]
        self.leaving.discard(version)
        self._note(version, None)
        self.steps("removed", version=version, idle=idle, took_s=time.monotonic() - started)

    def _compare(self, release: Mapping[str, Any]) -> None:
        """Ask both versions the same photos, before the default changes: a worse version has answered no client by then."""
        if self.default is None or not {release["default"], release["shadow"]["version"]} <= set(self.loaded):
            return
        asked = shadow_of(release, self.loaded, self.around.captured, self.settings)
        self.steps("comparing two versions", versions=" ".join(asked.versions), captured=len(asked.captured))
        self.shadow = compare(self.around.server, asked, self.around.health.beat)
