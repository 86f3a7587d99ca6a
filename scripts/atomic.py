"""Files and folders that are as they were or as they shall be, whatever happens while they are written."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Within `with`: a free path beside `path`, to write a file or a folder to; at the end it takes the place of `path`.

    What was written is on the disk by then. After an exception `path` is as it was, and nothing is left beside it.
    """
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old.part")
    _remove(part)  # of a process that was killed
    if old.exists() and not path.exists():  # it was killed between the two renames below
        old.replace(path)
    try:
        yield part
        if part.is_dir():
            for folder, _, names in os.walk(part):
                for name in names:
                    _sync(Path(folder, name))
            if path.exists():  # a folder cannot take another's place in one step
                path.replace(old)
        else:
            _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        _remove(part)
        if path.exists():
            _remove(old)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole. OSError, with the file as it was."""
    with aside(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, in UTF-8. OSError, with the file as it was."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a file whole, as JSON for people. OSError, with the file as it was."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def copy(source: Path, target: Path) -> None:
    """Copy a file whole. OSError, with the target as it was."""
    with aside(target) as part:
        shutil.copyfile(source, part)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
