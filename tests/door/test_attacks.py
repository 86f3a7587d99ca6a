"""Attacks on the door, and an ordinary client beside each: all its photos are answered, memory is bounded, readiness stays true.

pytest -s prints what was seen.
"""

import contextlib
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import LIMIT_S
from tests.door.raw import read_answer, request

pytestmark = [pytest.mark.server, pytest.mark.slow]
MEGABYTE = 1024 * 1024
MULTIPART = {"content-type": "multipart/form-data; boundary=XX"}
ATTACK_S = 20.0
# more than before the attack: bodies that are held (128 MB), their copies while they are read, and what Python keeps of it
DOOR_MB, JVM_MB = 400, 350


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), LIMIT_S)


def fields(count: int, head: bytes) -> bytes:
    """A form of so many parts."""
    return (b"--XX\r\n" + head + b"\r\n\r\n\r\n") * count + b"--XX--\r\n"


FLOODS = {
    "empty fields": lambda: fields(400_000, b'Content-Disposition: form-data; name="a"'),
    "fields without a name": lambda: fields(400_000, b"Content-Disposition: form-data"),
    "headers in a part": lambda: b"--XX\r\n" + b"a: b\r\n" * 4_000_000 + b"\r\n--XX--\r\n",
    "one header without end": lambda: b"--XX\r\nContent-Disposition: " + b"x" * 27 * MEGABYTE,
}


def flood(body: bytes) -> Callable[[object, threading.Event], Counter[Any]]:
    """Four clients that send a form again and again; their answers' statuses."""

    content = request("/predictions/seefood", body, MULTIPART)

    def attack(server, stop: threading.Event) -> Counter[Any]:
        def client(_: int) -> Counter[Any]:
            seen: Counter[Any] = Counter()
            while not stop.is_set():
                with contextlib.suppress(OSError, EOFError), connect(server) as connection:
                    sender = threading.Thread(target=send_all, args=(connection, content))
                    sender.start()
                    with connection.makefile("rb") as stream:
                        seen[read_answer(stream).status] += 1
                    connection.shutdown(socket.SHUT_RDWR)
                    sender.join()
            return seen

        with ThreadPoolExecutor(4) as pool:
            return sum(pool.map(client, range(4)), Counter())

    return attack


def send_all(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):  # it is refused before it has been sent in full
        connection.sendall(content)


def held(count: int, begin: bytes, each_s: Callable[[socket.socket], object] = lambda connection: None):
    """So many connections that begin in the same way, and are then used as `each_s` says, again and again; when they ended."""

    def attack(server, stop: threading.Event) -> Counter[Any]:
        connections = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                connection = connect(server)
                connection.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    connection.send(begin)
                connections.append(connection)
        while not stop.wait(1):
            for connection in connections:
                with contextlib.suppress(OSError):
                    each_s(connection)
        closed = 0
        for connection in connections:
            with connection, contextlib.suppress(BlockingIOError):
                try:
                    closed += any(connection.recv(65536) == b"" for _ in range(2))
                except ConnectionError:
                    closed += 1
        return Counter({"connections": len(connections), "closed by the door": closed})

    return attack


HEAD = b"POST /predictions/seefood HTTP/1.1\r\nhost: x\r\n"
ATTACKS = {
    **{f"flood: {name}": flood(make()) for name, make in FLOODS.items()},
    "200 slow writers of heads": held(200, b"POST /pre", lambda connection: connection.send(b"d")),
    "200 slow writers of bodies": held(200, HEAD + b"content-length: 1000000\r\n\r\n", lambda connection: connection.send(b"x")),
    "200 slow readers": held(200, b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 200),
    "1,000 half-open": held(1000, HEAD),
    "1,000 idle": held(1000, b""),
    "48 stalled uploads of 27 MB": held(48, HEAD + b"content-length: 27000000\r\n\r\n" + bytes(2 * MEGABYTE)),
    "48 uploads that come slowly and fill the room": held(
        48, HEAD + b"content-length: 27000000\r\n\r\n", lambda connection: connection.send(bytes(MEGABYTE))
    ),
    "400 that begin a request, and linger": held(400, b"GET / HT"),
}


def memory_mb(server) -> dict[str, int]:
    return {name: server.part(name).memory_info().rss // MEGABYTE for name in ("door", "JVM")}


def ordinary(server, photo: bytes, stop: threading.Event) -> tuple[Counter[int], list[float], Counter[int]]:
    """(statuses of photos, their seconds, answers of /readyz), one after the other, each on a new connection."""
    statuses: Counter[int] = Counter()
    ready: Counter[int] = Counter()
    seconds: list[float] = []
    while not stop.is_set():
        started = time.monotonic()
        statuses[httpx.post(server.url, content=photo, timeout=LIMIT_S).status_code] += 1
        seconds.append(time.monotonic() - started)
        ready[httpx.get(f"http://127.0.0.1:{server.port}/readyz", timeout=LIMIT_S).status_code] += 1
    return statuses, seconds, ready


@pytest.mark.parametrize("name", ATTACKS)
def test_ordinary_client_beside_an_attack_gets_every_answer(server, photo, name):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    before, stop = memory_mb(server), threading.Event()
    most = dict(before)
    with ThreadPoolExecutor(2) as pool:
        attack, client = pool.submit(ATTACKS[name], server, stop), pool.submit(ordinary, server, photo, stop)
        end = time.monotonic() + ATTACK_S
        while time.monotonic() < end:
            most = {process: max(mb, most.get(process, 0)) for process, mb in memory_mb(server).items()}
            time.sleep(0.2)
        stop.set()
        seen, (statuses, seconds, ready) = attack.result(), client.result()
    print(f"\n{name}: {dict(seen)}; an ordinary client: {dict(statuses)}, at most {max(seconds):.2f} s; /readyz {dict(ready)}")
    print(f"memory in MB, before and at most: {before} {most}")
    assert set(statuses) == {200}
    assert set(ready) == {200}
    assert most["door"] - before["door"] < DOOR_MB
    assert most["JVM"] - before["JVM"] < JVM_MB
    assert not {status for status in seen if isinstance(status, int) and status >= 500 and status != 503}
