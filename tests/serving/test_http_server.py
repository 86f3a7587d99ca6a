"""The small server behind the metrics: routes, HEAD, 404, clients that send nothing."""

import socket
import threading

import httpx
import pytest

from scripts.serving.http_server import Answer, HttpServer
from tests.conftest import LIMIT_S
from tests.waiting import until


@pytest.fixture
def server():
    with HttpServer(
        "127.0.0.1", 0, {"/one": lambda: Answer(503, "text/x", b"busy\n"), "/two": lambda: Answer(200, "a/b", b"")}
    ) as it:
        it.url = f"http://127.0.0.1:{it.server_address[1]}"
        yield it


def test_route_gives_status_content_type_and_body_whatever_the_query(server):
    answer = httpx.get(f"{server.url}/one?x=1")
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (503, "text/x", "busy\n")
    assert httpx.get(f"{server.url}/two").status_code == 200


def test_head_gets_the_same_without_the_body(server):
    answer = httpx.head(f"{server.url}/one")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (503, "5", b"")


def test_other_path_is_404_and_names_those_there_are(server):
    answer = httpx.get(f"{server.url}/three")
    assert (answer.status_code, answer.text) == (404, "not found, try /one, /two\n")


def test_other_method_is_refused(server):
    assert httpx.post(f"{server.url}/one").status_code == 501


def test_idle_clients_hold_up_nobody_and_are_cut_off(capfd):
    with HttpServer("127.0.0.1", 0, {"/": lambda: Answer(200, "text/plain", b"ok")}, timeout_s=0.5) as server:
        port = server.server_address[1]
        threads = threading.active_count()
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"
        for client in idle:
            client.settimeout(LIMIT_S)
            assert client.recv(1) == b""
            client.close()
        until(lambda: threading.active_count() <= threads)
    assert capfd.readouterr() == ("", "")
