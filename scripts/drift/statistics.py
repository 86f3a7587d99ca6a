"""Drift of each signal, with one statistic for all: minus log10 of a p-value; and the accuracy that the answers estimate.

The reference's values are cut into bins at its own quantiles, predicted classes are bins already. Pearson's chi-square test of
homogeneity compares the counts of both samples, so that the reference's finite size counts, too. With thousands of answers it would
find differences that do not matter: the hypothesis is not "no difference", but one of at most Cohen's "small" effect w = 0.1
(J. Cohen, Statistical Power Analysis, 1988, chapter 7), under which the statistic is non-central chi-square with w^2 nm / (n + m).
A KS test was left out: it is weak in the tails, where photos without food are.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from handler.signals import COLUMNS, SIGNALS, Profile

WINDOWS = (500, 5000)
LEAST = 100  # answers; of fewer no statistic is given
SMALL_EFFECT = 0.1
# -log10 of a p-value: 0.0001 for each of the signals, some 0.14 % for all of them together (Bonferroni)
THRESHOLD = 4.0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Compared(NamedTuple):
    """A signal's -log10 p, and the counts it comes from.

    Bin k holds the values from edges[k - 1] to edges[k]. Of "class", bins are the classes that are frequent enough, by index in
    `edges`, then all others together.
    """

    value: float
    edges: list[float]
    reference: list[int]
    found: list[int]


def noncentral_logsf(x: float, df: int, noncentrality: float) -> float:
    """The logarithm of a non-central chi-square distribution's share above x: central ones with df + 2 j, weighted by Poisson.

    A central one's is a closed sum (Abramowitz 26.4.4, 26.4.5), of which the next j has one term more. In logarithms, as the share
    itself is 0 in floating point where drift is large.
    """
    if x <= 0:
        return 0.0
    half, mean = x / 2, noncentrality / 2
    largest = max(mean, math.sqrt(mean * half))  # the j that weighs most: in the tail not the Poisson's own
    most = int(largest + 12 * math.sqrt(largest + 1)) + 12 if mean else 1
    odd, terms = df % 2, df // 2 + most - 1
    powers = np.arange(terms) + odd / 2  # of half, each divided by its factorial
    logs = powers * math.log(half) - half - np.array([math.lgamma(power + 1) for power in powers])
    sums = np.logaddexp.accumulate(np.concatenate([[_log_erfc(math.sqrt(half)) if odd else -math.inf], logs]))
    weights = np.array([j * math.log(mean) - mean - math.lgamma(j + 1) for j in range(most)]) if mean else np.zeros(1)
    return min(0.0, float(np.logaddexp.reduce(weights + sums[df // 2 : df // 2 + most])))


def _log_erfc(x: float) -> float:
    """log erfc(x) for x >= 0; for large x by its asymptotic series (Abramowitz 7.1.23), whose error is below its last term."""
    if x < 10:
        return math.log(math.erfc(x))
    z = 1 / (2 * x * x)
    return -x * x - math.log(x * math.sqrt(math.pi)) + math.log1p(-z + 3 * z**2 - 15 * z**3 + 105 * z**4)


def minus_log10_p(reference: np.ndarray, found: np.ndarray) -> float:
    """Of counts (K,) in the same bins; 0 where less than two bins have any."""
    m, n = reference.sum(), found.sum()
    used = reference + found > 0
    df = int(used.sum()) - 1
    if df < 1:
        return 0.0
    a, b = reference[used].astype(float), found[used].astype(float)
    statistic = float(((b * math.sqrt(m / n) - a * math.sqrt(n / m)) ** 2 / (a + b)).sum())
    return -noncentral_logsf(statistic, df, SMALL_EFFECT**2 * n * m / (n + m)) / math.log(10) + 0.0


def counts(profile: Profile, rows: np.ndarray, signal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(edges, reference, found): counts in the bins of a signal, or of "class"; see Compared."""
    column = COLUMNS.index(signal)
    before, now = profile.rows[:, column], rows[:, column]
    if signal == "class":
        # classes with fewer than five expected answers share a bin, as the distribution is not chi-square there
        shares = np.bincount(before.astype(int), minlength=int(now.max(initial=0)) + 1)
        found = np.bincount(now.astype(int), minlength=len(shares))
        rare = (shares + found) * min(len(before), len(now)) < 5 * (len(before) + len(now))
        reference, found = (np.append(c[~rare], c[rare].sum()) for c in (shares, found))
        return np.flatnonzero(~rare), reference, found
    edges = np.unique(np.quantile(before, QUANTILES))
    if len(edges) < len(QUANTILES):  # one value is frequent, a fixed size of all photos for instance: it is a bin of its own
        edges = np.unique(np.concatenate([np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)]))
    reference, found = (np.bincount(np.searchsorted(edges, c), minlength=len(edges) + 1) for c in (before, now))
    return edges, reference, found


def compare(profile: Profile, rows: np.ndarray) -> dict[str, Compared]:
    """By signal, "class" first, rows (N, len(COLUMNS)) beside the reference; nothing for fewer than LEAST rows."""
    if len(rows) < LEAST:
        return {}
    compared = {}
    for signal in ("class", *SIGNALS):
        edges, reference, found = counts(profile, rows, signal)
        value = minus_log10_p(reference, found)
        compared[signal] = Compared(round(value, 3), [float(f"{edge:.4g}") for edge in edges], reference.tolist(), found.tolist())
    return compared


def drift(profile: Profile, rows: np.ndarray) -> dict[str, float]:
    """-log10 p by signal; see compare."""
    return {signal: compared.value for signal, compared in compare(profile, rows).items()}


def drifted(values: Mapping[str, float]) -> list[str]:
    """The signals over THRESHOLD, the worst first."""
    return sorted((signal for signal, value in values.items() if value > THRESHOLD), key=lambda signal: -values[signal])


def estimated_accuracy(profile: Profile, rows: np.ndarray) -> float:
    """Mean calibrated top-1 probability, in which unsure answers beyond their usual share count as wrong.

    Of photos like the reference's, as many answers are unsure as of the reference's, and no less calibrated; what is beyond is
    unlike what was trained on, and its probability says nothing. Where photos have drifted it may be wrong either way: too high
    where the model is sure and wrong, too low where unsure answers are right. Nothing but labels shows that.
    """
    top1, unsure = rows[:, COLUMNS.index("top1")], rows[:, COLUMNS.index("confidence")] < profile.threshold
    share = float(unsure.mean())
    weights = np.where(unsure, min(1.0, profile.unsure / share) if share else 1.0, 1.0)
    return float((top1 * weights).mean())
