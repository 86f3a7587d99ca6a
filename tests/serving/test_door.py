"""The door as the server's child, without a TorchServe: what it is told, and that it is started again and ends."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from scripts.backend.torchserve.sockets import Addresses, ServeError
from scripts.serving.door import Door, door_environment, local_address
from scripts.settings import Settings
from scripts.steps import Steps
from tests.backend.test_process import SECRETS
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.serving.server import status_of
from tests.waiting import until

ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")
SETTINGS = Settings(look_s=0.1, look_timeout_s=0.5, repair_s=1.0, restart_wait_s=0.1)


@pytest.fixture
def state():
    return {"live": True, "ready": False, "why": "as told", "models": {}}


@pytest.fixture
def door(state):
    port = free_port()
    with Door("127.0.0.1", port, ADDRESSES, SETTINGS, Steps(False), lambda: dict(state)) as door:
        yield door


def readiness(door):
    try:
        response = httpx.get(f"{door.address}/readyz", timeout=2)
    except httpx.TransportError:
        return None
    return response.status_code, response.json().get("why", "")


def process_of(door):
    """The door's process, whichever it is now."""
    return psutil.Process(door._process.pid)


def test_it_answers_at_once_and_says_what_it_was_told(door, state):
    until(lambda: readiness(door) == (503, "as told"))
    state.update(ready=True, why="")
    until(lambda: readiness(door) == (200, ""))
    assert door.answers


def test_it_listens_on_two_ports_of_loopback_alone(door):
    port = httpx.URL(door.address).port
    listening = {tuple(c.laddr) for c in process_of(door).net_connections("tcp") if c.status == "LISTEN"}
    assert listening == {("127.0.0.1", port), ("127.0.0.1", port + 1)}


def test_killed_it_is_started_again_and_told_again(door, state, capsys):
    before = process_of(door)
    before.kill()
    until(lambda: readiness(door) == (503, "as told") and door._process.pid != before.pid)
    assert "the door ended by itself: status=-9 restart_in_s=0.1" in capsys.readouterr().out


def test_stopped_it_is_not_taken_for_answering_and_is_started_again(door, capsys):
    before = process_of(door)
    before.suspend()
    until(lambda: not door.answers)
    until(lambda: door._process.pid != before.pid and door.answers)
    assert 'repair: what="door restarted"' in capsys.readouterr().out


def test_drained_it_ends_by_itself_and_takes_no_more_connections(door):
    assert door.drain(LIMIT_S)
    assert readiness(door) is None


def test_drained_it_is_no_longer_waited_for_after_its_limit(door):
    process = process_of(door)
    process.suspend()
    assert not door.drain(0.2)
    door.stop()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_port_that_is_taken_ends_the_start_with_the_doors_own_words():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        door = Door("127.0.0.1", port, ADDRESSES, SETTINGS, Steps(False), dict)
        with pytest.raises(ServeError, match=f"the door does not start: .*{port}"), door:
            raise AssertionError("it started")
    assert door._process.poll() is not None


def test_it_ends_when_the_server_is_killed():
    code = (
        "import time; from scripts.backend.torchserve.sockets import Addresses; from scripts.serving.door import Door\n"
        "from scripts.settings import Settings; from scripts.steps import Steps\n"
        f"with Door('127.0.0.1', {free_port()}, Addresses('unix:/a', 'unix:/b', 'unix:/c'), Settings(), Steps(False), lambda: "
        "{'live': True, 'ready': False, 'why': '', 'models': {}}) as door:\n"
        "    print(door._process.pid, flush=True); time.sleep(1000)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as server:
        process = psutil.Process(int(server.stdout.readline()))
        server.send_signal(signal.SIGKILL)
        assert not psutil.wait_procs([process], timeout=LIMIT_S)[1]


@pytest.mark.parametrize("last", [b'{"live": true, "ready": fal', b"[]\n", b"\n"])
def test_it_ends_when_the_server_ends_within_a_line(last):
    port = free_port()
    command = [sys.executable, "-m", "scripts.door.door", "--port", str(port), "--backend", "unix:/a", "--management", "unix:/b"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until(lambda: status_of(f"http://127.0.0.1:{port}/livez") == 200)
        process.stdin.write(last)
        process.stdin.close()
        process.wait(LIMIT_S)
    assert status_of(f"http://127.0.0.1:{port}/livez") is None


def test_thread_that_tells_the_door_goes_on_after_an_error(capsys):
    told = {"live": True, "ready": False, "why": "as told", "draining": False, "models": {}}
    failing = iter([RuntimeError("dictionary changed size during iteration")] * 2)

    def state():
        for error in failing:
            raise error
        return told

    with Door("127.0.0.1", free_port(), ADDRESSES, SETTINGS, Steps(False), state) as door:
        until(lambda: readiness(door) == (503, "as told"))
    assert 'unexpected: why="RuntimeError: dictionary changed size' in capsys.readouterr().out


def test_thread_that_starts_the_door_again_goes_on_after_an_error(door, monkeypatch, capsys):
    start, failing = door._start, iter([RuntimeError("can't start new thread"), OSError(11, "Resource temporarily unavailable")])

    def start_at_last():
        for error in failing:
            raise error
        start()

    monkeypatch.setattr(door, "_start", start_at_last)
    before = process_of(door)
    before.kill()
    until(lambda: door._process.pid != before.pid and readiness(door) == (503, "as told"))
    assert "unexpected: why=" in capsys.readouterr().out


def test_environment_of_the_door_holds_settings_and_no_secret(monkeypatch):
    for name in [*SECRETS, "SEEFOOD_LOG_JSON"]:
        monkeypatch.setenv(name, "true")
    # but for the token that it asks the callers of the management API for, and a collector's key
    own = {"SEEFOOD_MANAGEMENT_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"}
    assert set(SECRETS).intersection(door_environment(os.environ)) == own
    assert door_environment(os.environ)["SEEFOOD_LOG_JSON"] == "true"


@pytest.mark.parametrize(
    ("host", "cert", "address"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:80"),
        ("0.0.0.0", "", "http://127.0.0.1:80"),
        ("::", "", "http://[::1]:80"),
        ("10.0.0.1", "c.pem", "https://10.0.0.1:80"),
    ],
)
def test_address_at_which_this_machine_reaches_it(host, cert, address):
    assert local_address(host, 80, Settings(cert=cert)) == address
