"""Changes of a model's release that are watched: they stay if all instances reconcile and do well, else they are undone.

The releases of other models in the same document stay as they are; who rolls them out meanwhile is not in the way.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from scripts.errors import SeeFoodError
from scripts.release.document import ReleaseError, fingerprint, make, stamped
from scripts.release.status import Fleet
from scripts.release.store import ChangedError, DeniedError, Store, StoreError
from scripts.rollout.comparison import between, counters_of, why_worse
from scripts.rollout.judge import Verdict, judge_live, judge_pairs, still_differs
from scripts.rollout.live import Answers, answers_of
from scripts.rollout.plan import Plan
from scripts.rollout.reasons import not_judged, on_purpose, still_reconciling
from scripts.rollout.released import Released
from scripts.rollout.retry import POLL_S, until_read
from scripts.rollout.shadow import describe
from scripts.settings import Settings
from scripts.steps import Steps


class RolloutError(SeeFoodError):
    """The rollout failed; the message says why, and what is served now."""


class Rollout:
    """Changes of one model's release, watched; undone where they fail."""

    def __init__(self, store: Store, settings: Settings, steps: Steps, model: str | None = None) -> None:
        """`model`: the only one that is released, if none is named. ReleaseError if the document cannot be read, StoreError.

        ValueError if none is named, and several are released.
        """
        self.store, self.settings, self.steps = store, settings, steps
        self.released = Released(store, model)
        self.last_written = ""
        self.begun = self._fleet().statuses
        self.instances = set(self.begun)  # none of them may stop reporting
        self.answers: str | None = None  # what was asked for: one of plan.ANSWERS
        self.remark = ""  # for people who read the release document
        self.not_ready = ""  # which instance was last seen not ready while it served this document, and why

    def run(self, plan: Plan) -> None:
        """Do what was planned. RolloutError, with the document before restored, where it fails; ValueError, StoreError."""
        if plan.archive is not None:
            self.store.put(plan.archive)  # refuses another archive of that name before anything is written
        self.answers, self.released.model = plan.answers, plan.model
        if plan.watched:
            self.undo_on_failure(lambda: self._write_all(plan))
            return
        for document in plan.documents:
            self.write(document)
        if not plan.documents:
            self.withdraw()
        self.steps("no running instance follows this release", release=self.store.address)

    @property
    def document(self) -> dict[str, Any] | None:
        """The model's release as it was read or written last."""
        return self.released.now

    def _fleet(self) -> Fleet:
        """The instances, with what they report of this model. StoreError."""
        return Fleet.of(self.store, self.settings, self.released.model)

    def _fleet_in_time(self) -> Fleet:
        """The same, once the store can be reached. StoreError if it cannot for as long as a status is fresh."""
        return until_read(self._fleet, time.monotonic() + self.settings.stale_s)

    def _write_all(self, plan: Plan) -> None:
        if not plan.documents:
            self.withdraw()
        for document in plan.documents:
            if "canary" in document:
                self.steps("canary", percent=document["canary"]["percent"], instances=list(plan.canaries))
            self.write({**document, "why": document["why"] + self.remark})
            self.wait(self.settings.rollout_s)
            if plan.old is not None and plan.new is not None:
                if document["stage"] == "shadow":
                    self.compare_answers(plan.new, plan.old)
                if document["stage"] in ("canary", "baking"):
                    self.bake(plan.new, plan.old)

    def write(self, release: Mapping[str, Any]) -> None:
        """Put a release in place of the model's that was written or read last, with the present time in it."""
        stamp = stamped(release)
        self.not_ready = ""
        self.last_written = stamp["written"]
        self.released.put(stamp)
        self.steps("released", document=fingerprint(stamp), stage=stamp["stage"], default=stamp["default"])

    def withdraw(self) -> None:
        """Take the model out of the document, which holds others."""
        self.released.put(None)
        self.steps("withdrawn", model=self.released.model)

    def wait(self, limit_s: float) -> None:
        """Return when all running instances have reconciled. RolloutError with the reason if one cannot, or not in time."""
        deadline = time.monotonic() + limit_s
        with tqdm(total=1, unit="instance", disable=None, leave=False, desc="reconciling") as progress:
            while True:
                try:
                    fleet = self._healthy_fleet()
                    assert self.document is not None
                    done = fleet.reconciled(self.document)
                    progress.total = max(1, len(fleet.statuses))
                    progress.update(len(done) - progress.n)
                    if done and len(done) == len(fleet.statuses):
                        self.steps("reconciled", instances=len(done), default=self.document["default"])
                        return
                    why = still_reconciling(fleet, done, self.document)
                except DeniedError:
                    raise
                except StoreError as error:
                    why = str(error)  # it may come back in time
                if time.monotonic() > deadline:
                    raise RolloutError(f"not within {limit_s:g} s: {why}")
                time.sleep(POLL_S)

    def _healthy_fleet(self) -> Fleet:
        """The instances. RolloutError if one has failed under this document, or stopped reporting since the start."""
        assert self.document is not None
        fleet = self._fleet()
        if why := fleet.failed(self.document) or fleet.stopped(self.instances):
            raise RolloutError(why)
        self.not_ready = fleet.not_ready(self.document) or self.not_ready
        return fleet

    def bake(self, new: str, old: str) -> None:
        """Watch the new version beside the old one. RolloutError if it is worse, StoreError if the store stays away to the end."""
        start = self._fleet_in_time().statuses
        pairs, captured = self._judge_pairs(new, old)
        self.steps("watching", version=new, seconds=self.settings.bake_s)
        deadline = time.monotonic() + self.settings.bake_s + self.settings.poll_s  # so late may a status be
        with tqdm(total=round(self.settings.bake_s), unit="s", disable=None, leave=False, desc="watching") as progress:
            while True:
                left_s = deadline - time.monotonic()
                until_read(lambda: self._compare(new, old, start), deadline + self.settings.stale_s)
                if left_s <= 0:
                    break
                progress.update(max(0, round(self.settings.bake_s - left_s) - progress.n))
                time.sleep(min(POLL_S, left_s))
        # a version that hangs counts no requests, but is not ready; while the old one is still loaded, going back takes no time
        self.wait(self.settings.stale_s)
        # ready again may mean that its worker was restarted
        comparison, requests = until_read(lambda: self._compare(new, old, start), time.monotonic() + self.settings.stale_s)
        assert self.document is not None
        if "canary" in self.document and not requests:
            raise RolloutError(
                f"the canary {new} got no requests in {self.settings.bake_s:g} s, so nothing is known about it: "
                "send requests meanwhile, or watch for longer (BAKE=300)"
            )
        self.steps("watched", version=new, found=comparison)
        self._judge_answers(new, old, start, pairs, captured)

    def _judge_pairs(self, new: str, old: str) -> tuple[Verdict, int]:
        """By the same photos, and how many captured ones both versions have answered. RolloutError if the answers differ."""
        verdict, captured = judge_pairs(self._reports(), new, old, self.settings)
        self.steps("compared by the same photos", version=new, found=verdict.found)
        self._judged(new, verdict)
        return verdict, captured

    def _judge_answers(self, new: str, old: str, start: Mapping[str, Any], pairs: Verdict, captured: int) -> None:
        """Judge what clients were answered. RolloutError if it differs and other photos do not explain that, or nothing was judged.

        Once, at the end: a test that is repeated while it is watched would find a difference by chance at last.
        """
        now = self._fleet_in_time().statuses
        live = judge_live((new, old), now, start, self.begun, self.settings)
        self.steps("compared by answers to clients", version=new, found=live.found)
        if not (live.enough or pairs.enough):
            self._not_judged(new, f"{captured} captured photos ({self.settings.min_photos} are needed); {live.found}")
        if not live.why(self.settings, self.answers == "differ"):
            self._judged(new, live)
        elif captured >= self.settings.min_requests:
            # other photos than before would explain it. Those that came meanwhile are captured: written again, the document
            # makes both versions answer the last ones
            assert self.document is not None
            self.steps("asking both versions again", why=live.why(self.settings))
            self.write(self.document)
            self.wait(self.settings.rollout_s)
            if self._judge_pairs(new, old)[1] < self.settings.min_requests:
                self._judged(new, live)
            self.steps("the photos have changed, not the answers", version=new)
        elif self.document and "canary" in self.document:
            self._judged(new, live)  # both versions answered at the same time
        else:
            self._serve_old_again(new, old, answers_of(now, new, start), live.why(self.settings))

    def _serve_old_again(self, new: str, old: str, answers: Answers, why: str) -> None:
        """Make the old version the default for a while. RolloutError unless it answers as the new one did."""
        assert self.document is not None
        baking = {part: value for part, value in self.document.items() if part != "shadow"}  # nobody asks both once more
        self.steps("serving the old version again, to see whether the photos have changed", version=old, why=why)
        self.write({**baking, "default": old, "why": f"{old} again, beside which {new} is compared"})
        self.wait(self.settings.rollout_s)
        start = self._fleet_in_time().statuses
        deadline = time.monotonic() + self.settings.bake_s + self.settings.poll_s
        while (after := answers_of(self._healthy_fleet().statuses, old, start)).number < answers.number:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if again := still_differs(answers, after, self.settings, self.answers == "differ"):
            broken = still_differs(answers, after, self.settings, broken=True)
            remedy = "" if broken else on_purpose(new)
            raise RolloutError(f"{new} is worse: {why}; then {old} was served again: {again}{remedy}")
        self.steps("the photos have changed, not the answers", version=new)
        self.write(baking)
        self.wait(self.settings.rollout_s)

    def _judged(self, new: str, verdict: Verdict) -> None:
        why = verdict.why(self.settings, self.answers == "differ")
        if why:
            # ANSWERS=differ would not help a version that nobody rolls out on purpose
            broken = verdict.why(self.settings, broken=True)
            raise RolloutError(f"{new} is worse: {why}" + ("" if broken else on_purpose(new)))
        if self.answers == "differ" and (differs := verdict.why(self.settings)):
            self.steps("answers differ, as was asked for", version=new, why=differs)

    def _not_judged(self, new: str, found: str) -> None:
        """RolloutError, unless that was asked for: then the next document's reason says it."""
        if self.answers is None:
            raise RolloutError(not_judged(new, found))
        self.remark = "; answers not judged"
        self.steps("answers not judged", version=new, found=found)

    def _compare(self, new: str, old: str, start: Mapping[str, Any]) -> tuple[str, float]:
        """(what was compared, the new version's requests). RolloutError if it is worse, or an instance has failed meanwhile."""
        fleet = self._healthy_fleet()
        during = {version: between(fleet.statuses, start, version) for version in (new, old)}
        # all of them: a worker may hang at its first photos, before the watch
        during[new]["restarts"] = between(fleet.statuses, self.begun, new)["restarts"]
        # once the new version is the default everywhere, the old one gets no requests: it is judged by those before
        other = during[old] if during[old]["requests"] >= self.settings.min_requests else counters_of(start, old)
        why, comparison = why_worse(during[new], other, self.settings)
        if problems := [problem for problem in (why, self.not_ready) if problem]:
            raise RolloutError(f"{new} is worse: {'; '.join(problems)}")
        return comparison, during[new]["requests"]

    def compare_answers(self, new: str, old: str) -> None:
        """Show what both versions answered to the captured photos of all instances. RolloutError if that takes too long."""
        assert self.document is not None
        deadline = time.monotonic() + self.settings.rollout_s
        while True:
            reports = self._reports()
            if reports and len(reports) == len(self._fleet_in_time().statuses):
                self.steps("compared by captured photos", report=describe(reports, old, new))
                self._judge_pairs(new, old)
                return
            if time.monotonic() > deadline:
                raise RolloutError("the comparison by captured photos took too long")
            time.sleep(POLL_S)

    def _reports(self) -> list[dict[str, Any]]:
        """What the instances that follow this document have found when they asked both versions the same photos."""
        assert self.document is not None
        statuses = self._fleet_in_time().statuses.values()
        reports = [status["shadow"] for status in statuses if status["release"] == fingerprint(self.document) and status["shadow"]]
        # servers before this version do not say under which document they asked
        return [report for report in reports if report.get("release", fingerprint(self.document)) == fingerprint(self.document)]

    def undo_on_failure(self, change: Callable[[], None]) -> None:
        """Make a change. Where it fails the document before is restored: RolloutError, or the interruption as it came."""
        try:
            change()
        except ChangedError as error:
            raise RolloutError(str(error)) from error  # what somebody else has written stays
        except KeyboardInterrupt:
            self.steps("restored", why="interrupted", result=self.restore("interrupted"))
            raise
        except Exception as error:  # whatever it is, the new version must not stay unwatched
            why = str(error) or repr(error)
            self.steps("restoring", why=why)
            raise RolloutError(f"{why}\n{self.restore(why)}") from error

    def restore(self, why: str) -> str:
        """Put the model's release back that was there at first, unless it still is; the result as a sentence."""
        before, model = self.released.before, self.released.model
        if before is None and not self.released.others:
            return "there was no release before this one to go back to"
        self.instances = set()  # those that stopped reporting must not keep the others from going back
        try:
            if self.released.take_over(self.last_written) == before:
                return "nothing was changed"
            # what somebody else wrote of the model is refused
            if before is None:
                self.withdraw()
                return f"{model} is released no more"
            parts = {part: before[part] for part in ("canary", "shadow") if part in before}
            self.write(make(before["versions"], before["default"], before["stage"], f"restored: {why}", **parts))
            self.wait(self.settings.rollout_s)
        except (RolloutError, StoreError, OSError, ReleaseError) as error:
            return f"going back to {before['default'] if before else f'the release without {model}'} failed, too: {error}"
        return f"{before['default']} is served again"
