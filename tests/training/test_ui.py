"""make mlflow: its port, and that MLflow serves the run list there."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from tests.conftest import LIMIT_S, ROOT, free_port
from tests.waiting import until
from training.tracking.ui import check_port


def mlflow(*arguments, **environment):
    """The command that make runs, and what it printed."""
    command = ["make", "-o", ".venv/installed-train", "mlflow", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_taken_port_is_refused_at_once_with_another_one():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = mlflow(f"PORT={port}", MLFLOW_TRACKING_URI="sqlite:///nothing.db")
    assert done.returncode != 0
    assert f"error: port {port} is taken by another program: choose another one, make mlflow PORT=" in done.stderr


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "5000.5", "0x50"])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(ValueError, match=f"the port is '{port}', expected a number from 1 to 65535: make mlflow PORT=5055"):
        check_port(port)


def test_where_nothing_is_recorded_there_is_nothing_to_show():
    done = mlflow(f"PORT={free_port()}", MLFLOW_TRACKING_URI="none")
    assert done.returncode != 0
    assert "error: MLFLOW_TRACKING_URI is none: unset it" in done.stderr


# so that Ctrl-C reaches it wherever the tests run: a shell's background job would leave SIGINT ignored
AWAKE = "import signal, sys, os; signal.signal(signal.SIGINT, signal.default_int_handler); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_pages_are_served_at_the_port_that_was_given_and_end_without_a_traceback(tmp_path, number):
    port = free_port()
    command = [sys.executable, "-c", AWAKE, sys.executable, "-m", "training.tracking.ui", "--port", str(port)]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | store, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/health"
        until(lambda: answers(url), lambda: process.poll() is not None and process.communicate()[0], process)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(number)
        output = process.communicate(timeout=LIMIT_S)[0].decode()
        psutil.wait_procs(family, timeout=LIMIT_S)
    assert f"starts at http://127.0.0.1:{port}/" in output
    assert "Warning" not in output
    assert "Traceback" not in output


def answers(url):
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
