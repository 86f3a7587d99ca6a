"""What an instance shall serve: the release document, polled, and the last release that was wholly served here."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.atomic import write_json
from scripts.release.document import ReleaseError, default_of, fingerprint, joined, parse, releases_of
from scripts.release.status import running
from scripts.release.store import DeniedError, Store, StoreError
from scripts.settings import Settings
from scripts.steps import Steps


class Problem(NamedTuple):
    """Why something is not as the document says; a `lasting` one cannot pass while the document stays the same."""

    why: str
    lasting: bool


class DesiredState:
    """The document that an instance follows. `poll()` reads it again."""

    def __init__(
        self, instance: str, store: Store, run_dir: Path, settings: Settings, steps: Steps, model: str | None = None
    ) -> None:
        """`model` has to be among those that are released, None: whichever they are."""
        self.instance, self.store, self.settings, self.steps = instance, store, settings, steps
        self.model = model
        self.document: dict[str, Any] | None = None
        self.releases: dict[str, dict[str, Any]] = {}  # the document's, by model; one that has not changed stays the same object
        self.problem: Problem | None = None  # of the document itself
        self.followed_since = time.monotonic()
        self.polled_at = 0.0
        # of this store alone: an instance on the same port may have served another one before
        self._good_file = run_dir / f"good-{hashlib.sha256(store.address.encode()).hexdigest()[:12]}.json"
        self.last_good = self._read_good()  # of each model, the last release that was wholly served here
        self._tag: str | None = None
        self._invalid: Problem | None = None  # what is wrong with the document of this tag
        self._peers: list[str] = []
        self._peers_due = 0.0
        self._peers_problem: Problem | None = None

    def poll(self) -> None:
        """Read the document if it has changed. If it cannot be read or followed, the one before stays in force."""
        self.polled_at = time.monotonic()
        problem = None
        try:
            if found := self.store.read(self._tag):
                text, self._tag = found
                self._follow(parse(text))
        except FileNotFoundError:
            self._tag, problem = None, Problem(f"there is no release document at {self.store.address}", False)
        except StoreError as error:
            problem = Problem(str(error), False)
        except ReleaseError as error:
            self._invalid = problem = Problem(str(error), True)
        else:
            problem = self._invalid or self._read_peers()
        if self.document is None and problem and self.last_good:
            self.steps("serving the last good release", why=problem.why)
            self.document = joined(self.last_good.values())
            self.releases = self.last_good.copy()
        self.problem = problem

    def _follow(self, document: dict[str, Any]) -> None:
        releases, ours = releases_of(document), [self.model] if self.model else list(self.releases)
        # by mistake, two servers of different models may be given one address
        if ours and not releases.keys() & set(ours):
            raise ReleaseError(
                f"the release document is for model {' and '.join(releases)}, this instance serves {' and '.join(ours)}"
            )
        before = self.releases
        self.document, self._invalid = document, None
        self.releases = {name: before[name] if before.get(name) == release else release for name, release in releases.items()}
        self.last_good = {name: release for name, release in self.last_good.items() if name in releases}
        self.followed_since, self._peers_due = time.monotonic(), 0.0
        for name, release in self.releases.items():
            if release is not before.get(name):
                named = {"model": name} if len(releases) > 1 else {}
                self.steps("release", **named, document=fingerprint(release), default=release["default"], why=release["why"])

    def _read_peers(self) -> Problem | None:
        """Read which instances run, if that decides about a canary; why not, while they cannot be read."""
        if not any("canary" in release for release in self.releases.values()):
            return None
        if time.monotonic() > self._peers_due:
            self._peers_due, self._peers_problem = time.monotonic() + self.settings.heartbeat_s, None
            try:
                self._peers = running(self.store, self.settings)
            except StoreError as error:  # the instances count that were seen last
                self._peers_problem = Problem(f"the canaries cannot be chosen: {error}", isinstance(error, DeniedError))
        return self._peers_problem

    def default(self, model: str) -> str:
        """The version that shall be this instance's default of a model that is released, canaries considered."""
        return default_of(self.releases[model], self.instance, self._peers)

    def proved(self, model: str, version: str, entry: Mapping[str, Any]) -> bool:
        """Whether this very archive was part of the model's last release that was wholly served here."""
        return model in self.last_good and self.last_good[model]["versions"].get(version) == entry

    def note_good(self, release: dict[str, Any]) -> None:
        """Keep a model's release that is wholly served, also for a start without the store."""
        self.last_good[release["model"]] = release
        try:
            write_json(self._good_file, joined(self.last_good.values()))
        except OSError as error:  # no reason to stop serving
            self.steps("the release cannot be kept for the next start", why=error.strerror)

    def _read_good(self) -> dict[str, dict[str, Any]]:
        try:
            good = releases_of(parse(self._good_file.read_text(encoding="utf-8")))
        except (OSError, ReleaseError):
            return {}
        return good if self.model is None or self.model in good else {}
