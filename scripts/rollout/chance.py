"""How likely chance makes a difference at least as large between two versions that answer alike. Exact, or an upper bound."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

NEGLIGIBLE = 1e-18  # of a sum: what comes after it is smaller still
TILTS = np.concatenate([np.linspace(0.05, 4, 40), np.linspace(4.5, 30, 40)])


def of_shares(count: float, total: float, other: float, other_total: float) -> float:
    """For `count` of `total` answers beside `other` of `other_total` others: Fisher's exact test, twice the smaller tail."""
    k, n, m = round(count), round(total), round(other_total)
    marked = k + round(other)  # drawn into the first sample without looking, k has the hypergeometric distribution
    lowest, highest = max(0, marked - m), min(n, marked)

    def chance(i: int) -> float:
        return math.exp(_log_choose(marked, i) + _log_choose(n + m - marked, n - i) - _log_choose(n + m, n))

    # from k outwards, away from what was to be expected: the other tail is the larger one
    outwards = range(k, highest + 1) if k * (n + m) >= n * marked else range(k, lowest - 1, -1)
    return min(1.0, 2 * _tail(map(chance, outwards)))


def of_pairs(only_one: int, only_other: int) -> float:
    """For photos that only one version answers so, and only the other: McNemar's exact test, both sides."""
    n, k = only_one + only_other, max(only_one, only_other)
    tail = _tail(math.exp(_log_choose(n, i) - n * math.log(2)) for i in range(k, n + 1))
    return min(1.0, 2 * tail)


def of_changes(changes: Sequence[float]) -> float:
    """For what a number rises or falls by on each photo: the permutation test that swaps the two versions of each, at most.

    Chernoff's bound for a sum of changes with random signs.
    """
    d = np.asarray(changes, dtype=float)
    scale = float(np.abs(d).max(initial=0))
    if not scale:
        return 1.0
    d = d / scale
    logs = [float(np.log(np.cosh(tilt * d)).sum() - tilt * abs(d.sum())) for tilt in TILTS]
    return min(1.0, 2 * math.exp(min(logs)))


def of_events(count: int, chances: Sequence[float]) -> float:
    """That at least `count` of independent events with these chances happen, at most: Chernoff's bound."""
    q = np.asarray(chances, dtype=float)
    if count <= q.sum():
        return 1.0
    logs = [float(np.log1p(q * np.expm1(tilt)).sum() - tilt * count) for tilt in TILTS]
    return min(1.0, math.exp(min(logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _tail(chances: Iterable[float]) -> float:
    """Their sum: they fall."""
    total = 0.0
    for chance in chances:
        total += chance
        if chance <= total * NEGLIGIBLE:
            break
    return total
