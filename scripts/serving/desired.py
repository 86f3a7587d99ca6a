"""What an instance shall serve: the release document, polled, and the last release that was wholly served here."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.atomic import write_json
from scripts.release.document import ReleaseError, default_of, fingerprint, parse
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
        """`model` is the only model that may be served, None for whichever the first document names."""
        self.instance, self.store, self.settings, self.steps = instance, store, settings, steps
        self.model = model
        self.document: dict[str, Any] | None = None
        self.problem: Problem | None = None  # of the document itself
        self.followed_since = time.monotonic()
        self.polled_at = 0.0
        # of this store alone: an instance on the same port may have served another one before
        self._good_file = run_dir / f"good-{hashlib.sha256(store.address.encode()).hexdigest()[:12]}.json"
        self.last_good = self._read_good()
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
            self.document, self.model = self.last_good, self.last_good["model"]
        self.problem = problem

    def _follow(self, document: dict[str, Any]) -> None:
        if self.model not in (None, document["model"]):
            raise ReleaseError(f"the release document is for model {document['model']}, this instance serves {self.model}")
        self.document, self.model, self._invalid = document, document["model"], None
        if self.last_good and self.last_good["model"] != self.model:
            self.last_good = None
        self.followed_since, self._peers_due = time.monotonic(), 0.0
        self.steps("release", document=fingerprint(document), default=document["default"], why=document["why"])

    def _read_peers(self) -> Problem | None:
        """Read which instances run, if that decides about a canary; why not, while they cannot be read."""
        if self.document is None or "canary" not in self.document:
            return None
        if time.monotonic() > self._peers_due:
            self._peers_due, self._peers_problem = time.monotonic() + self.settings.heartbeat_s, None
            try:
                self._peers = running(self.store, self.settings)
            except StoreError as error:  # the instances count that were seen last
                self._peers_problem = Problem(f"the canaries cannot be chosen: {error}", isinstance(error, DeniedError))
        return self._peers_problem

    def default(self) -> str:
        """The version that shall be this instance's default, canaries considered. Only with a document."""
        assert self.document is not None
        return default_of(self.document, self.instance, self._peers)

    def proved(self, version: str, entry: Mapping[str, str]) -> bool:
        """Whether this very archive was part of the last release that was wholly served here."""
        return self.last_good is not None and self.last_good["versions"].get(version) == entry

    def note_good(self, document: dict[str, Any]) -> None:
        """Keep a document that is wholly served, also for a start without the store."""
        self.last_good = document
        try:
            write_json(self._good_file, document)
        except OSError as error:  # no reason to stop serving
            self.steps("the release cannot be kept for the next start", why=error.strerror)

    def _read_good(self) -> dict[str, Any] | None:
        try:
            good = parse(self._good_file.read_text(encoding="utf-8"))
        except (OSError, ReleaseError):
            return None
        return good if self.model in (None, good["model"]) else None
