"""An instance's figures as CloudWatch reads them: lines of the embedded metric format, against AWS's schema and a real server."""

import json
import math
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from scripts.backend.torchserve.sockets import Addresses
from scripts.serving.cloudwatch import METRICS, CloudWatch, spread
from scripts.serving.door import Door
from scripts.serving.metrics import MetricsServer
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import LIMIT_S, free_port, picture_bytes
from tests.serving.server import Server
from tests.waiting import until

ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")
SCHEMA = json.loads((Path(__file__).parent / "emf.schema.json").read_text(encoding="utf-8"))
MINUTE = time.time() // 60 * 60 - 3600  # a full one
MOST_BYTES = 1024 * 1024


def check(line):
    """The line's figures, if it is one that CloudWatch takes."""
    assert len(line.encode()) <= MOST_BYTES
    found = json.loads(line)
    jsonschema.validate(found, SCHEMA)
    (directive,) = found["_aws"]["CloudWatchMetrics"]
    names = [one["Name"] for one in directive["Metrics"]]
    assert len(set(names)) == len(names) <= len(METRICS) <= 12
    for name in names:  # a target member is a number, or up to 100
        values = found[name] if isinstance(found[name], list) else [found[name]]
        assert 1 <= len(values) <= 100
        assert all(type(value) in (int, float) and math.isfinite(value) for value in values)
    # CloudWatch takes two weeks before, and two hours after
    assert -14 * 24 * 3600 < found["_aws"]["Timestamp"] / 1000 - time.time() < 2 * 3600
    return {name: found[name] for name in names}


def lines_of(output):
    return [line for line in output.splitlines() if '"_aws"' in line]


def family(kind, name, values, *labels):
    found = kind(name, "x", labels=labels)
    for of, value in values.items():
        found.add_metric([of] if labels else [], value)
    return found


def gauge(name, value):
    return family(GaugeMetricFamily, name, {"": value})


def states(ready=1, state="reconciled", served=1, free=5e8):
    return [
        gauge("seefood_instance_ready", ready),
        family(GaugeMetricFamily, "seefood_instance_state", {state: 1}, "state"),
        gauge("seefood_instance_release_served", served),
        gauge("seefood_instance_disk_free_bytes", free),
    ]


def outcomes(**counts):
    return family(CounterMetricFamily, "seefood_door_outcomes", counts, "outcome")


def answers(unsure, count, version="1.0.0"):
    histogram = HistogramMetricFamily("seefood_top1_probability", "x", labels=["version"])
    histogram.add_metric([version], [("+Inf", count)], count)
    return [family(CounterMetricFamily, "seefood_unsure", {version: unsure}, "version"), histogram]


@pytest.fixture
def logged(capsys):
    """What is logged of these samples, which come at the seconds of MINUTE that are their keys."""

    def log(samples):
        at = 0.0
        cloudwatch = CloudWatch(lambda: samples[at], "SeeFood/test", Steps(True))
        cloudwatch._began = MINUTE
        for at in samples:
            cloudwatch.take(MINUTE + at)
        return [check(line) for line in lines_of(capsys.readouterr().out)]

    return log


def test_counters_are_sums_of_the_minute_and_one_that_is_started_again_counts_from_0(logged):
    seen = [{"answered": 3}, {"answered": 5, "failed": 2, "shed": 1}, None, {"answered": 4, "shed": 1}]
    samples = {20.0 * (index + 1): states() + ([outcomes(**one)] if one else []) for index, one in enumerate(seen)}
    samples[120] = [*states(), outcomes(answered=10, shed=1)]
    first, second = logged(samples)
    assert [first[name] for name in ("Answered", "Failed", "Shed")] == [5, 2, 1]
    assert [second[name] for name in ("Answered", "Failed", "Shed")] == [10, 0, 1]


def restarts(**counts):
    return family(CounterMetricFamily, "seefood_instance_restarts", counts, "part")


def test_counter_that_is_started_again_leaves_those_beside_it_as_they_are(logged):
    samples = {
        60: [*states(), restarts(worker=7, door=2), *answers(0, 100, "1.0.0"), *answers(0, 400, "1.1.0")],
        120: [*states(), restarts(worker=1, door=2), *answers(30, 60, "1.0.0"), *answers(0, 400, "1.1.0")],
    }
    first, second = logged(samples)
    assert (first["Restarts"], second["Restarts"]) == (9, 1)
    assert second["Unsure"] == round(30 / 160, 3)  # of 1.0.0's 100 and 60; 1.1.0's 400 are not counted again


