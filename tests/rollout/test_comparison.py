"""When a new version is worse than the old one: counters of all instances together, percentiles, margins."""

import math
import re

import pytest

from scripts.rollout.comparison import counters_of, percentile, since, why_worse
from scripts.settings import Settings


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [
        ({"0.1": 0, "0.2": 100, "+Inf": 100}, 0.5, 0.15),
        ({"0.1": 50, "0.2": 100, "+Inf": 100}, 0.99, 0.198),
        ({"0.1": 100, "+Inf": 100}, 0.5, 0.05),  # the first bucket begins at 0
        ({"0.1": 90, "+Inf": 100}, 0.99, 0.1),  # beyond the last bound nothing is known
        ({"0.1": 50, "0.2": 50, "0.4": 100, "+Inf": 100}, 0.5, 0.1),
        ({"10.0": 100, "+Inf": 100, "9.0": 0}, 0.5, 9.5),  # bounds are numbers, not words
        ({"0.1": 0, "+Inf": 0}, 0.99, math.nan),
        ({}, 0.99, math.nan),
    ],
)
def test_percentile_is_interpolated_as_prometheus_does(seconds, share, expected):
    assert percentile(seconds, share) == pytest.approx(expected, nan_ok=True)


def status(outcomes, seconds, restarts=0):
    return {"figures": {"1.1.0": {"outcomes": outcomes, "seconds": seconds}}, "worker_restarts": {"1.1.0": restarts}}


def test_counters_of_all_instances_add_up_and_those_before_are_subtracted():
    first = status({"answered": 90, "explained": 4, "failed": 5, "unreadable": 1}, {"0.1": 80, "+Inf": 100}, 1)
    second = status({"answered": 10}, {"0.1": 10, "+Inf": 10})
    idle = {"figures": {}, "worker_restarts": {}}
    before = counters_of({"a": first, "c": idle}, "1.1.0")
    assert before == {"requests": 100, "errors": 6, "restarts": 1, "seconds": {"0.1": 80, "+Inf": 100}}
    now = counters_of({"a": first, "b": second, "c": idle}, "1.1.0")
    assert since(now, before) == {"requests": 10, "errors": 0, "restarts": 0, "seconds": {"0.1": 10, "+Inf": 10}}
    assert counters_of({"a": first}, "1.0.0") == {"requests": 0, "errors": 0, "restarts": 0, "seconds": {}}
    # an instance was started anew, and counts from 0
    assert since(before, now) == {"requests": 0, "errors": 0, "restarts": 0, "seconds": {"0.1": 0, "+Inf": 0}}


def counters(requests=1000, errors=0, p99_s=0.1, restarts=0):
    return {"requests": requests, "errors": errors, "restarts": restarts, "seconds": {str(p99_s): 0, "+Inf": requests}}


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (counters(errors=20), counters(errors=10), ""),
        (counters(errors=21), counters(errors=10), "more errors: 1000 requests: 2.10 % errors, .*the old version's 1000: 1.00 %"),
        (counters(errors=10), counters(errors=500), ""),
        (counters(p99_s=0.15), counters(p99_s=0.1), ""),
        (counters(p99_s=0.151), counters(p99_s=0.1), "slower: .*p99 151 ms; .* 100 ms"),
        (counters(p99_s=0.03), counters(p99_s=0.01), ""),  # three times as slow, but 20 ms are nothing
        (counters(p99_s=0.031), counters(p99_s=0.01), "slower"),
        (counters(p99_s=0.01), counters(p99_s=0.1), ""),
        (counters(requests=100, errors=100), counters(requests=100), "more errors"),
        (counters(requests=99, errors=99, p99_s=9), counters(), ""),
        (counters(errors=1000, p99_s=9), counters(requests=99), ""),
        (counters(requests=0, restarts=1), counters(), "its worker died or hung 1 time$"),
        (counters(requests=0, restarts=2), counters(), "its worker died or hung 2 times$"),
        ({**counters(), "seconds": {}}, counters(), ""),
        (counters(), {**counters(), "seconds": {}}, ""),
    ],
)
def test_new_version_is_worse_beyond_the_margin_and_not_at_it(new, old, why):
    worse, compared = why_worse(new, old, Settings(min_requests=100, worse_error_rate=0.01, worse_p99=1.5, worse_p99_s=0.02))
    assert re.match(why, worse)
    assert bool(worse) == bool(why)
    if min(new["requests"], old["requests"]) < 100 and not why:
        assert compared.endswith("too few to compare")
    elif not why:
        assert compared.startswith("1000 requests: ")
