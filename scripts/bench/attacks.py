"""Attacks on the door that anyone can begin with one machine: floods of forms, and connections that hold on to what they get.

Each takes the door's port and an event that ends it, and returns what it saw: statuses, or connections and how many were closed.
"""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

MEGABYTE = 1024 * 1024
TIMEOUT_S = 60.0
FLOODERS = 4
HEAD = b"POST /predictions/seefood HTTP/1.1\r\nhost: x\r\n"
PER_ADDRESS = 250  # connections from each of our own addresses: the door has a limit for one address


class Stop(Protocol):
    """The event: a thread's or a process'."""

    def is_set(self) -> bool:
        """Whether it is over."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for that."""


Seen = Counter[int | str]
Attack = Callable[[int, Stop], Seen]


def flood(make: Callable[[], bytes]) -> Attack:
    """Four clients that send a form again and again; their answers' statuses."""

    def client(port: int, stop: Stop, content: bytes) -> Seen:
        seen: Seen = Counter()
        while not stop.is_set():
            with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
                sender = threading.Thread(target=_send_all, args=(connection, content))
                sender.start()
                with connection.makefile("rb") as stream:
                    status = stream.readline().split()[1:2]  # none: closed without an answer
                seen[int(status[0]) if status else "closed without an answer"] += 1
                connection.shutdown(socket.SHUT_RDWR)
                sender.join()
        return seen

    def attack(port: int, stop: Stop) -> Seen:
        body = make()
        content = HEAD + b"content-type: multipart/form-data; boundary=XX\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        with ThreadPoolExecutor(FLOODERS) as pool:
            return sum(pool.map(lambda _: client(port, stop, content), range(FLOODERS)), Counter())

    return attack


def _send_all(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):  # it is refused before it has been sent in full
        connection.sendall(content)


def held(count: int, begin: bytes, each_s: Callable[[socket.socket], object] = lambda connection: None, hosts: int = 1) -> Attack:
    """So many connections that begin in the same way and are used once a second as `each_s` says, from so many local addresses."""

    def attack(port: int, stop: Stop) -> Seen:
        connections = []
        for number in range(count):
            with contextlib.suppress(OSError):
                connection = _connected(port, number % hosts)
                connection.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    connection.send(begin)
                connections.append(connection)
        while not stop.wait(1):
            for connection in connections:
                with contextlib.suppress(OSError):
                    each_s(connection)
        closed = sum(_is_closed(connection) for connection in connections)
        return Counter({"connections": len(connections), "closed by the door": closed})

    return attack


def _connected(port: int, host: int) -> socket.socket:
    # Linux: all of 127.0.0.0/8 is this machine
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (f"127.0.{host}.1", 0))


def _is_closed(connection: socket.socket) -> bool:
    with connection:
        try:
            return any(connection.recv(65536) == b"" for _ in range(2))
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def form(count: int, head: bytes) -> bytes:
    """A form of so many parts."""
    return (b"--XX\r\n" + head + b"\r\n\r\n\r\n") * count + b"--XX--\r\n"


def drip(piece: bytes) -> Callable[[socket.socket], Any]:
    """Send a piece once a second."""
    return lambda connection: connection.send(piece)


LARGE = HEAD + b"content-length: 27000000\r\n\r\n"
ATTACKS: dict[str, Attack] = {
    "flood: empty fields": flood(lambda: form(400_000, b'Content-Disposition: form-data; name="a"')),
    "flood: fields without a name": flood(lambda: form(400_000, b"Content-Disposition: form-data")),
    "flood: headers in a part": flood(lambda: b"--XX\r\n" + b"a: b\r\n" * 4_000_000 + b"\r\n--XX--\r\n"),
    "flood: one header without end": flood(lambda: b"--XX\r\nContent-Disposition: " + b"x" * 27 * MEGABYTE),
    "200 slow writers of heads": held(200, b"POST /pre", drip(b"d")),
    "200 slow writers of bodies": held(200, HEAD + b"content-length: 1000000\r\n\r\n", drip(b"x")),
    "200 slow readers": held(200, b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 200),
    "1,000 half-open": held(1000, HEAD),
    "1,000 idle": held(1000, b""),
    "10,000 idle, of 40 addresses": held(10_000, b"", hosts=10_000 // PER_ADDRESS),
    "48 stalled uploads of 27 MB": held(48, LARGE + bytes(2 * MEGABYTE)),
    "48 uploads that come slowly and fill the room": held(48, LARGE, drip(bytes(MEGABYTE))),
    "400 that begin a request, and linger": held(400, b"GET / HT"),
}
