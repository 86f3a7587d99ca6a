"""Decoded photos that are kept for later epochs: `cache` in params.yaml, in memory or on disk. It changes no result.

They take three bytes a pixel, so that what a photo is reduced to (loader.py) decides how many have room.
"""

import contextlib
import mmap
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from scripts.atomic import aside
from scripts.errors import is_full
from training.data.split import Photo

FOLDER = Path("build/decoded")
MEMORY_SHARE = 0.5  # of what is free when a run begins; the rest is for everything else
CGROUP = Path("/sys/fs/cgroup")


class Kept(Protocol):
    """Arrays uint8 (H, W, 3) by number, seen by all processes that were forked since it was made."""

    def get(self, number: int) -> np.ndarray | None:
        """The array, which nobody may change; None if it is not there."""

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Keep a copy, if there is room."""


class InMemory:
    """Of `count` arrays as many as have room in `limit` bytes, first come, first kept. The memory is gone with its processes."""

    def __init__(self, count: int, limit: int) -> None:
        # anonymous, not in /dev/shm: nothing is left after a kill -9, and a container's small /dev/shm does not matter
        try:
            self._bytes = mmap.mmap(-1, max(limit, 1))
        except OSError as error:
            raise ValueError(
                f"cache is ram, and the system gives no {limit / 1e9:.1f} GB for photos ({error}): set it to disk or none"
            ) from error
        # of each: where it begins, height, width (0: it is not there); in the last row where the free part begins
        self._index = np.frombuffer(mmap.mmap(-1, (count + 1) * 3 * 8), np.int64).reshape(count + 1, 3)
        self._limit, self._lock = limit, multiprocessing.get_context("fork").Lock()

    def get(self, number: int) -> np.ndarray | None:
        """See Kept."""
        with self._lock:
            start, height, width = self._index[number].tolist()
        if not width:
            return None
        return np.frombuffer(self._bytes, np.uint8, height * width * 3, start).reshape(height, width, 3)

    def put(self, number: int, pixels: np.ndarray) -> None:
        """See Kept."""
        with self._lock:
            start = int(self._index[-1, 0])
            if self._index[number, 2] or start + pixels.nbytes > self._limit:
                return
            self._index[-1, 0] = start + pixels.nbytes
        self._bytes[start : start + pixels.nbytes] = pixels.tobytes()
        with self._lock:
            self._index[number] = start, *pixels.shape[:2]


class OnDisk:
    """A file for each, named by its photo's sha256 and by `kind`, what was made of it; later runs and other processes find it."""

    def __init__(self, photos: Sequence[Photo], kind: str, folder: Path = FOLDER) -> None:
        self.photos, self.kind, self.folder, self.full = photos, kind, folder, False

    def _path(self, number: int) -> Path:
        sha256 = self.photos[number].sha256
        return self.folder / self.kind / sha256[:2] / f"{sha256}.npy"

    def get(self, number: int) -> np.ndarray | None:
        """See Kept. A damaged file counts as none."""
        try:
            pixels: np.ndarray = np.load(self._path(number))
        except (OSError, ValueError, EOFError):
            return None
        return pixels if pixels.dtype == np.uint8 and pixels.ndim == 3 else None

    def put(self, number: int, pixels: np.ndarray) -> None:
        """See Kept. On a full disk a warning, and nothing more is kept; OSError for all else."""
        if self.full:
            return
        path = self._path(number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside(path) as part, part.open("wb") as file:
                np.save(file, pixels)
        except OSError as error:
            if not is_full(error):
                raise
            self.full = True
            print(
                f"warning: no room for more decoded photos in {self.folder} ({error}): they are decoded each time", file=sys.stderr
            )


def keep(cache: str, photos: Sequence[Photo], kind: str, limit: int = 0) -> Kept | None:
    """Where decoded photos are kept by `cache`: "none", "ram" (in `limit` bytes) or "disk"."""
    if cache == "ram":
        return InMemory(len(photos), limit)
    return OnDisk(photos, kind) if cache == "disk" else None


def free_memory() -> int:
    """Bytes that this process may take for photos: MEMORY_SHARE of what is free, shared with this machine's other ranks."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no control group limits it, or another version of them
        free = min(free, int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    return int(MEMORY_SHARE * max(free, 0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
