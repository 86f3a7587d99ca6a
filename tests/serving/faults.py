"""Faults for tests of a real server, and clients that go on sending photos meanwhile."""

import contextlib
import socket
import threading
import time
from collections import Counter

import httpx

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
                status = httpx.post(self.url, content=self.photo, timeout=LONG_S).status_code
            except httpx.TransportError as error:
                status = type(error).__name__
            self.answers.append((time.monotonic(), time.monotonic() - started, status))

    def wait_right(self, since):
        """Seconds from `since` until the first right answer after it."""
        while True:
            for over, took, status in list(self.answers):
                if status == 200 and over - took >= since:
                    return over - since
            assert time.monotonic() < since + LONG_S, Counter(status for _, _, status in self.answers)
            time.sleep(0.05)

    def seen(self, since):
        """(how many got what, the longest wait in seconds) of the requests that ended since then."""
        answers = [answer for answer in list(self.answers) if answer[0] >= since]
        return Counter(status for _, _, status in answers), max(took for _, took, _ in answers)


@contextlib.contextmanager
def idle_connections(port, count):
    """So many connections on which nothing is sent."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=10)))
        yield
