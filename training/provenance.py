"""Where a run comes from: the commit of the code."""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Commit of the working tree and whether it was dirty, e.g. "1a2b3c4 clean"; "unknown" outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} {'dirty' if changed else 'clean'}"


def dvc_version(root: Path) -> str:
    """Placeholder."""
    return "not tracked"
