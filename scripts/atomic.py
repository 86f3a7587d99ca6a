"""Files and folders that are as they were or as they shall be, whatever happens while they are written."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def aside(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Within `with`: a free path beside `path`, to write a file or a folder to; at the end it takes the place of `path`.

    What was written is on the disk by then, unless it is not `lasting`: what each start writes anew need not be. After an exception
    `path` is as it was, and nothing is left beside it. Of several that write at a time each is whole, and the last one stays.
    """
    _clear(path)
    # a name of its own: others may write the same file at this moment
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        if lasting:
            for folder, _, names in os.walk(part):
                for file in names:
                    _sync(Path(folder, file))
            if part.is_file():
                _sync(part)
        if part.is_dir():
            _replace_folder(part, path)
        else:
            part.replace(path)
        if lasting:
            _sync(path.parent)
    finally:
        _remove(part)


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


def _replace_folder(part: Path, path: Path) -> None:
    """Put a folder in the place of another, which no single step can: the old one steps aside for a moment."""
    old = path.with_name(f"{part.name.removesuffix('.part')}.old.part")
    if path.exists():
        path.replace(old)
    try:
        part.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    _remove(old)


def _clear(path: Path) -> None:
    """Remove what processes that were killed left beside `path`; a folder that had stepped aside comes back."""
    for left in path.parent.glob(f"{path.name}.*-*.part"):
        pid = left.name.removeprefix(f"{path.name}.").partition("-")[0]
        if pid.isdecimal() and not _runs(int(pid)):
            if left.name.endswith(".old.part") and not path.exists():
                left.replace(path)
            else:
                _remove(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


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
