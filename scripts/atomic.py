"""Files that are either as they were or as they shall be, whatever happens while they are written."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a file aside, onto the disk, then rename. OSError, with nothing left of it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """As text for people."""
    write_whole(path, json.dumps(content, indent=2) + "\n")
