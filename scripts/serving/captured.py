"""The folder of captured photos, which are strangers' business."""

import contextlib
import math
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from handler.captured import FEEDBACK, PHOTO, answered_by, captured_photos, prune
from handler.data_set import number_of
from scripts.backend.torchserve.sockets import ServeError
from scripts.settings import Settings

PRUNE_EVERY_S = 60.0


class Captured:
    """What lies in it, within its bounds."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float) -> None:
        self.folder, self.max_bytes, self.max_age_s = folder, max_bytes, max_age_s
        self._pruned = -math.inf

    def prune(self) -> None:
        """Remove what is too old or too much, each minute at most: it reads the whole folder."""
        if time.monotonic() - self._pruned > PRUNE_EVERY_S:
            prune(self.folder, self.max_bytes, self.max_age_s)
            self._pruned = time.monotonic()

    def uncorrected(self, count: int, seen: Collection[int], model: str) -> list[bytes]:
        """The last `count` photos of a model that nobody gave feedback on and that are not among `seen`, the newest first.

        A version that was trained on corrected photos rightly answers them, and the same photos sent again, otherwise than before.
        """
        left_out = {*seen, *map(number_of, captured_photos(self.folder, FEEDBACK))}
        return list(islice((photo for photo in self._of(model) if number_of(photo) not in left_out), count))

    def _of(self, model: str) -> Iterator[bytes]:
        """Its photos, the newest first, and those that earlier versions kept without an answer."""
        for path in sorted(self.folder.rglob(f"*{PHOTO}"), key=lambda path: path.name, reverse=True):
            if answered_by(path) in (None, model):
                with contextlib.suppress(FileNotFoundError):
                    yield path.read_bytes()


def with_captured(settings: Settings, run_dir: Path) -> Settings:
    """The settings with the folder named; if photos are kept it is there, for this user alone. ServeError if that cannot be."""
    folder = settings.captured(run_dir)
    if settings.capture_share > 0:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = folder.stat().st_mode
        except OSError as error:
            raise ServeError(f"photos cannot be kept in {folder}: {error.strerror}: choose SEEFOOD_CAPTURE_DIR") from error
        if stat.S_IMODE(mode) & 0o077:
            # not changed: it may be a folder of others
            raise ServeError(
                f"others may look into {folder}, where photos are to be kept: "
                "chmod 700 it, or name a new folder in SEEFOOD_CAPTURE_DIR"
            )
    return replace(settings, capture_dir=str(folder))
