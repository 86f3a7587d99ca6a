"""What two versions answered to the same captured photos, all instances together, for people."""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from scripts.phrases import counted

SHOWN = 10


def describe(reports: Sequence[dict[str, Any]], old: str, new: str) -> str:
    """All instances' reports together, in a few lines."""
    photos, agreed = sum(report["photos"] for report in reports), sum(report["agreed"] for report in reports)
    if not photos:
        return "no captured photos: SEEFOOD_CAPTURE_SHARE=0.01 make serve keeps one in a hundred"
    changes: Counter[tuple[str, str]] = Counter()
    for report in reports:
        for before, after, count in report["changes"]:
            changes[before, after] += count
    # the median of the instances' medians: a slow machine among them does not decide
    speeds = {version: median([report["median_ms"][version] for report in reports if report["photos"]]) for version in (old, new)}
    lines = [f"{new} and {old} agree on {agreed} of {counted(photos, 'captured photo')} ({100 * agreed / photos:.1f} %)"]
    lines += [f"  {count} x {before} -> {after}" for (before, after), count in changes.most_common(SHOWN)]
    lines.append(f"  a photo at a time: {old} {speeds[old]:.1f} ms, {new} {speeds[new]:.1f} ms")
    refused = {version: sum(report["refused"][version] for report in reports) for version in (old, new)}
    if any(refused.values()):
        lines.append(f"  refused: {old} {refused[old]}, {new} {refused[new]}")
    return "\n".join(lines)
