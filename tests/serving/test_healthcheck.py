"""The image's health check, against a door as the server's child."""

import sys

import pytest

from scripts.backend.torchserve.sockets import Addresses
from scripts.command import run
from scripts.door.http.tls import make_self_signed
from scripts.serving.door import Door
from scripts.serving.healthcheck import main
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import free_port
from tests.waiting import until

ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")


@pytest.fixture
def check(monkeypatch, capsys):
    """(exit status, what it says) of the command."""
    port = free_port()
    monkeypatch.setattr(sys, "argv", ["healthcheck", "--port", str(port)])

    def once():
        status = run(main)
        return status, capsys.readouterr().err

    once.port = port
    return once


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_healthy_is_ready_by_whatever_the_server_speaks(check, scheme, monkeypatch, tmp_path):
    settings = Settings()
    if scheme == "https":
        cert, key = make_self_signed(tmp_path / "tls", "food.example.com")
        settings = Settings(cert=str(cert), key=str(key))
        monkeypatch.setenv("SEEFOOD_TLS", "true")
    state = {"live": True, "ready": False, "why": "a test says so", "draining": False, "models": {}}
    with Door("127.0.0.1", check.port, ADDRESSES, settings, Steps(False), lambda: dict(state)):
        until(lambda: check()[0] == 1 and "a test says so" in check()[1])
        state["ready"] = True
        until(lambda: check() == (0, ""))


def test_server_that_does_not_answer_is_not_healthy(check):
    status, error = check()
    assert (status, error.count("\n")) == (1, 1)
    assert error.startswith("error: ")
    assert "Traceback" not in error
