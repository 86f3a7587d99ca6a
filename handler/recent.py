"""The last answers' signals of one worker, in a file of fixed size that the server's process reads.

SEEFOOD_DRIFT_DIR names the folder (scripts/backend/torchserve/environment.py). It is emptied when `serve` starts, and not when
TorchServe is restarted.

A worker holds its file locked. Once it has ended, the next worker of the version takes the file over: a restart loses nothing,
and files are no more than workers at a time. All of the file is allocated when it is made: on a full disk, a write to a page
without room would end the process (SIGBUS).
"""

import contextlib
import fcntl
import filecmp
import mmap
import os
import shutil
import time
from pathlib import Path

import numpy as np

from handler.signals import COLUMNS, PROFILE

ROWS = 5000
ROW = np.dtype([("when", "<f8"), ("columns", "<f4", (len(COLUMNS),))])  # seconds since 1970; 0: not written yet
MOST_FILES = 256  # of one version


class Recent:
    """The file of this worker, for answers of a version; Recent.open makes it."""

    def __init__(self, file: int) -> None:
        """`file` is the descriptor of a file that is locked and has its size."""
        self._file = file
        self._rows = np.frombuffer(mmap.mmap(file, ROWS * ROW.itemsize), ROW)
        self._next = int(self._rows["when"].argmax()) + 1 if self._rows["when"].any() else 0

    @classmethod
    def open(cls, version: str, profile: Path) -> "Recent | None":
        """Where SEEFOOD_DRIFT_DIR names a folder, with the reference copied beside it; None elsewhere or on a full disk."""
        folder = os.environ.get("SEEFOOD_DRIFT_DIR")
        if not folder:
            return None
        beside = Path(folder, f"{version}_{PROFILE}")
        part = beside.with_suffix(f".{os.getpid()}")
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            if beside.is_file() and not filecmp.cmp(profile, beside, shallow=False):  # another model's archive of this version
                forget(beside.parent, version)
            shutil.copyfile(profile, part)
            part.replace(beside)
            return cls(_lock_one(beside.parent, version))
        except OSError:  # a worker is better off without this than dead
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return None

    def close(self) -> None:
        """Let another worker have the file, as the end of this process does."""
        # the memory map holds a descriptor of its own, so that closing this one would not do
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)

    def add(self, rows: np.ndarray) -> None:
        """Rows float32 (B, len(COLUMNS)) in place of the oldest ones."""
        places = np.arange(self._next, self._next + len(rows)) % ROWS
        self._rows["columns"][places] = rows
        # last, as with it they count; a microsecond apart, so that the newest can be told
        self._rows["when"][places] = time.time() + 1e-6 * np.arange(len(rows))
        self._next = int(places[-1]) + 1


def _lock_one(folder: Path, version: str) -> int:
    """The descriptor of the first of the version's files that no other worker holds. OSError on a full disk."""
    for number in range(MOST_FILES):
        file = os.open(folder / f"{version}_{number}.recent", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(file, 0, ROWS * ROW.itemsize)
            return file
        except BlockingIOError:
            os.close(file)
        except OSError:
            os.close(file)
            raise
    raise OSError(f"{MOST_FILES} workers hold files of version {version}")


def forget(folder: Path, version: str) -> None:
    """Remove a version's files. A worker that still holds one writes on, unread. OSError."""
    for path in (folder / f"{version}_{PROFILE}", *folder.glob(f"{version}_*.recent")):
        path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a worker that runs holds this file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read(folder: Path, version: str) -> np.ndarray:
    """The rows of all workers of a version, newest last: (N, len(COLUMNS))."""
    found = []
    for path in sorted(folder.glob(f"{version}_*.recent")):
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            found.append(np.frombuffer(content[: len(content) // ROW.itemsize * ROW.itemsize], ROW))
    rows = np.concatenate([np.empty(0, ROW), *found])
    rows = rows[rows["when"] > 0]
    return np.asarray(rows["columns"][np.argsort(rows["when"], kind="stable")])
