"""Both kinds of evidence about a new version's answers: why they are worse, what was compared, whether that was enough."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from scripts.phrases import counted
from scripts.rollout.answers import AGAIN, Difference, differing, largest
from scripts.rollout.live import Answers, Statuses, answers_of, live_differences
from scripts.rollout.pairs import Pairs, described, paired_differences
from scripts.settings import Settings


class Verdict(NamedTuple):
    """What one kind of evidence says. Where it was not enough nothing is known, though nothing differs."""

    differences: Sequence[Difference]
    before: str  # words before the reasons
    found: str  # what was compared
    enough: bool

    def why(self, settings: Settings, broken: bool = False) -> str:
        """Why the new version is worse, "" if nothing shows that. `broken`: by what nobody rolls out on purpose alone."""
        # all of them count as comparisons, or those that are left would be found by chance more often
        found = differing([one if one.broken or not broken else one._replace(chance=1.0) for one in self.differences], settings)
        return found and self.before + found


def judge_pairs(reports: Sequence[Mapping[str, Any]], new: str, old: str, settings: Settings) -> tuple[Verdict, int]:
    """By the same photos; the number of captured ones that both versions answered."""
    pairs = Pairs.of(reports, old, new)
    if not pairs.together:
        return Verdict([], "", "no server has asked both versions the same photos", new == old), 0
    differences = paired_differences(pairs)
    before = f"of {counted(len(pairs.captured), 'captured photo')} that both versions were asked: "
    enough = pairs.answered >= settings.min_photos or pairs.are_alike
    return Verdict(differences, before, described(pairs, differences), enough), pairs.answered


def judge_live(versions: tuple[str, str], now: Statuses, start: Statuses, begun: Statuses, settings: Settings) -> Verdict:
    """By what clients were answered; `versions` are (new, old). Statuses: now, at the bake's start, the rollout's."""
    new, old = versions
    during = answers_of(now, new, start)
    # the nearer in time, the more alike are the photos: meanwhile, as beside a canary; else just before; else ever
    for other in (answers_of(now, old, start), answers_of(start, old, begun), answers_of(start, old)):
        if other.number >= settings.min_requests:
            break
    count = f"{counted(round(during.number), 'answer')} (the old version: {other.number:g})"
    if min(during.number, other.number) < settings.min_requests:
        return Verdict([], "", f"{count}, too few to compare: {settings.min_requests} of each are needed", new == old)
    differences, rest = live_differences(during, other)
    return Verdict(differences, "", f"{count}; farthest apart: {largest(differences)}{rest}", True)


def still_differs(new: Answers, old: Answers, settings: Settings, broken: bool) -> str:
    """Why the new version is worse than the old one, which answered after it; "" if the photos have changed.

    A difference was found before, so that it need not be as improbable a second time.
    """
    if old.number < settings.min_requests:
        return f"{counted(round(old.number), 'answer')} of the old version since are too few to see whether the photos have changed"
    differences, _ = live_differences(new, old)
    return Verdict(differences, "", "", True).why(replace(settings, answers_chance=AGAIN), broken)
