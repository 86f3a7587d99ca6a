"""The last answers' signals of one worker, in a file of fixed size that the server's process reads.

SEEFOOD_DRIFT_DIR names the folder (scripts/backend/torchserve/environment.py). It is emptied when `serve` starts, and not when
TorchServe is restarted.

Files are named MODEL@VERSION@ and the beginning of the profile's checksum; those of archives packed earlier MODEL@VERSION, or
VERSION.
A worker holds its file locked. Once it has ended, the next worker of the version takes the file over: a restart loses nothing of
it, and files are no more than workers at a time. All of the file is allocated when it is made: on a full disk, a write to a page
without room would end the process (SIGBUS).
"""

import contextlib
import fcntl
import filecmp
import mmap
import os
import time
from pathlib import Path

import numpy as np

from handler.locks import alone, locked
from handler.parts import sha256
from handler.signals import COLUMNS, PROFILE, Profile

ROWS = 5000
# `when` is the monotonic clock's, which all processes of a machine share and nobody sets back; 0: not written yet
ROW = np.dtype([("when", "<f8"), ("columns", "<f4", (len(COLUMNS),))])
APART_S = 1e-6  # rows of a batch, so that the newest can be told
MOST_FILES = 256  # of one version
CHECKSUM_DIGITS = 12
LOCK_S = 5.0  # for the folder, while a version's files are made or removed


class Recent:
    """The file of this worker, for answers of a version; Recent.open makes it."""

    def __init__(self, file: int) -> None:
        """`file` is the descriptor of a file that is locked and has its size."""
        self._file = file
        self._rows = np.frombuffer(mmap.mmap(file, ROWS * ROW.itemsize), ROW)
        self._last = float(self._rows["when"].max())
        self._next = int(self._rows["when"].argmax()) + 1 if self._last else 0

    @classmethod
    def of(cls, model: str, version: str, profile: Path, program: str | None) -> "Recent | None":
        """See open(). The name that it opens has the profile's checksum, too: another archive of this version has its own files."""
        return cls.open(f"{model}@{version}@{sha256(profile)[:CHECKSUM_DIGITS]}", profile, program)

    @classmethod
    def open(cls, version: str, profile: Path, program: str | None = None) -> "Recent | None":
        """Where SEEFOOD_DRIFT_DIR names a folder, with this program's reference beside it; None elsewhere or on a full disk."""
        folder, reference = os.environ.get("SEEFOOD_DRIFT_DIR"), Profile.load(profile, program)
        if not folder or reference is None:
            return None
        beside = Path(folder, f"{version}_{PROFILE}")
        part = beside.with_suffix(f".{os.getpid()}")
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                reference.save(file)
            with alone(beside.parent, LOCK_S):
                if beside.is_file() and not filecmp.cmp(part, beside, shallow=False):  # another model's archive of this version
                    forget(beside.parent, version)
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
        # last, as with it they count
        self._rows["when"][places] = max(time.monotonic(), self._last + APART_S) + APART_S * np.arange(len(rows))
        self._last = float(self._rows["when"][places[-1]])
        self._next = int(places[-1]) + 1


def _lock_one(folder: Path, version: str) -> int:
    """The descriptor of the first of the version's files that no other worker holds. OSError on a full disk."""
    for number in range(MOST_FILES):
        file = os.open(folder / f"{version}_{number}.recent", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not locked(file):
                if not locked(file, fcntl.LOCK_SH):  # a worker has it, and not only somebody who looks: is_held
                    break
                fcntl.flock(file, fcntl.LOCK_UN)
            else:
                os.posix_fallocate(file, 0, ROWS * ROW.itemsize)
                return file
            os.close(file)
        except OSError:
            os.close(file)
            raise
    raise OSError(f"{MOST_FILES} workers hold files of version {version}")


def forget(folder: Path, version: str) -> None:
    """Remove a version's files, inside alone(). A worker that still holds one writes on, unread. OSError."""
    for path in (folder / f"{version}_{PROFILE}", *folder.glob(f"{version}_*.recent")):
        path.unlink(missing_ok=True)


def has_worker(folder: Path, version: str) -> bool:
    """Whether a worker of this version runs."""
    return any(is_held(path) for path in folder.glob(f"{version}_*.recent"))


def is_held(path: Path) -> bool:
    """Whether a worker that runs holds this file; not if it has just been removed."""
    try:
        with path.open("rb") as file:
            return not locked(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
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
