"""Decoded photos that are kept for later epochs: `cache` in params.yaml, in memory or on disk. It changes no result.

They take three bytes a pixel, so that what a photo is reduced to (loader.py) decides how many have room. Whatever is wrong with
what was kept, the photo is decoded again.
"""

import contextlib
import hashlib
import importlib.metadata
import mmap
import multiprocessing
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
import psutil
from PIL import features

from handler import preprocess
from scripts.phrases import counted
from training.data.split import Photo

FOLDER = Path("build/decoded")
SPARE_BYTES = 2 * 10**9  # of a disk that are left free: checkpoints must have room
HEAD = struct.Struct("<III")  # of a file: height, width, checksum of what follows
MEMORY_SHARE = 0.5  # of what is free when a run begins; the rest is for everything else
CGROUP = Path("/sys/fs/cgroup")
WRITING = -1  # in place of a width: a process writes it now


class Kept(Protocol):
    """Arrays uint8 (H, W, 3) by number, seen by all processes that were forked since it was made."""

    def get(self, number: int) -> np.ndarray | None:
        """The array, which nobody may change; None if it is not there."""

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Keep a copy, if there is room."""

    def summary(self) -> str:
        """How many are kept, for people; "" if that is not known."""


class InMemory:
    """Of `count` arrays as many as have room in `limit` bytes, first come, first kept. The memory is gone with its processes."""

    def __init__(self, count: int, limit: int) -> None:
        """ValueError if the system gives no such memory, or starts workers that would not share it."""
        if sys.platform != "linux":
            raise ValueError(
                f"cache is ram, which workers share on Linux alone, and this is {sys.platform}: set it to disk or none"
            )
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
        if width <= 0:
            return None
        return np.frombuffer(self._bytes, np.uint8, height * width * 3, start).reshape(height, width, 3)

    def put(self, number: int, pixels: np.ndarray) -> None:
        """See Kept."""
        with self._lock:
            start = int(self._index[-1, 0])
            if self._index[number, 2] or start + pixels.nbytes > self._limit:
                return
            self._index[-1, 0], self._index[number, 2] = start + pixels.nbytes, WRITING
        self._bytes[start : start + pixels.nbytes] = pixels.tobytes()
        with self._lock:
            self._index[number] = start, *pixels.shape[:2]

    def summary(self) -> str:
        """See Kept."""
        number, all_of_them = int((self._index[:-1, 2] > 0).sum()), len(self._index) - 1
        return f"{counted(number, 'decoded photo')} of {all_of_them} kept in memory, {self._index[-1, 0] / 1e9:.1f} GB"


class OnDisk:
    """A file for each, named by its photo's sha256 and by `kind`, what was made of it; later runs and other processes find it."""

    def __init__(self, photos: Sequence[Photo], kind: str, folder: Path | None = None) -> None:
        self.photos, self.folder, self.ended = photos, (folder or FOLDER) / f"{kind}-{decoders()}", False

    def _path(self, number: int) -> Path:
        sha256 = self.photos[number].sha256
        return self.folder / sha256[:2] / f"{sha256}.rgb"

    def get(self, number: int) -> np.ndarray | None:
        """See Kept. A damaged file counts as none."""
        try:
            content = self._path(number).read_bytes()
            height, width, checksum = HEAD.unpack_from(content)
            pixels = np.frombuffer(content, np.uint8, offset=HEAD.size).reshape(height, width, 3)
        except (OSError, ValueError, struct.error):
            return None
        return pixels if zlib.crc32(memoryview(content)[HEAD.size :]) == checksum else None

    def put(self, number: int, pixels: np.ndarray) -> None:
        """See Kept. Where it cannot be written, or the disk has little room left, a warning, and nothing more is kept."""
        if self.ended:
            return
        path = self._path(number)
        part = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < SPARE_BYTES + pixels.nbytes:
                raise OSError(f"less than {SPARE_BYTES / 1e9:g} GB would be left free")
            content = pixels.tobytes()
            part.write_bytes(HEAD.pack(*pixels.shape[:2], zlib.crc32(content)) + content)
            part.replace(path)  # whole or not at all; what a power cut leaves has another checksum
        except OSError as error:
            self.ended = True
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            print(f"warning: no more decoded photos are kept in {self.folder} ({error})", file=sys.stderr)

    def summary(self) -> str:
        """See Kept."""
        return ""


def keep(cache: str, photos: Sequence[Photo], kind: str, limit: int = 0) -> Kept | None:
    """Where decoded photos are kept by `cache`: "none", "ram" (in `limit` bytes) or "disk". ValueError as InMemory."""
    if cache == "ram":
        return InMemory(len(photos), limit)
    return OnDisk(photos, kind) if cache == "disk" else None


@cache
def decoders() -> str:
    """A name for all that decides a photo's pixels: our code and the libraries that read it."""
    known = [PIL.__version__, *(features.version(name) or "" for name in ("libjpeg_turbo", "zlib", "webp", "avif", "jpg_2000"))]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        known.append(importlib.metadata.version("pi-heif"))
    sources = sorted(Path(preprocess.__file__).parent.glob("*.py"))
    known += [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:12]


def free_memory() -> int:
    """Bytes that this process may take for photos: MEMORY_SHARE of what is free, shared with this machine's other ranks."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError, StopIteration):  # no control group limits it, or another version of them
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))  # of which it lets go
        free = min(free, int((CGROUP / "memory.max").read_text()) - used + files)
    return int(MEMORY_SHARE * max(free, 0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
