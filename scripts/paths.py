"""Where the checkout lies, and what commands of several rooms find in it. Imported by training, too."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REVIEWED = ROOT / "collected" / "labels.csv"  # path,label: make review writes it, make retrain reads it


def own_folder() -> Path:
    """Where servers write: `build` in the checkout, or where that is read-only the user's folder for state. It need not exist."""
    build = ROOT / "build"
    if os.access(build if build.is_dir() else ROOT, os.W_OK):
        return build
    # XDG Base Directory Specification: logs and state
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "seefood"
