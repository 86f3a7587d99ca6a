"""Mutated requests against the real server: no 5xx of ours but 501, 503 and 505, no hang, no growth, nothing left open."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import LIMIT_S
from tests.door.http_client import GOOD, connect
from tests.door.test_http_connections import process
from tests.door.test_http_requests import REQUESTS
from tests.waiting import until

CASES = 50_000
PARTS, THREADS = 10, 10
SEED = 20261126
PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\x00",
        b"\x7f",
        b"\xff",
        b"%00",
        b"%",
        b"0",
        b"-1",
        b"+1",
        b"1e9",
        b"f" * 20,
    ),
    *(
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Upgrade: h2c\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"GET",
        b"HEAD",
        b"POST",
        b"http://b/",
        b"*",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"a" * 300,
    ),
)
ALLOWED = {200, 100, 400, 408, 413, 414, 417, 429, 431, 501, 503, 505}


def mutate(chance: random.Random) -> bytes:
    """A request of the table, alone or with another behind it, changed in one to four places."""
    data = chance.choice(REQUESTS)[2]
    if chance.random() < 0.3:
        data += chance.choice(REQUESTS)[2]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((0, 1, 1, 2, 8)))
        new = chance.choice((chance.choice(PIECES), chance.randbytes(1), b"", data[at:end] * 2))
        data = data[:at] + new + data[end:]
    return data


def statuses(data: bytes) -> list[int]:
    """Those of all answers in what came back, as far as their heads can be told."""
    return [int(line.split(b" ")[1]) for line in data.split(b"\n") if line.startswith(b"HTTP/1.1 ")]


def send(port: int, data: bytes, cut: int) -> bytes:
    """What comes back to a request sent in two pieces. Without an end it gets no answer: we close our side, and the server must."""
    received = b""
    with connect(port) as client:
        try:
            client.send(data[:cut])
            client.send(data[cut:])
            client.socket.settimeout(0.03)
            try:
                while piece := client.socket.recv(65536):
                    received += piece
                return received
            except TimeoutError:
                client.socket.settimeout(LIMIT_S)
            client.socket.shutdown(socket.SHUT_WR)
            while piece := client.socket.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def try_cases(port: int, seed: int, count: int) -> list[tuple[bytes, int]]:
    """Requests whose status is not allowed."""
    chance = random.Random(seed)
    bad = []
    for _ in range(count):
        data = mutate(chance)
        bad += [(data, status) for status in statuses(send(port, data, chance.randrange(len(data) + 1))) if status not in ALLOWED]
    return bad


@pytest.mark.slow
def test_mutated_requests_end_in_an_answer_or_a_close(tmp_path):
    with process(tmp_path, open_files=500) as (server, port), ThreadPoolExecutor(THREADS) as pool:
        memory = 0
        for part in range(PARTS):
            seeds = range(SEED + part * THREADS, SEED + (part + 1) * THREADS)
            for bad in pool.map(lambda seed: try_cases(port, seed, CASES // PARTS // THREADS), seeds):
                assert bad == []
            if part == 0:
                memory = server.memory_info().rss
        with connect(port) as client:
            assert client.ask(GOOD).status == 200
        until(lambda: server.num_fds() < 25)
        growth = server.memory_info().rss - memory
        print(f"{CASES} requests: {growth / 1e6:.1f} MB more after them than after the first {CASES // PARTS}")
        assert growth < 10e6