def test_all_counters_of_a_door_that_is_started_again_count_from_0_whichever_shows_it(logged):
    def door(answered, seconds):
        histogram = HistogramMetricFamily("seefood_door_answer_seconds", "x")
        histogram.add_metric([], [("1.0", seconds), ("+Inf", seconds)], seconds)
        return [*states(), outcomes(answered=answered), histogram]

    # more photos than before, but fewer of them with a time
    _, second = logged({60: door(answered=3, seconds=3), 120: door(answered=5, seconds=2)})
    assert (second["Answered"], len(second["Seconds"])) == (5, 2)


def test_a_fleets_quantiles_weigh_each_task_by_what_it_answers(logged):
    def task(photos, bound):
        histogram = HistogramMetricFamily("seefood_door_answer_seconds", "x")
        histogram.add_metric([], [(str(bound / 2), 0), (str(bound), photos), ("+Inf", photos)], photos)
        return {60: [*states(), histogram]}

    busy, idle = logged(task(2950, 0.1)), logged(task(50, 8.0))
    assert [len(line["Seconds"]) for line in busy] == [100] * 29 + [50]
    assert len([line for line in busy if "Answered" in line]) == 1
    values = sorted(value for line in busy + idle for value in line["Seconds"])
    assert len(values) == 3000
    assert values[int(0.98 * 3000)] < 0.1 < values[int(0.99 * 3000)]  # 1.7 % of the fleet's photos were slow


def test_line_of_a_minute_without_photos_has_zeros_and_nothing_that_is_not_known(logged):
    (figures,) = logged({60: [*states(), outcomes(answered=0)]})
    assert figures == {"Answered": 0, "Failed": 0, "Shed": 0, "NotReady": 0, "Restarts": 0, "ReleaseLag": 0.0, "FreeDisk": 5e8}


def test_drift_and_estimated_accuracy_are_taken_where_they_are_measured(logged):
    drift = GaugeMetricFamily("seefood_drift", "x", labels=["version", "signal", "window"])
    for signal_name, value in (("brightness", 1.5), ("entropy", 7.25), ("size", math.nan)):
        drift.add_metric(["1.0.0", signal_name, "500"], value)
    drift.add_metric(["1.0.0", "brightness", "5000"], 9.0)  # the long window is no alarm's
    accuracy = GaugeMetricFamily("seefood_estimated_accuracy", "x", labels=["version", "window"])
    for version, value in (("1.0.0", 0.83), ("1.1.0", 0.79)):
        accuracy.add_metric([version, "500"], value)
    (figures,) = logged({60: [*states(), drift, accuracy]})
    assert (figures["Drift"], figures["EstimatedAccuracy"]) == (7.25, 0.79)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({50: states(0), 60: states(0), 90: states(), 120: states()}, [0, 0]),  # a start that takes 40 s
        ({40: states(0), 60: states(0), 110: states(0), 120: states()}, [0, 1]),
        ({50: states(0), 60: states(0), 110: states(0, "draining"), 120: states(0, "draining")}, [0, 0]),
    ],
)
def test_not_ready_is_a_minute_on_end_and_none_of_a_task_that_was_told_to_end(samples, expected, logged):
    assert [figures["NotReady"] for figures in logged(samples)] == expected


def test_release_lag_counts_seconds_over_minutes_until_all_is_served_and_the_status_is_written(logged):
    written = gauge("seefood_instance_status_written", 0)
    samples = {30: states(served=0), 60: states(served=0), 120: [*states(), written], 180: states(served=0, state="draining")}
    assert [figures["ReleaseLag"] for figures in logged(samples)] == [30, 90, 0]


def test_unsure_share_is_of_two_minutes_and_of_enough_answers_of_one_version(logged):
    samples = {60: [*states(), *answers(10, 30)], 120: [*states(), *answers(20, 60)], 180: [*states(), *answers(20, 110)]}
    assert [figures.get("Unsure") for figures in logged(samples)] == [None, round(20 / 60, 3), round(10 / 80, 3)]


def test_queue_is_the_minutes_mean_and_disk_its_least(logged):
    name = "seefood_door_waiting_cpu_seconds"
    (figures,) = logged({30: [*states(free=3e8), gauge(name, 8.0)], 60: [*states(), gauge(name, 1.0)]})
    assert (figures["QueueSeconds"], figures["FreeDisk"]) == (4.5, 3e8)


