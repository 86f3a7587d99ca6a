"""How tests wait for an event."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.conftest import LIMIT_S

T = TypeVar("T")
Process = subprocess.Popen[str] | subprocess.Popen[bytes]


def until(
    true: Callable[[], T | None],
    say: Callable[[], object] = lambda: "",
    process: Process | None = None,
    pause_s: float = 0.05,
) -> T:
    """What `true()` returns, once that is true. AssertionError, with what `say()` tells, after LIMIT_S or if `process` ends."""
    ends_at = time.monotonic() + LIMIT_S
    while True:
        ended = process is not None and process.poll() is not None  # asked first: what it did last may be what is waited for
        if found := true():
            return found
        assert not ended, f"the process has ended: {say()}"
        assert time.monotonic() < ends_at, f"not within {LIMIT_S} s: {say()}"
        time.sleep(pause_s)


@contextlib.contextmanager
def ended_after_limit(process: Process) -> Iterator[None]:
    """Inside, the process's group is killed after LIMIT_S: what it prints, which the test reads, then comes to its end."""
    watchdog = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
