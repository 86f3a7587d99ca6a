"""The statistic of drift: its distribution where nothing has changed, and what it finds."""

import math

import numpy as np
import pytest
from scipy import stats

from handler.signals import COLUMNS, SIGNALS, Profile
from scripts.drift import statistics
from scripts.drift.statistics import LEAST, drift, drifted, estimated_accuracy, minus_log10_p, noncentral_logsf

THRESHOLD = 0.5


def rows_of(rng, count, classes=4):
    """Rows of a made-up model that is right about its probabilities."""
    rows = rng.normal(size=(count, len(COLUMNS))).astype(np.float32)
    rows[:, 0] = rng.integers(0, classes, count)
    rows[:, COLUMNS.index("top1")] = rng.uniform(0.4, 1, count)
    rows[:, COLUMNS.index("confidence")] = rng.uniform(THRESHOLD - 0.02, 0.88, count)  # 5 % are unsure
    return rows


def profile_of(rows):
    return Profile(rows, np.zeros(1), np.ones((1, 1)), np.ones(1), THRESHOLD)


@pytest.mark.parametrize("df", [1, 2, 3, 5, 9, 10, 100])
@pytest.mark.parametrize("noncentrality", [0.0, 0.5, 2.0, 14.0])
def test_distributions_are_scipys(df, noncentrality):
    for x in (0.01, 1.0, df, 3.0 * df, 5.0 * df + 30):
        expected = stats.ncx2.sf(x, df, noncentrality) if noncentrality else stats.chi2.sf(x, df)
        assert math.exp(noncentral_logsf(x, df, noncentrality)) == pytest.approx(expected, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("df", [1, 2, 5, 6, 101])
@pytest.mark.parametrize("noncentrality", [0.0, 3.0])
@pytest.mark.parametrize("x", [50.0, 210.0, 2000.0, 20_000.0])
def test_tails_below_what_a_float_holds_are_those_of_exact_arithmetic(df, noncentrality, x):
    """The sum itself, with 50 digits; scipy's logsf is -inf there."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        half, total = mpmath.mpf(noncentrality) / 2, mpmath.mpf(0)
        for j in range(500 if noncentrality else 1):
            total += mpmath.exp(-half) * half**j / mpmath.factorial(j) * mpmath.gammainc(df / 2 + j, x / 2, regularized=True)
        assert noncentral_logsf(x, df, noncentrality) == pytest.approx(float(mpmath.log(total)), rel=1e-6)


def test_drift_however_large_is_finite_and_larger_drift_has_a_larger_number():
    reference, values = np.array([5000.0] * 6), []
    for share in np.linspace(0.2, 1, 30):
        found = np.full(6, 5000 * (1 - share) / 5)
        found[0] = 5000 * share
        values.append(minus_log10_p(reference, found))
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) > 0)
    assert values[-1] > 1000


def test_without_a_least_effect_it_is_scipys_test_of_homogeneity(monkeypatch):
    monkeypatch.setattr(statistics, "SMALL_EFFECT", 0.0)
    counts = np.array([30, 60, 90, 40]), np.array([70, 90, 120, 80])
    expected = stats.chi2_contingency(np.stack(counts), correction=False).pvalue
    assert minus_log10_p(*counts) == pytest.approx(-np.log10(expected))


def test_p_values_are_uniform_where_nothing_has_changed(monkeypatch):
    monkeypatch.setattr(statistics, "SMALL_EFFECT", 0.0)
    rng = np.random.default_rng(0)
    values = np.array([list(drift(profile_of(rows_of(rng, 600)), rows_of(rng, 500)).values()) for _ in range(150)])
    p = 10 ** -values.ravel()
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / len(p)) + 0.002)


def test_ordinary_windows_are_quiet_even_beside_a_small_reference():
    rng = np.random.default_rng(1)
    found = [drifted(drift(profile_of(rows_of(rng, 300)), rows_of(rng, 500))) for _ in range(200)]
    assert sum(map(bool, found)) <= 2


@pytest.mark.parametrize("signal", ["class", *SIGNALS])
def test_each_signal_that_moves_is_found_and_no_other(signal):
    rng = np.random.default_rng(2)
    profile, rows = profile_of(rows_of(rng, 600)), rows_of(rng, 500)
    column = COLUMNS.index(signal)
    rows[:, column] = rows[:, column] % 2 if signal == "class" else rows[:, column] + profile.rows[:, column].std()
    assert drifted(drift(profile, rows)) == [signal]


def test_a_difference_that_does_not_matter_is_none_however_many_answers():
    rng = np.random.default_rng(3)
    profile, rows = profile_of(rows_of(rng, 2000)), rows_of(rng, 5000)
    rows[:, COLUMNS.index("brightness")] += 0.05
    assert not drifted(drift(profile, rows))


def test_constant_signals_new_classes_and_few_answers_are_no_trouble():
    rng = np.random.default_rng(4)
    before, now = rows_of(rng, 300), rows_of(rng, 500)
    before[:, COLUMNS.index("aspect")] = now[:, COLUMNS.index("aspect")] = 1.5
    assert drift(profile_of(before), now)["aspect"] == 0
    now[:, 0] = 7  # a class that the reference never had
    now[:, COLUMNS.index("aspect")] = 1.4
    assert set(drifted(drift(profile_of(before), now))) == {"class", "aspect"}
    assert drift(profile_of(before), now[: LEAST - 1]) == {}


def test_accuracy_is_the_mean_probability_and_excess_unsure_answers_count_as_wrong():
    rows = rows_of(np.random.default_rng(5), 1000)
    profile, confidence, top1 = profile_of(rows.copy()), COLUMNS.index("confidence"), COLUMNS.index("top1")
    assert profile.unsure == pytest.approx(0.05, abs=0.01)
    rows[:, top1], rows[:, confidence] = 0.8, 0.9
    assert estimated_accuracy(profile, rows) == pytest.approx(0.8)
    rows[: int(1000 * profile.unsure), confidence] = 0.1
    assert estimated_accuracy(profile, rows) == pytest.approx(0.8)  # as many are usual
    rows[:250, confidence] = 0.1
    assert estimated_accuracy(profile, rows) == pytest.approx(0.8 * (0.75 + profile.unsure))
