"""A change of the release document that is watched: it stays if all instances converge and fare well, else it is undone."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from scripts.release.document import ReleaseError, fingerprint, make, parse, write
from scripts.release.status import Live
from scripts.release.store import ChangedError, Store, StoreError
from scripts.rollout.comparison import between, figures_of, why_worse
from scripts.settings import Settings
from scripts.steps import Steps

POLL_S = 0.5


class RolloutError(RuntimeError):
    """The rollout failed; the message says why, and what is served now."""


class Rollout:
    """One change of the document, watched; restored where it fails."""

    def __init__(self, store: Store, settings: Settings, steps: Steps) -> None:
        """ReleaseError if the present document cannot be read, StoreError."""
        self.store, self.settings, self.steps = store, settings, steps
        self.before: dict[str, Any] | None = None
        self.tag: str | None = None
        self.last_written = ""
        try:
            found = store.read()
            assert found is not None
            self.before, self.tag = parse(found[0]), found[1]
        except FileNotFoundError:
            pass
        self.document = self.before
        self.here = set(Live.of(store, settings).statuses)  # the instances that were there at first

    def write(self, document: dict[str, Any]) -> None:
        """Put a document in place of the one that was written or read last."""
        self.last_written = document["written"]
        self.tag = self.store.write(write(document), self.tag)
        self.document = document
        self.steps("released", document=fingerprint(document), stage=document["stage"], default=document["default"])

    def wait(self, limit_s: float) -> None:
        """Return when all live instances have converged. RolloutError with the reason if one cannot, or not in time."""
        assert self.document is not None
        deadline = time.monotonic() + limit_s
        with tqdm(total=1, unit="instance", disable=None, leave=False, desc="converging") as progress:
            while True:
                try:
                    live = Live.of(self.store, self.settings)
                    if why := live.failed(self.document) or live.silent(self.here):
                        raise RolloutError(why)
                    done = live.converged(self.document)
                    progress.total = max(1, len(live.statuses))
                    progress.update(len(done) - progress.n)
                    if done and len(done) == len(live.statuses):
                        self.steps("converged", instances=len(done), default=self.document["default"])
                        return
                    why = f"{len(done)} of {len(live.statuses)} instances have converged; " + "; ".join(
                        f"{name} is {said['state']}: {said['why'] or 'no reason given'}"
                        for name, said in live.statuses.items()
                        if name not in done
                    )
                except StoreError as error:
                    why = str(error)
                if time.monotonic() > deadline:
                    raise RolloutError(f"not within {limit_s:g} s: {why}")
                time.sleep(POLL_S)

    def bake(self, new: str, old: str) -> None:
        """Watch the new version beside the old one. RolloutError if it is worse, StoreError if the store is away to the end."""
        start = Live.of(self.store, self.settings).statuses
        self.steps("watching", version=new, seconds=self.settings.bake_s)
        # statuses come that much late
        deadline, found = time.monotonic() + self.settings.bake_s + self.settings.poll_s, ""
        with tqdm(total=round(self.settings.bake_s), unit="s", disable=None, leave=False, desc="watching") as progress:
            while True:
                left = deadline - time.monotonic()
                try:
                    found = self._compare(new, old, start)
                except StoreError:
                    if left <= 0:
                        raise
                if left <= 0:
                    break
                progress.update(max(0, round(self.settings.bake_s - left) - progress.n))
                time.sleep(min(POLL_S, left))
        # a version that hangs has no figures; while the old one is still loaded, going back takes no time
        self.wait(self.settings.stale_s)
        self.steps("watched", version=new, found=found)

    def _compare(self, new: str, old: str, start: Mapping[str, Any]) -> str:
        """What was compared. RolloutError if the new version is worse, or an instance has failed meanwhile."""
        assert self.document is not None
        live = Live.of(self.store, self.settings)
        if why := live.failed(self.document) or live.silent(self.here):
            raise RolloutError(why)
        during = {version: between(live.statuses, start, version) for version in (new, old)}
        # where the old one has no requests any more it is judged by those before
        other = during[old] if during[old]["requests"] >= self.settings.min_requests else figures_of(start, old)
        why, found = why_worse(during[new], other, self.settings)
        if why:
            raise RolloutError(f"{new} is worse: {why}")
        return found

    def restore(self, why: str) -> str:
        """Put the document back that was there at first; what became of it. Nothing to do if it is the one still."""
        if self.before is None:
            return "there was no release before this one to go back to"
        before = self.before
        self.here = set()  # whatever became of them: going back is for those that are left
        parts = {part: before[part] for part in ("canary", "shadow") if part in before}
        document = make(before["versions"], before["default"], before["stage"], f"restored: {why}", **parts)
        try:
            found = self.store.read()
            assert found is not None
            there = parse(found[0])
            if there == before:
                return "nothing was changed"
            self.tag = found[1] if there["written"] == self.last_written else self.tag
            self.write(document)
            self.wait(self.settings.rollout_s)
        except (RolloutError, StoreError, OSError, ReleaseError) as error:
            return f"going back to {before['default']} failed, too: {error}"
        return f"{before['default']} is served again"

    def undo_on_failure(self, change: Callable[[], None]) -> None:
        """Make a change. RolloutError, with the document before restored, where it fails."""
        try:
            change()
        except ChangedError as error:
            raise RolloutError(str(error)) from error
        except (Exception, KeyboardInterrupt) as error:  # whatever it is, the new version must not stay unwatched
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
            self.steps("restoring", because=why)
            raise RolloutError(f"{why}\n{self.restore(why)}") from error