def test_seconds_have_the_quantiles_of_the_histogram():
    assert spread({}) == spread({1.0: 0, math.inf: 0}) == []
    assert spread({1.0: 1, 2.0: 1, math.inf: 1}) == [0.5]
    many = spread({0.1: 9800, 2.0: 9800, 5.0: 10_000, math.inf: 10_000})
    assert len(many) == 100
    assert many == sorted(many)
    assert sum(value > 2 for value in many) == 2
    assert spread({1.0: 0, math.inf: 5}) == [1.0] * 5


def test_without_a_namespace_nothing_is_logged_and_with_one_the_log_must_be_json(capsys):
    with CloudWatch(lambda: pytest.fail("nobody reads it"), "", Steps(True)):
        pass
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="SEEFOOD_CLOUDWATCH_NAMESPACE is 'a', expected SEEFOOD_LOG_JSON=true with it"):
        Settings.from_environment({"SEEFOOD_CLOUDWATCH_NAMESPACE": "a"})


def test_sample_that_fails_is_logged_and_the_next_one_is_taken(monkeypatch, capsys):
    monkeypatch.setattr("scripts.serving.cloudwatch.SAMPLE_S", 0.05)
    asked = []

    def families():
        asked.append(1)
        if len(asked) == 1:
            raise OSError("gone")
        return states()

    with CloudWatch(families, "a", Steps(True)):
        until(lambda: len(asked) > 2)
    unexpected, line = capsys.readouterr().out.splitlines()
    assert json.loads(unexpected)["why"] == "OSError: gone"
    assert check(line)["FreeDisk"] == 5e8


def test_photos_are_counted_at_the_door_and_not_while_it_does_not_answer(tmp_path, capsys):
    port = free_port()
    state = {"live": True, "ready": False, "why": "starting", "draining": False, "models": {}}
    metrics = MetricsServer(tmp_path / "metrics", free_port(), ADDRESSES.metrics, door=f"http://127.0.0.1:{port + 1}")
    cloudwatch = CloudWatch(metrics.families, "a", Steps(True))
    cloudwatch._minute.gauges.append({})  # as of a minute before
    cloudwatch.take(time.time())
    with Door("127.0.0.1", port, ADDRESSES, Settings(), Steps(True), lambda: state):
        for _ in range(2):
            assert httpx.post(f"http://127.0.0.1:{port}/predictions/seefood", content=b"a").status_code == 503
        assert httpx.post(f"http://127.0.0.1:{port}/nowhere", content=b"a").status_code == 404
        cloudwatch.take(time.time())
    cloudwatch.take(time.time())
    cloudwatch.log()
    metrics.server_close()
    figures = Counter()
    for line in lines_of(capsys.readouterr().out):
        figures.update({name: value for name, value in check(line).items() if name in ("Answered", "Failed", "Shed")})
    assert figures == {"Answered": 0, "Failed": 2, "Shed": 0}


@pytest.mark.server
@pytest.mark.slow
def test_server_logs_answers_shed_load_and_a_worker_that_is_gone_apart(model_store, monkeypatch):
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    monkeypatch.setenv("SEEFOOD_CLOUDWATCH_NAMESPACE", "SeeFood/test")
    monkeypatch.setenv("SEEFOOD_WORKER_REQUESTS", "1")
    monkeypatch.setenv("SEEFOOD_QUEUE_CPU_S", "0")
    server, photo = Server(model_store, free_port()).wait_ready(), picture_bytes(1)

    def ask(content=photo):
        return httpx.post(server.url, content=content, timeout=LIMIT_S)

    def total(name):
        return sum(check(line)[name] for line in lines_of(server.output))

    assert [ask().status_code, ask(b"no photo").status_code] == [200, 415]
    (worker,) = [one for one in server.family() if "model_service_worker.py" in " ".join(one.cmdline())]
    os.kill(worker.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask) for _ in range(6)]
        # one is at the worker, one waits, and the rest is refused at once
        until(lambda: sum(one.done() for one in asked) == 4)
        os.kill(worker.pid, signal.SIGCONT)
        statuses = Counter(one.result().status_code for one in asked)
    assert statuses == {200: 2, 503: 4}
    java = server.part("JVM")
    java.kill()
    assert ask().json()["type"] == "UnavailableError"
    until(lambda: lines_of(server.output) and total("Failed") == 1)
    assert total("Restarts") == 1
    assert [total(name) for name in ("Answered", "Failed", "Shed")] == [3, 1, 4]
    figures = check(lines_of(server.output)[-1])
    assert {"NotReady", "ReleaseLag", "FreeDisk", "QueueSeconds"} <= set(figures)
    assert sum(len(check(line).get("Seconds", ())) for line in lines_of(server.output)) == 4
    server.end()
