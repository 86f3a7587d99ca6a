"""What became of photos, as it is logged for the alarms on AWS: from the door's counters to lines of JSON."""

import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scripts.backend.torchserve.sockets import Addresses
from scripts.serving.door import Door
from scripts.serving.metrics import MetricsServer
from scripts.serving.outcomes import Outcomes
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import LIMIT_S, free_port, picture_bytes
from tests.serving.server import Server

ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")


def lines_of(output):
    """The numbers of each step "photos"."""
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [(line["answered"], line["failed"], line["shed"]) for line in found if line["step"] == "photos"]


def test_only_what_has_come_since_is_logged_and_a_door_that_is_started_again_counts_from_0(capsys):
    seen = iter([{}, {"answered": 3}, {"answered": 3}, {"answered": 5, "failed": 2, "shed": 1}, {}, {"answered": 4, "shed": 1}])
    outcomes = Outcomes(lambda: next(seen), Steps(True))
    for _ in range(6):
        outcomes.log()
    assert lines_of(capsys.readouterr().out) == [(3, 0, 0), (2, 2, 1), (4, 0, 1)]


def test_log_for_people_has_none(capsys):
    with Outcomes(lambda: pytest.fail("nobody reads it"), Steps(False)) as outcomes:
        assert not outcomes._thread.is_alive()


def test_counts_are_those_of_the_door_and_none_while_it_does_not_answer(tmp_path, capsys):
    port = free_port()
    state = {"live": True, "ready": False, "why": "starting", "draining": False, "models": {}}
    metrics = MetricsServer(tmp_path / "metrics", free_port(), ADDRESSES.metrics, door=f"http://127.0.0.1:{port + 1}")
    outcomes = Outcomes(metrics.outcomes, Steps(True))
    outcomes.log()
    with Door("127.0.0.1", port, ADDRESSES, Settings(), Steps(True), lambda: state):
        for _ in range(2):
            assert httpx.post(f"http://127.0.0.1:{port}/predictions/seefood", content=b"a").status_code == 503
        assert httpx.post(f"http://127.0.0.1:{port}/nowhere", content=b"a").status_code == 404
        outcomes.log()
    outcomes.log()
    metrics.server_close()
    assert lines_of(capsys.readouterr().out) == [(0, 2, 0)]


@pytest.mark.server
@pytest.mark.slow
def test_server_logs_answers_shed_load_and_a_worker_that_is_gone_apart(model_store, monkeypatch):
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    monkeypatch.setenv("SEEFOOD_WORKER_REQUESTS", "1")
    monkeypatch.setenv("SEEFOOD_QUEUE_CPU_S", "0")
    server, photo = Server(model_store, free_port()).wait_ready(), picture_bytes(1)

    def ask(content=photo):
        return httpx.post(server.url, content=content, timeout=LIMIT_S)

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
    (java,) = [one for one in server.family() if one.name() == "java"]
    java.kill()
    assert ask().json()["type"] == "UnavailableError"
    until(lambda: sum(failed for _, failed, _ in lines_of(server.output)) == 1)
    assert tuple(map(sum, zip(*lines_of(server.output), strict=True))) == (3, 1, 4)
    server.end()


def until(true):
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
