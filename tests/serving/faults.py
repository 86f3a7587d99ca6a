"""Faults for tests of a real server, and clients that go on sending photos meanwhile."""

import contextlib
import socket
import subprocess
import threading
import time
from collections import Counter

import httpx

from tests.conftest import LIMIT_S
from tests.waiting import until

LONG_S = 180  # a client's own time-out: whoever runs into it was left hanging


class Clients:
    """Threads that send a photo, each on a new connection, again and again inside `with`: what each request got, and when."""

    def __init__(self, url, photo, count=4):
        self.url, self.photo = url, photo
        self.answers = []  # (when it was over, seconds, status or the error's name)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args):
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * LONG_S)

    def _run(self):
        while not self._stop.wait(0.05):
            started = time.monotonic()
            try:
                answer = httpx.post(self.url, content=self.photo, timeout=LONG_S)
                status = answer.status_code
                if status == 503 and "retry-after" not in answer.headers:
                    status = "503 without Retry-After"
            except httpx.TransportError as error:
                status = type(error).__name__
            self.answers.append((time.monotonic(), time.monotonic() - started, status))

    def wait_right(self, since):
        """Seconds from `since` until the first right answer after it."""

        def right():
            return [over - since for over, took, status in list(self.answers) if status == 200 and over - took >= since]

        return until(right, lambda: Counter(status for _, _, status in list(self.answers)))[0]

    def seen(self, since):
        """(how many got what, the longest wait in seconds) of the requests that ended since then."""
        answers = [answer for answer in list(self.answers) if answer[0] >= since]
        return Counter(status for _, _, status in answers), max(took for _, took, _ in answers)


@contextlib.contextmanager
def idle_connections(address, count):
    """So many connections on which nothing is sent, to a (host, port) or to the path of a Unix socket."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET))
            one.settimeout(LIMIT_S)
            one.connect(address)
        yield


@contextlib.contextmanager
def port_taken(port):
    """Another program has this port, as soon as it is free: it closes whatever connection comes."""

    def taken():
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))

    listener = until(taken, pause_s=0.005)

    def close_each():
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    thread = threading.Thread(target=close_each)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextlib.contextmanager
def stalled_upload(port):
    """A client of which the first half of a photo has come, and no more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        connection.sendall(b"POST /predictions/seefood HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n" + bytes(5000))
        yield


@contextlib.contextmanager
def disk_or_folder(folder, size):
    """The folder as a disk of its own, of a size such as "64m", or as it is where mounting is not allowed."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True)
    yield folder
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", folder], check=True)
