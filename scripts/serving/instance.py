"""One instance's way to the release document: fetch, load, prove, make default, drain, remove.

The version that serves goes on serving until its successor has proved itself. A version that fails is unloaded, and not
retried before the document changes. What may pass by itself (the store is away, no room on the disk, an archive that is not
there yet) is retried at every poll.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.process import TorchServe
from scripts.backend.torchserve.versions import Golden, VersionError, forget, load, prove, read_golden, remove
from scripts.release.document import fingerprint
from scripts.release.fetch import fetch, remove_old
from scripts.release.store import DeniedError, StoreError
from scripts.serving.captured import Captured
from scripts.serving.desired import DesiredState, Problem
from scripts.serving.health import Health
from scripts.serving.probe import DefaultVersion
from scripts.serving.repair import Repair, undo_changes
from scripts.serving.shadow import compare, shadow_of
from scripts.settings import Settings
from scripts.steps import Steps

STATES = ("starting", "reconciling", "reconciled", "failed", "draining")
UNEXPECTED = "unexpected"  # the key of a problem that no code here foresaw


class Loaded(NamedTuple):
    """A version that has answered its golden photos."""

    sha256: str
    folder: Path
    golden: Golden
    description: Mapping[str, Any]  # what it says of itself: SeefoodHandler.describe
    workers: management.Workers  # that its model-config.yaml asks for

    @property
    def precision(self) -> str:
        """That its worker computes in."""
        return str(self.description["precision"])


class NotWantedError(RuntimeError):
    """The document changed while a version was loaded, and does not name it any more."""


class Instance:
    """What TorchServe serves here. `reconcile()` brings it closer to the desired state."""

    def __init__(self, desired: DesiredState, run_dir: Path, health: Health, settings: Settings, steps: Steps) -> None:
        self.desired, self.run_dir, self.health = desired, run_dir, health
        self.settings, self.steps = settings, steps
        self.torchserve: TorchServe | None = None
        self.loaded: dict[str, Loaded] = {}
        self.leaving: set[str] = set()  # of those, the ones that get no more requests
        self.default: str | None = None  # the version that answers where none is named ...
        self.wanted: str | None = None  # ... and the one that shall
        self.problems: dict[str, Problem] = {}  # by version; "" is the document itself
        self.captured = Captured(settings.captured(run_dir), settings.capture_bytes, settings.capture_age_s)
        self.shadow: dict[str, Any] | None = None
        self._refused: dict[str, str] = {}  # versions that failed, under this document
        self._repair = Repair(health, settings, steps)

    @property
    def model(self) -> str:
        """The model's name. Only with a document."""
        assert self.desired.model is not None
        return self.desired.model

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.health.draining:
            return "draining"
        if any(problem.lasting for problem in list(self.problems.values())):
            return "failed"
        document = self.desired.document
        complete = document is not None and set(self.loaded) == set(document["versions"]) and self.default == self.wanted
        compared = document is None or "shadow" not in document or (self.shadow or {}).get("release") == fingerprint(document)
        return "reconciled" if complete and compared and not self.problems else "reconciling" if self.loaded else "starting"

    def served(self) -> dict[str, Any]:
        """What the door may ask for: {model: {"default": version or None, "versions": {version: its description}}}."""
        versions = {version: dict(one.description) for version, one in self.loaded.copy().items() if version not in self.leaving}
        return {self.model: {"default": self.default, "versions": versions}} if versions else {}

    def attach(self, torchserve: TorchServe) -> None:
        """A new TorchServe is up, with nothing loaded."""
        self.torchserve = torchserve

    def detach(self) -> None:
        """TorchServe is gone, and with it all versions."""
        self.torchserve, self.loaded, self.leaving, self.default = None, {}, set(), None
        self.health.set_default(None)

    def poll(self) -> None:
        """Read the document if it has changed; a new one gives refused versions another chance."""
        self.captured.prune()  # here, for photos grow old whatever becomes of the document
        before = self.desired.document
        self.desired.poll()
        if self.desired.document is not before:
            self._refused, self.shadow = {}, None
        self._note("", self.desired.problem)

    def _note(self, version: str, problem: Problem | None) -> None:
        if problem is None:
            self.problems.pop(version, None)
            return
        if self.problems.get(version) != problem:  # once, not at every poll
            self.steps("problem", **({"version": version} if version else {}), why=problem.why)
        self.problems[version] = problem

    def reconcile(self) -> None:
        """One pass towards the document. ManagementError if TorchServe does not answer, HangsError if it has to be restarted."""
        document = self.desired.document
        if document is None or self.torchserve is None:
            return
        self.repair()
        self.wanted = self.desired.default()
        for version in [key for key in self.problems if key not in ("", UNEXPECTED, *document["versions"])]:
            del self.problems[version]
        self._undo_changes(self.torchserve.server)
        for version in self._in_order(document):
            self._load(version, document["versions"][version])
            if self.desired.document is not document:
                return  # it changed meanwhile
        if "shadow" in document and self.shadow is None:
            self._compare(document)
        if self.wanted in self.loaded:
            self._make_default(self.wanted)
        elif self.default is None:
            self._fall_back(document)
        if self.default == self.wanted:
            for version in [version for version in self.loaded if version not in document["versions"]]:
                self._remove(version)
        if self.state == "reconciled":
            self._finish(document)

    def _in_order(self, document: Mapping[str, Any]) -> list[str]:
        """Its versions, the wanted one first. Without a default, proved ones before all: TorchServe makes the first its own."""
        first = self.default is None
        return sorted(
            document["versions"],
            key=lambda version: (
                first and not self.desired.proved(version, document["versions"][version]),
                version != self.wanted,
            ),
        )

    def repair(self) -> None:
        """Restart what hangs. HangsError if it is TorchServe."""
        if self.default is not None:
            self._repair(self.loaded[self.default].workers)

    def _undo_changes(self, server: Server) -> None:
        """Undo what somebody else has changed by hand; versions that were unregistered are loaded again."""
        wanted = {version: loaded.workers for version, loaded in self.loaded.items() if version not in self.leaving}
        for version in undo_changes(server, self.model, wanted, self.leaving, self.default, self.steps):
            del self.loaded[version]
        if self.default not in self.loaded:
            self.default = None

    def _fall_back(self, document: Mapping[str, Any]) -> None:
        """The wanted version cannot be served: serve that of the last good release, or another one, rather than none."""
        good = self.desired.last_good
        if good is not None and good["default"] != self.wanted:
            self._load(str(good["default"]), good["versions"][good["default"]])
        candidates = [*([good["default"]] if good else []), document["default"], *sorted(self.loaded)]
        for version in candidates:
            if version in self.loaded:
                self.steps("serving another version instead", version=version)
                self._make_default(version)
                return

    def _load(self, version: str, entry: Mapping[str, str]) -> None:
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
            folder = fetch(self.desired.store, self.run_dir, version, entry, self.settings, self.steps)
            self._register(version, entry, folder)
        except NotWantedError:
            return self.steps("not wanted any more", version=version)
        except StoreError as error:
            # a missing permission ends a rollout at once, by its name
            return self._note(version, Problem(str(error), isinstance(error, DeniedError)))
        except FileNotFoundError as error:
            return self._note(version, Problem(f"the archive is not there: {error}", True))
        except (VersionError, ValueError) as error:
            # an archive that was served here before can be served: retried at every poll
            if not self.desired.proved(version, entry):
                self._refused[version] = str(error)
            return self._note(version, Problem(str(error), version in self._refused))
        except OSError as error:  # retried at every poll: there may be room again
            return self._note(version, Problem(f"{entry['archive']} cannot be unpacked: {error.strerror}", True))
        self.steps("loaded", version=version, precision=self.loaded[version].precision, took_s=time.monotonic() - started)
        return self._note(version, None)

    def _register(self, version: str, entry: Mapping[str, str], folder: Path) -> None:
        """Load a version and have it prove itself; one that fails leaves nothing. VersionError, NotWantedError, ManagementError."""
        assert self.torchserve is not None
        server = self.torchserve.server
        try:
            load(server, self.model, version, folder.name, self.settings.load_timeout_s, self.torchserve.log, self._watch(version))
            try:
                golden = read_golden(folder)
                description = prove(server, self.model, version, golden, self.settings.golden_timeout_s, self._watch(version))
                workers = management.Workers.of(management.version(server, self.model, version))
            except BaseException:
                forget(server, self.model, version)
                raise
        except (VersionError, NotWantedError):
            if not self.desired.proved(version, entry):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self.loaded[version] = Loaded(entry["sha256"], folder, golden, description, workers)

    def _watch(self, version: str) -> Callable[[], None]:
        """What goes on while a version loads, which may take minutes: the heartbeat, and polls of the document."""
        document = self.desired.document

        def watch() -> None:
            self.health.beat()
            if self.torchserve is not None and self.torchserve.ended:
                raise VersionError("TorchServe ended meanwhile")
            self.repair()
            if time.monotonic() - self.desired.polled_at > self.settings.poll_s:
                self.poll()
                now = self.desired.document
                if now is not document and now and version not in now["versions"]:
                    raise NotWantedError(version)

        return watch

    def _make_default(self, version: str) -> None:
        assert self.torchserve is not None
        if version != self.default:
            loaded = self.loaded[version]
            management.set_default(self.torchserve.server, self.model, version)
            self.default = version
            self.health.set_default(DefaultVersion(self.torchserve.server, self.model, version, loaded.golden, loaded.precision))
            self.steps("default", version=version)

    def _remove(self, version: str) -> None:
        """Drain a version and unregister it. What TorchServe cannot unregister is tried again at the next poll."""
        assert self.torchserve is not None
        started, first = time.monotonic(), version not in self.leaving
        self.leaving.add(version)
        if first:
            self.steps("draining", version=version)
        limits = self.settings.drain_s, self.settings.settle_s
        try:
            idle = remove(self.torchserve.server, self.model, version, self.loaded[version].golden, *limits, self.health.beat)
        except ManagementError as error:
            if not error.status:
                raise
            self._note(version, Problem(f"version {version} cannot be removed: {error}", False))
            return
        del self.loaded[version]
        self.leaving.discard(version)
        self._note(version, None)
        self.steps("removed", version=version, idle=idle, took_s=time.monotonic() - started)

    def _finish(self, document: dict[str, Any]) -> None:
        """After each pass that finds all as the document says. Most of it once for each document."""
        if self.desired.last_good == document:
            return
        self.desired.note_good(document)
        self._remove_old_archives()
        self.steps("reconciled", document=fingerprint(document), default=self.default, versions=sorted(self.loaded))

    def _remove_old_archives(self) -> None:
        needed = {loaded.folder for loaded in self.loaded.values()}
        remove_old(self.run_dir, needed, self.settings.keep_archives)

    def _compare(self, document: Mapping[str, Any]) -> None:
        """Ask both versions the same photos, before the default changes: a worse version has answered no client by then."""
        assert self.torchserve is not None
        if self.default is None or not {document["default"], document["shadow"]["version"]} <= set(self.loaded):
            return
        asked = shadow_of(document, self.loaded, self.captured, self.settings)
        self.steps("comparing two versions", versions=" ".join(asked.versions), captured=len(asked.captured))
        self.shadow = compare(self.torchserve.server, asked, self.health.beat)
