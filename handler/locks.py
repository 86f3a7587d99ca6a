"""A folder that one process at a time writes to, and files that belong to one."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"  # the file in a folder by which it is held


@contextlib.contextmanager
def alone(folder: Path, timeout_s: float) -> Iterator[None]:
    """Inside, no other process makes or removes files of the folder. TimeoutError (an OSError) if one that is stopped does."""
    with (folder / LOCK).open("ab") as file:
        deadline = time.monotonic() + timeout_s
        while not locked(file.fileno()):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has held {folder / LOCK} for {timeout_s:g} s")
            time.sleep(0.01)
        yield


def locked(file: int, how: int = fcntl.LOCK_EX) -> bool:
    """Whether this process has got the lock now."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
