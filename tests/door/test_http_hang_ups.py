"""A client that hangs up: the application is told at once, wherever it is and whatever else the client sent.

What was sent must fit our buffer and the system's: the end of a client comes behind its data.
"""

import socket
import struct
import time

import pytest

from tests.door.http_client import GOOD, serve
from tests.waiting import until

PROMPTLY_S = 10.0  # under a loaded machine; it takes 0.1 s at most
FRAME = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
SENT = {
    "no body": b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a body": FRAME.replace(b"%d", b"3") + b"abc",
    "half a body": FRAME.replace(b"%d", b"30") + b"abc",
    "a long part of a body": FRAME.replace(b"%d", b"20000000") + bytes(350_000),
    "a body and another request": FRAME.replace(b"%d", b"3") + b"abc" + GOOD,
    "many more requests": FRAME.replace(b"%d", b"3") + b"abc" + GOOD * 3_200,
}


def closed(client):
    client.file.close()
    client.socket.close()


def reset(client):
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    closed(client)


def half_closed(client):
    client.socket.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def served():
    with serve() as served:
        yield served


@pytest.mark.parametrize("end", [closed, reset, half_closed])
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("path", ["/wait", "/queue"])
def test_application_is_told_promptly(served, path, sent, end):
    name = f"{path}/{sent.replace(' ', '-')}/{end.__name__}"
    with served.connect() as client:
        client.send(SENT[sent].replace(b"%b", name.encode(), 1))
        until(lambda: any(other.is_busy and other.scope["path"] == name for other in served.server.connections[0].open))
        end(client)
        began = time.monotonic()
        until(lambda: name in served.app.gone)
        assert time.monotonic() - began < PROMPTLY_S


def test_nothing_is_left_of_those_that_have_gone(served):
    for _ in range(50):
        with served.connect() as client:
            client.send(GOOD * 3)
    everything = served.server.connections[0]
    until(lambda: not (everything.open or everything.per_address))  # what a connection leaves first, and last
    assert not everything.idle
    assert not everything.heads
    assert not everything.paused
