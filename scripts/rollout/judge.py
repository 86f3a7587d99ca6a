"""Both kinds of evidence about a new version's answers, each as (why it is worse, "" if it is not; what was compared)."""

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.phrases import counted
from scripts.rollout.answers import differing, largest
from scripts.rollout.live import Statuses, answers_of, live_differences
from scripts.rollout.pairs import Pairs, described, paired_differences
from scripts.settings import Settings


def judge_pairs(reports: Sequence[Mapping[str, Any]], new: str, old: str, settings: Settings) -> tuple[str, str, int]:
    """By the same photos: (why, found, captured photos that both were asked)."""
    pairs = Pairs.of(reports, old, new)
    if not pairs.together:
        return "", "no server has asked both versions the same photos", 0
    differences = paired_differences(pairs)
    why = differing(differences, settings)
    photos = f"of {counted(len(pairs.captured), 'captured photo')} that both versions were asked: " if why else ""
    return photos + why, described(pairs, differences), len(pairs.captured)


def judge_live(versions: tuple[str, str], now: Statuses, start: Statuses, begun: Statuses, settings: Settings) -> tuple[str, str]:
    """By what clients were answered; `versions` are (new, old). Statuses: now, at the bake's start, the rollout's."""
    new, old = versions
    during = answers_of(now, new, start)
    # the nearer in time, the more alike are the photos: meanwhile, as beside a canary; else just before; else ever
    for other in (answers_of(now, old, start), answers_of(start, old, begun), answers_of(start, old)):
        if other.number >= settings.min_requests:
            break
    if min(during.number, other.number) < settings.min_requests:
        return "", f"{counted(round(during.number), 'answer')} (the old version: {other.number:g}), too few to compare"
    differences, rest = live_differences(during, other)
    count = f"{counted(round(during.number), 'answer')} (the old version: {other.number:g})"
    return differing(differences, settings), f"{count}; farthest apart: {largest(differences)}{rest}"
