"""What takes too long is ended: heads, bodies, readers, idle connections, handshakes."""

import socket
import time

import pytest

from scripts.door.http.limits import Limits
from scripts.door.metrics import Metrics
from tests.conftest import LIMIT_S
from tests.door.http_client import GOOD, serve
from tests.waiting import until

pytestmark = pytest.mark.slow

SHORT = Limits(
    head_s=0.5,
    first_byte_s=0.5,
    body_grace_s=0.5,
    body_rate=1000.0,
    body_s=3.0,
    idle_s=0.5,
    write_grace_s=0.5,
    linger_s=0.5,
    handshake_s=0.5,
)
POST = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture(scope="module")
def served():
    with serve(SHORT) as served:
        yield served


def trickle(client, data, pause_s):
    """Send a byte at a time until the server ends the connection."""
    try:
        for at in range(len(data)):
            client.send(data[at : at + 1])
            client.socket.settimeout(pause_s)
            try:
                if client.socket.recv(1, socket.MSG_PEEK) is not None:
                    return
            except TimeoutError:
                pass
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        client.socket.settimeout(LIMIT_S)


def test_connection_without_a_byte_ends_without_an_answer(served):
    with served.connect() as client:
        assert client.answer() is None


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"G", b"\r\n", b"\r"])
def test_head_that_does_not_end_is_a_408(served, start):
    with served.connect() as client:
        answer = client.ask(start)
        assert (answer.status, answer.json()["code"]) == (408, 408)
        assert client.is_closed()


def test_head_that_trickles_in_is_a_408(served):
    with served.connect() as client:
        trickle(client, b"GET / HTTP/1.1\r\nA: " + b"a" * 1000, 0.05)
        assert client.answer().status == 408


def test_head_behind_a_good_request_has_its_own_time(served):
    with served.connect() as client:
        assert client.ask(GOOD + b"GET /").json()["path"] == "/good"
        assert client.answer().status == 408


def test_idle_connection_is_closed_after_its_time(served):
    with served.connect() as client:
        assert client.ask(GOOD).status == 200
        began = time.monotonic()
        assert client.is_closed()
        assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("path", [b"/slow", b"/queue"])
def test_body_that_stalls_is_a_408_and_the_application_is_told(served, path):
    with served.connect() as client:
        answer = client.ask(POST.replace(b"/slow", path))
        assert (answer.status, answer.json()["code"]) == (408, 408)
        assert client.is_closed()
    until(lambda: path.decode() in served.app.gone)


def test_body_that_trickles_in_is_a_408(served):
    with served.connect() as client:
        client.send(POST)
        trickle(client, bytes(1000), 0.05)
        assert client.answer().status == 408


def test_body_that_takes_too_long_in_all_is_a_408(served):
    with served.connect() as client:
        client.send(POST)
        for _ in range(30):
            client.send(bytes(300))
            client.socket.settimeout(0.2)
            try:
                client.socket.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                pass
        client.socket.settimeout(LIMIT_S)
        answer = client.answer()
        assert answer.status == 408
        assert "3 s" in answer.json()["message"]


def test_body_that_waits_for_the_application_is_not_too_slow(served):
    """While we do not read, the client cannot send."""
    with served.connect() as client:
        client.send(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
        client.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            client.send(bytes(20_000_000))
        with served.connect() as other:
            assert other.ask(b"GET /free HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
        client.socket.settimeout(LIMIT_S)
        assert client.answer().status == 408  # the rest of the body never comes


def test_answer_that_is_slowly_computed_is_waited_for(served):
    with served.connect() as client:
        client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        client.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            client.socket.recv(1, socket.MSG_PEEK)
        with served.connect() as other:
            other.ask(b"GET /free HTTP/1.1\r\nHost: a\r\n\r\n")
        client.socket.settimeout(LIMIT_S)
        assert client.answer().json()["path"] == "/hold"


def test_client_that_does_not_read_its_answer_is_cut_off(served):
    with served.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(b"GET /big?30000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        before = served.ended["slow reader"]
        until(lambda: served.ended["slow reader"] > before)
        until(lambda: not any(other.is_busy for other in served.server.connections[0].open))


def test_client_that_sends_on_after_a_refusal_is_cut_off(served):
    with served.connect() as client:
        assert client.ask(b"bad\r\n\r\n").status == 400
        trickle(client, bytes(1000), 0.05)
    until(lambda: not served.server.connections[0].open)


def test_each_kind_of_time_out_is_counted(served):
    """After the tests above."""
    metrics = Metrics()
    metrics.watch_connections(served.server.connections[0])
    counted = {
        sample.labels["cause"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "seefood_door_ended_connections_total"
    }
    assert all(counted[cause] >= 1 for cause in ("slow head", "slow body", "slow reader", "idle"))
