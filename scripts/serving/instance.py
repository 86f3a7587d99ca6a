"""One instance's way to what the release document says: fetch, load, prove, make default, drain, remove.

What serves goes on serving until its successor has proved itself. A version that fails is undone, and not tried again
before the document changes; what may pass by itself (S3 away, no room, no archive there yet) is tried at every look.
"""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from handler.capture import captured_photos, prune
from scripts.archive.build import MODEL
from scripts.atomic import write_json
from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError
from scripts.backend.torchserve.process import TorchServe
from scripts.backend.torchserve.versions import Golden, VersionError, forget, load, prove, read_golden, remove, wait_until_idle
from scripts.release.document import ReleaseError, default_of, fingerprint, parse
from scripts.release.fetch import fetch
from scripts.release.status import Live
from scripts.release.store import Store, StoreError
from scripts.serving.health import Health, Serving
from scripts.serving.shadow import compare
from scripts.settings import Settings
from scripts.steps import Steps

UNEXPECTED = "unexpected"  # the problem that nobody thought of


class Loaded(NamedTuple):
    """A version that has answered its golden photos."""

    sha256: str
    folder: Path
    golden: Golden
    precision: str


class NotWantedError(RuntimeError):
    """The document was changed while a version was loaded, and does not name it any more."""


class Problem(NamedTuple):
    """Why something is not as the document says; `lasting`: it will not pass while the document is the same."""

    why: str
    lasting: bool


