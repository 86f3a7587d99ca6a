"""A sample of the photos that were answered, each with its answer: off by default. For feedback and `make rollout SHADOW=N`.

scripts/backend/torchserve/environment.py sets SEEFOOD_CAPTURE_DIR and, from scripts/settings.py, _SHARE (0 to 1), _BYTES and
_AGE_S, which bound the sample. A photo's file is stripped of all but its pixels and its orientation (handler/strip.py); one
that cannot be stripped is not kept. Only the server's user can read what is kept. The files: handler/captured.py.
"""

import contextlib
import json
import os
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handler.captured import ANSWER, PHOTO, key_of, place_of, prune
from handler.handed import Photo
from handler.strip import strip

PRUNE_EVERY = 20  # photos kept: pruning reads the whole folder, while a request waits


class Capture:
    """Keeps a share of the photos that it is called with."""

    def __init__(self) -> None:
        self.share = float(os.environ.get("SEEFOOD_CAPTURE_SHARE", "0"))
        self.folder = Path(os.environ.get("SEEFOOD_CAPTURE_DIR", ""))
        self.max_bytes = int(os.environ.get("SEEFOOD_CAPTURE_BYTES", "0"))
        self.max_age_s = float(os.environ.get("SEEFOOD_CAPTURE_AGE_S", "0"))
        self._kept = 0

    def __call__(self, photo: Photo, request_id: str, answer: Mapping[str, Any]) -> bool:
        """Whether the photo was kept, with its answer. On a full disk none is, and the answer goes out all the same."""
        if random.random() >= self.share:
            return False
        try:
            stripped = strip(bytes(photo))
        except Exception:  # whatever is wrong with the file, the photo was answered
            return False
        kept = self._keep(stripped, {"id": request_id, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **answer})
        self._kept += 1
        if self._kept % PRUNE_EVERY == 0:
            with contextlib.suppress(OSError):
                prune(self.folder, self.max_bytes, self.max_age_s)
        return kept

    def _keep(self, photo: bytes, answer: Mapping[str, Any]) -> bool:
        # the time first, for captured_photos() sorts by name
        key = key_of(answer["id"])
        path = place_of(self.folder, key) / f"{time.time_ns()}-{key}{PHOTO}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write(path, photo)
            _write(path.with_suffix(ANSWER), json.dumps(answer).encode())
        except OSError:
            # both or none: feedback for a photo that is not there would be lost
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return False
        return True


def _write(path: Path, content: bytes) -> None:
    """The file whole, or not at all. handler/ may not import scripts.atomic: an archive does not hold it."""
    part = path.with_suffix(".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
