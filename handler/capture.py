"""A sample of the photos that were answered, kept on the instance for `make rollout SHADOW=N`: off by default.

scripts/backend/torchserve/process.py sets SEEFOOD_CAPTURE_DIR and, from scripts/settings.py, _SHARE (0 to 1), _BYTES and
_AGE_S, which bound the sample. A photo's file is stripped of all but its pixels and its orientation (handler/strip.py); one
that cannot be stripped is not kept. Only the server's user can read what is kept.
"""

import contextlib
import os
import random
import time
from pathlib import Path

from handler.strip import strip

PRUNE_EVERY = 20  # photos kept: pruning reads the whole folder, while a request waits


def prune(folder: Path, max_bytes: int, max_age_s: float) -> None:
    """Remove photos that are too old, and the oldest until the others fit."""
    files = []
    for path in folder.glob("*.photo"):
        with contextlib.suppress(FileNotFoundError):  # another worker prunes, too
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    room = max_bytes
    for written, size, path in sorted(files, reverse=True):
        room -= size
        if room < 0 or time.time() - written > max_age_s:
            path.unlink(missing_ok=True)


def captured_photos(folder: Path, count: int) -> list[bytes]:
    """The last `count` photos that were kept, oldest first."""
    photos = []
    for path in sorted(folder.glob("*.photo"))[-count:]:
        with contextlib.suppress(FileNotFoundError):
            photos.append(path.read_bytes())
    return photos


class Capture:
    """Keeps a share of the photos that it is called with."""

    def __init__(self) -> None:
        self.share = float(os.environ.get("SEEFOOD_CAPTURE_SHARE", "0"))
        self.folder = Path(os.environ.get("SEEFOOD_CAPTURE_DIR", ""))
        self.max_bytes = int(os.environ.get("SEEFOOD_CAPTURE_BYTES", "0"))
        self.max_age_s = float(os.environ.get("SEEFOOD_CAPTURE_AGE_S", "0"))
        self._kept = 0

    def __call__(self, photo: bytes) -> None:
        """Keep the photo, perhaps. On a full disk none is kept, and the answer goes out all the same."""
        if random.random() >= self.share:
            return
        try:
            photo = strip(photo)
        except Exception:  # whatever is wrong with the file, the photo was answered
            return
        # the time first, for captured_photos() sorts by name; the process after it, for two workers may share a nanosecond
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.photo"
        part = path.with_suffix(".part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(photo)
            part.replace(path)  # handler/ may not import scripts.atomic: an archive does not hold it
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self._kept += 1
        if self._kept % PRUNE_EVERY == 0:
            prune(self.folder, self.max_bytes, self.max_age_s)
