"""Listeners, TLS and the end of a server."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest
import uvloop

from scripts.door.http.limits import Limits
from scripts.door.http.server import HttpServer, Listener
from scripts.door.http.tls import make_context, make_self_signed
from tests.conftest import LIMIT_S
from tests.door.http_app import App, answer
from tests.door.http_client import GOOD, Client, serve
from tests.waiting import until

QUICK = Limits(linger_silent_s=0.2)
# RFC 9113, section 3.4: what a client of HTTP/2 begins with, and an empty SETTINGS frame
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_self_signed(tmp_path_factory.mktemp("tls") / "pair", "example.test")


def over_tls(served, certfile, protocols=(), **options):
    context = ssl.create_default_context(cafile=str(certfile))
    if protocols:
        context.set_alpn_protocols(protocols)
    for name, value in options.items():
        setattr(context, name, value)
    raw = socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT_S)
    return Client(context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False))


async def other(scope, receive, send):
    await answer(send, 200, b"other")


def test_two_listeners_of_one_process_have_their_own_applications():
    server = HttpServer([Listener(App(), "127.0.0.1", 0), Listener(other, "127.0.0.1", 0, Limits(connections=3))])
    thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(server.serve()))
    thread.start()
    try:
        until(lambda: server.is_started)
        bodies = []
        for port in server.ports:
            with Client(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)) as client:
                bodies.append(client.ask(GOOD).body)
        assert bodies[0].startswith(b"{")
        assert bodies[1] == b"other"
        assert [each.most for each in server.connections] == [server.connections[0].most, 3]
    finally:
        server.stop()
        thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_taken_port_is_found_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="use"):
        HttpServer([Listener(other, "127.0.0.1", 0), Listener(other, "127.0.0.1", taken.getsockname()[1])])


def test_stop_answers_what_is_in_flight_and_takes_nothing_new():
    with serve() as served, served.connect() as idle, served.connect() as client:
        assert idle.ask(GOOD).status == 200
        client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
        until(lambda: any(other.is_busy for other in served.server.connections[0].open))
        served.server.stop()
        assert idle.is_closed()
        with pytest.raises(ConnectionRefusedError):
            until(lambda: served.connect().__exit__())
        client.socket.setblocking(True)
        loop = next(iter(served.server.connections[0].open)).loop
        loop.call_soon_threadsafe(served.app.release.set)
        last = client.answer()
        assert (last.json()["path"], last.header("connection")) == ("/hold", "close")
        assert client.is_closed()


def test_stop_does_not_wait_for_ever():
    with serve(Limits(stop_s=1.0)) as served, served.connect() as client:
        client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: any(other.is_busy for other in served.server.connections[0].open))
        served.server.stop()
        ended = client.answer()
        assert ended is None or ended.status == 500


def test_requests_over_tls(pair):
    with serve(certfile=pair[0], keyfile=pair[1]) as served, over_tls(served, pair[0]) as client:
        assert client.socket.version() == "TLSv1.3"
        assert client.ask(GOOD).json()["path"] == "/good"
        body = bytes(3_000_000)
        assert client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + body).json()["length"] == 3_000_000
        assert len(client.ask(b"GET /big?3000000 HTTP/1.1\r\nHost: a\r\n\r\n").body) == 3_000_000
        assert client.ask(b"bad\r\n\r\n").status == 400


@pytest.mark.parametrize(
    ("offered", "agreed"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1", "h2"], "http/1.1"), (["h2"], None), ([], None)]
)
def test_http_2_is_not_agreed_on_over_tls(pair, offered, agreed):
    with serve(QUICK, *pair) as served, over_tls(served, pair[0], offered) as client:
        assert client.socket.selected_alpn_protocol() == agreed
        answer = client.ask(PREFACE)
        assert (answer.status, answer.json()["code"]) == (505, 505)
        assert answer.header("connection") == "close"
        assert client.is_closed()


def test_client_that_still_sends_reads_its_answer_over_tls_before_the_end(pair):
    with serve(Limits(linger_silent_s=1.0), *pair) as served, over_tls(served, pair[0]) as client:
        client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(10):
            client.send(bytes(200_000))
            time.sleep(0.2)
        assert client.answer().status == 413
        assert client.is_closed()
        assert served.ended["lingered"] == 1


def test_preface_of_http_2_behind_a_good_request_is_answered_in_turn():
    with serve() as served, served.connect() as client:
        assert client.ask(GOOD + PREFACE).status == 200
        answer = client.answer()
        assert (answer.status, answer.header("x-request-id")) == (505, answer.json()["request_id"])
        assert client.is_closed()


def test_tls_1_2_is_the_oldest_and_its_ciphers_are_sound(pair):
    with serve(certfile=pair[0], keyfile=pair[1]) as served:
        with over_tls(served, pair[0], maximum_version=ssl.TLSVersion.TLSv1_2) as client:
            assert client.socket.cipher()[0].startswith("ECDHE-")
            assert client.ask(GOOD).status == 200
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            over_tls(served, pair[0], maximum_version=ssl.TLSVersion.TLSv1_1)


def test_client_that_hangs_up_over_tls_is_noticed(pair):
    with serve(certfile=pair[0], keyfile=pair[1]) as served:
        with over_tls(served, pair[0]) as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            until(lambda: any(other.is_busy for other in served.server.connections[0].open))
        until(lambda: "/wait" in served.app.gone)


def test_connections_over_tls_which_take_more_memory_are_fewer(pair):
    with serve(Limits(tls_connections=2), *pair) as served, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(over_tls(served, pair[0])).send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: sum(other.is_busy for other in served.server.connections[0].open) == 2)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            over_tls(served, pair[0])
        assert served.ended["503"] == 1


def test_handshake_that_does_not_come_is_ended(pair):
    with serve(Limits(handshake_s=0.5), *pair) as served, served.connect() as silent, served.connect() as plain:
        assert silent.is_closed()
        plain.send(GOOD)
        plain.socket.settimeout(LIMIT_S)
        assert not plain.file.read().startswith(b"HTTP/1.1 200")


def test_silent_connections_give_way_before_their_handshake(pair):
    with serve(Limits(connections=10), *pair) as served, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(served.connect())
        for _ in range(50):
            with over_tls(served, pair[0]) as client:
                assert client.ask(GOOD).status == 200
        assert served.ended["evicted"] >= 40


def test_pair_is_private_and_names_the_host(pair):
    assert pair[1].stat().st_mode & 0o077 == 0
    assert make_context(*pair).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("which", [0, 1])
def test_files_that_are_no_pair_are_named(pair, tmp_path, which):
    bad = tmp_path / "bad.pem"
    files = [*pair]
    files[which] = bad
    with pytest.raises(OSError, match="bad.pem"):
        make_context(*files)
    bad.write_text("nonsense")
    with pytest.raises(ValueError, match="bad.pem"):
        make_context(*files)
    with pytest.raises(ValueError, match="missing"):
        Listener(other, "127.0.0.1", 0, certfile=bad).context()