class Instance:
    """What TorchServe serves here, and what is known of the document. `converge()` brings the first to the second."""

    def __init__(self, name: str, store: Store, run_dir: Path, health: Health, settings: Settings, steps: Steps) -> None:
        self.name, self.store, self.run_dir, self.health = name, store, run_dir, health
        self.settings, self.steps = settings, steps
        self.torchserve: TorchServe | None = None
        self.loaded: dict[str, Loaded] = {}
        self.default: str | None = None  # what answers where no version is named ...
        self.wanted: str | None = None  # ... and what should
        self.document: dict[str, Any] | None = None
        self.problems: dict[str, Problem] = {}  # by version; "" is the document itself
        self.shadow: dict[str, Any] | None = None
        self.obeyed_since = time.monotonic()
        # the last release that was wholly served, of this store alone: a port may have served another one before
        self._good_file = run_dir / f"good-{hashlib.sha256(store.address.encode()).hexdigest()[:12]}.json"
        self._good = self._last_good()
        self._refused: dict[str, str] = {}  # versions that failed, under this document
        self._tag: str | None = None
        self._broken: Problem | None = None  # what the document of the tag is
        self._peers: list[str] = []
        self._peers_due = self._looked = 0.0

    def look(self) -> None:
        """Read the document if it has changed. What cannot be read or obeyed leaves the one before in force."""
        self._looked = time.monotonic()
        problem = None
        try:
            if found := self.store.read(self._tag):
                text, self._tag = found
                self._obey(parse(text))
        except FileNotFoundError:
            self._tag, problem = None, Problem(f"there is no release document at {self.store.address}", False)
        except StoreError as error:
            problem = Problem(str(error), False)
        except ReleaseError as error:
            self._broken = problem = Problem(str(error), True)
        else:
            problem = self._broken
        if self.document is None and problem and (good := self._good):
            self.steps("the last good release is served", because=problem.why)
            self.document = good
        self._note("", problem)

    def _obey(self, document: dict[str, Any]) -> None:
        self.document, self._broken, self._refused, self.shadow = document, None, {}, None
        self.obeyed_since, self._peers_due = time.monotonic(), 0.0
        self.steps("release", document=fingerprint(document), default=document["default"], why=document["why"])

    def _note(self, version: str, problem: Problem | None) -> None:
        if problem is None:
            self.problems.pop(version, None)
            return
        if self.problems.get(version) != problem:
            self.steps("problem", **({"version": version} if version else {}), why=problem.why)
        self.problems[version] = problem

    def _last_good(self) -> dict[str, Any] | None:
        try:
            return parse(self._good_file.read_text(encoding="utf-8"))
        except (OSError, ReleaseError):
            return None

    @property
    def state(self) -> str:
        """Where this instance is on its way."""
        if self.health.draining:
            return "draining"
        if any(problem.lasting for problem in list(self.problems.values())):
            return "failed"
        there = self.document is not None and set(self.loaded) == set(self.document["versions"]) and self.default == self.wanted
        return "converged" if there and not self.problems else "converging" if self.loaded else "starting"

    def start(self, torchserve: TorchServe) -> None:
        """A new TorchServe is up, with nothing in it."""
        self.torchserve = torchserve

    def lost(self) -> None:
        """TorchServe is gone, and what it served."""
        self.torchserve, self.loaded, self.default = None, {}, None
        self.health.set_serving(None)

    def converge(self) -> None:
        """One pass towards the document. ManagementError if TorchServe does not answer."""
        document = self.document
        if document is None or self.torchserve is None:
            return
        self.wanted = self._wanted(document)
        for version in [key for key in self.problems if key not in ("", UNEXPECTED, *document["versions"])]:
            del self.problems[version]
        self._compare_with_torchserve()
        for version in self._in_order(document):
            self._load(version, document["versions"][version])
            if self.document is not document:
                return  # it was changed meanwhile
        if self.wanted in self.loaded:
            self._make_default(self.wanted)
        elif self.default is None:
            self._fall_back()
        if self.default == self.wanted:
            for version in [version for version in self.loaded if version not in document["versions"]]:
                self._remove(version)
        if self.state == "converged":
            self._converged(document)

    def _in_order(self, document: Mapping[str, Any]) -> list[str]:
        """Its versions, the wanted one first; but what TorchServe gets first answers before it has proved itself here."""
        first = self.default is None
        return sorted(
            document["versions"],
            key=lambda version: (first and not self._proved(version, document["versions"][version]), version != self.wanted),
        )

    def _proved(self, version: str, entry: Mapping[str, str]) -> bool:
        return self._good is not None and self._good["versions"].get(version) == entry

    def _wanted(self, document: Mapping[str, Any]) -> str:
        if "canary" in document and time.monotonic() > self._peers_due:
            self._peers_due = time.monotonic() + self.settings.heartbeat_s
            # if the store is away, those that were seen last
            with contextlib.suppress(StoreError):
                self._peers = list(Live.of(self.store, self.settings).statuses)
        return default_of(document, self.name, self._peers)

    def _compare_with_torchserve(self) -> None:
        """Forget what somebody else has taken out of TorchServe, or made its default."""
        assert self.torchserve is not None
        there = management.versions(self.torchserve.server, MODEL)
        self.loaded = {version: loaded for version, loaded in self.loaded.items() if version in there}
        if self.default and (not there or management.default_version(self.torchserve.server, MODEL) != self.default):
            self.default = None

    def _fall_back(self) -> None:
        """What the document wants cannot be served: better the last release that could, or its other versions, than nothing."""
        assert self.document is not None
        good = self._good
        if good is not None and good["default"] != self.wanted:
            self._load(str(good["default"]), good["versions"][good["default"]])
        candidates = [*([good["default"]] if good else []), self.document["default"], *sorted(self.loaded)]
        for version in candidates:
            if version in self.loaded:
                self.steps("another version is served instead", version=version)
                self._make_default(version)
                return

    def _load(self, version: str, entry: Mapping[str, str]) -> None:
        loaded = self.loaded.get(version)
        if loaded and loaded.sha256 != entry["sha256"]:
            self._refused[version] = (
                f"version {version} is served with sha256 {loaded.sha256[:12]}, the release document says "
                f"{entry['sha256'][:12]}: a version never changes"
            )
        if version in self._refused:
            return self._note(version, Problem(self._refused[version], True))
        if loaded:
            return self._note(version, None)
        started = time.monotonic()
        try:
            self._register(version, entry, fetch(self.store, self.run_dir, version, entry, self.settings, self.steps))
        except NotWantedError:
            return self.steps("not wanted any more", version=version)
        except StoreError as error:
            return self._note(version, Problem(str(error), False))
        except FileNotFoundError as error:
            return self._note(version, Problem(f"the archive is not there: {error}", True))
        except (VersionError, ValueError) as error:
            # what was wholly served here before can be served: tried again at every look
            if not self._proved(version, entry):
                self._refused[version] = str(error)
            return self._note(version, Problem(str(error), version in self._refused))
        except OSError as error:  # tried again at every look: there may be room again
            return self._note(version, Problem(f"{entry['archive']} cannot be unpacked: {error.strerror}", True))
        self.steps("loaded", version=version, precision=self.loaded[version].precision, took_s=time.monotonic() - started)
        return self._note(version, None)

    def _register(self, version: str, entry: Mapping[str, str], folder: Path) -> None:
        """Load a version and let it prove itself; nothing is left of one that fails. VersionError, ManagementError."""
        try:
            self._load_and_prove(version, entry, folder)
        except (VersionError, NotWantedError):
            if not self._proved(version, entry):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load_and_prove(self, version: str, entry: Mapping[str, str], folder: Path) -> None:
        assert self.torchserve is not None
        server, document = self.torchserve.server, self.document

        def watch() -> None:
            self.health.beat()
            if self.torchserve is not None and self.torchserve.ended:
                raise VersionError("TorchServe ended meanwhile")
            if time.monotonic() - self._looked > self.settings.poll_s:
                self.look()
                if self.document is not document and self.document and version not in self.document["versions"]:
                    raise NotWantedError(version)

        load(server, version, folder.name, self.settings.load_timeout_s, self.torchserve.log, watch)
        try:
            golden = read_golden(folder)
            precision = prove(server, version, golden, self.settings.golden_timeout_s)
        except BaseException:
            forget(server, version)
            raise
        self.loaded[version] = Loaded(entry["sha256"], folder, golden, precision)

    def _make_default(self, version: str) -> None:
        assert self.torchserve is not None
        if version != self.default:
            loaded = self.loaded[version]
            management.set_default(self.torchserve.server, MODEL, version)
            self.default = version
            self.health.set_serving(Serving(self.torchserve.server, version, loaded.golden, loaded.precision))
            self.steps("default", version=version)

    def _remove(self, version: str) -> None:
        assert self.torchserve is not None
        started = time.monotonic()
        self.steps("draining", version=version)
        idle = remove(
            self.torchserve.server,
            version,
            self.loaded[version].golden,
            self.settings.drain_s,
            self.settings.settle_s,
            self.health.beat,
        )
        del self.loaded[version]
        self.steps("removed", version=version, idle=idle, took_s=time.monotonic() - started)

    def _converged(self, document: dict[str, Any]) -> None:
        """Once for each document: note it for a start without the store, and tidy up."""
        prune(self.run_dir / "captured", self.settings.capture_bytes, self.settings.capture_age_s)
        if "shadow" in document and self.shadow is None:
            self._compare(document)
        if self._good == document:
            return
        self._good = document
        try:
            write_json(self._good_file, document)
        except OSError as error:  # what is served is right nevertheless
            self.steps("the release cannot be noted for the next start", why=error.strerror)
        needed = {loaded.folder for loaded in self.loaded.values()}
        others = [path for path in (self.run_dir / "unpacked").iterdir() if path not in needed]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[self.settings.keep_archives :]:
            shutil.rmtree(path, ignore_errors=True)
        self.steps("converged", document=fingerprint(document), default=self.default, versions=sorted(self.loaded))

    def _compare(self, document: Mapping[str, Any]) -> None:
        assert self.torchserve is not None
        assert self.default is not None
        photos = captured_photos(self.run_dir / "captured", document["shadow"]["photos"])
        self.steps("asking both versions", photos=len(photos), shadow=document["shadow"]["version"])
        self.shadow = compare(self.torchserve.server, photos, self.default, document["shadow"]["version"], self.health.beat)

    def drain(self) -> bool:
        """Whether all versions got to have nothing queued and nothing running, within the limit."""
        if self.torchserve is None or self.torchserve.ended:
            return True
        deadline = time.monotonic() + self.settings.drain_s
        settle_s = min(self.settings.settle_s, 0.2)  # new requests may still come in; none of those before is lost
        try:
            idle = [
                wait_until_idle(self.torchserve.server, version, loaded.golden, deadline - time.monotonic(), settle_s)
                for version, loaded in self.loaded.items()
            ]
        except ManagementError:
            return False
        return all(idle)
