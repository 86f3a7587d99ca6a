"""Two versions' counters beside each other: requests, errors and the worker's times, from what all instances report."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scripts.phrases import counted
from scripts.settings import Settings

PERCENTILE = 0.99
COUNTS = ("requests", "errors", "restarts")


def counters_of(statuses: Mapping[str, Mapping[str, Any]], version: str) -> dict[str, Any]:
    """A version's counters over all instances: requests, errors, worker restarts, batches by seconds (cumulative)."""
    return _sum(_of_instance(status, version) for status in statuses.values())


def _of_instance(status: Mapping[str, Any], version: str) -> dict[str, Any]:
    counted = status["figures"].get(version, {"outcomes": {}, "seconds": {}})
    requests = sum(counted["outcomes"].values())
    good = counted["outcomes"].get("answered", 0) + counted["outcomes"].get("explained", 0)
    restarts = status["worker_restarts"].get(version, 0)
    return {"requests": requests, "errors": requests - good, "restarts": restarts, "seconds": counted["seconds"]}


def _sum(counters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"requests": 0, "errors": 0, "restarts": 0, "seconds": {}}
    for one in counters:
        for key in COUNTS:
            total[key] += one[key]
        for upper, count in one["seconds"].items():
            total["seconds"][upper] = total["seconds"].get(upper, 0) + count
    return total


def since(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The counters of the time between."""
    # a restarted instance counts from 0 again, so a difference may be negative: nothing is known then
    seconds = {upper: max(0, count - before["seconds"].get(upper, 0)) for upper, count in now["seconds"].items()}
    return {name: max(0, now[name] - before[name]) for name in COUNTS} | {"seconds": seconds}


def between(now: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], version: str) -> dict[str, Any]:
    """A version's counters over all instances for the time between two readings of the statuses."""
    nothing = _sum([])
    # instance by instance: in a difference of sums, one that was restarted would hide what the others counted
    return _sum(
        since(_of_instance(status, version), _of_instance(before[name], version) if name in before else nothing)
        for name, status in now.items()
    )


def percentile(seconds: Mapping[str, float], share: float) -> float:
    """The time that `share` of batches did not exceed, interpolated in its bucket as Prometheus does; nan without batches."""
    buckets = sorted((math.inf if upper == "+Inf" else float(upper), count) for upper, count in seconds.items())
    if not buckets or buckets[-1][1] == 0:
        return math.nan
    rank, lower, below = share * buckets[-1][1], 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            return lower if math.isinf(upper) else lower + (upper - lower) * (rank - below) / max(count - below, 1e-9)
        lower, below = upper, count
    return lower


def why_worse(new: Mapping[str, Any], old: Mapping[str, Any], settings: Settings) -> tuple[str, str]:
    """(why the new version is worse than the old one, "" if it is not; what was compared)."""
    if new["restarts"]:
        return f"its worker died or hung {counted(int(new['restarts']), 'time')}", ""
    requests = (new["requests"], old["requests"])
    if min(requests) < settings.min_requests:
        return "", f"{counted(int(requests[0]), 'request')} (the old version: {requests[1]:g}), too few to compare"
    rates = new["errors"] / requests[0], old["errors"] / requests[1]
    p99s = percentile(new["seconds"], PERCENTILE), percentile(old["seconds"], PERCENTILE)
    comparison = (
        f"{counted(int(requests[0]), 'request')}: {100 * rates[0]:.2f} % errors, the worker's p99 {1000 * p99s[0]:.0f} ms; "
        f"the old version's {requests[1]:g}: {100 * rates[1]:.2f} %, {1000 * p99s[1]:.0f} ms"
    )
    # errors by a difference, not a ratio: a good version has next to none, and any ratio of that is chance
    if rates[0] > rates[1] + settings.worse_error_rate + 1e-9:  # at the margin it passes, whatever floats make of it
        return f"more errors: {comparison}", comparison
    # times by a ratio and a difference: 50 % more of a few milliseconds is noise. False where a p99 is nan
    if p99s[0] > max(p99s[1] * settings.worse_p99, p99s[1] + settings.worse_p99_s):
        return f"slower: {comparison}", comparison
    return "", comparison
