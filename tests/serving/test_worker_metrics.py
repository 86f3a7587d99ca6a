"""What one worker counts (handler/metrics.py), and what the counting costs."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import generate_latest

from handler.metrics import Metrics, outcome
from tests.conftest import ROOT
from tests.serving.workers import living, values


def test_without_a_folder_metrics_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    first, second = (Metrics(version, ["ramen", "pizza"]) for version in ("1.0.0", "1.1.0"))
    first.answered("ramen", 1.0, True)
    text = generate_latest(first.registry).decode()
    assert values(text, version="1.0.0", outcome="answered")["seefood_requests_total"] == 1
    assert values(generate_latest(second.registry).decode(), outcome="answered")["seefood_requests_total"] == 0
    assert values(text)["seefood_top1_probability_bucket 1.0"] == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError, match="soup"):
        first.answered("soup", 0.5, True)


@pytest.mark.parametrize("missing", [False, True])
def test_worker_makes_the_folder_that_is_missing(tmp_path, missing):
    folder = tmp_path / "a" / "metrics" if missing else tmp_path
    with living(folder, "1.0.0"):
        assert len(list(folder.iterdir())) == 2


def test_outcomes_are_few_and_each_status_has_one():
    assert [outcome(status) for status in (200, 400, 413, 415, 422, 503)] == [
        "answered",
        "bad_request",
        "too_large",
        "unsupported",
        "unreadable",
        "busy",
    ]
    metrics = Metrics("1.0.0", ["ramen"])
    for status in range(400, 600):
        metrics.refused(status)
    text = generate_latest(metrics.registry).decode()
    assert values(text, outcome="failed") == {"seefood_requests_total": 195}
    assert values(text)["seefood_requests_total"] == 200


def test_threads_lose_no_count():
    metrics = Metrics("1.0.0", ["ramen"])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [metrics.decoded(0.01) for _ in range(500)], range(8)))
    found = values(generate_latest(metrics.registry).decode())
    assert found["seefood_decode_seconds_count"] == 4000
    assert found["seefood_decode_seconds_sum"] == pytest.approx(40)


COST = """
import time
from handler.metrics import Metrics
metrics = Metrics("1.0.0", [f"class_{i}" for i in range(101)])
took = []
for _ in range(500):
    started = time.perf_counter()
    metrics.batch(8)
    for i in range(8):
        metrics.decoded(0.004)
        metrics.answered(f"class_{i}", 0.9, i > 0)
    metrics.inferred(0.02)
    metrics.handled(0.03)
    took.append(time.perf_counter() - started)
print(sorted(took)[len(took) // 10])
"""


def test_counting_a_batch_of_eight_costs_far_less_than_a_photo(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COST], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.0002  # seconds; 0.05 ms on an idle machine
