"""The folder of captured photos, which are strangers' business."""

import stat
from dataclasses import replace
from pathlib import Path

from scripts.backend.torchserve.sockets import ServeError
from scripts.settings import Settings


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
