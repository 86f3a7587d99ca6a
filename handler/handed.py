"""A large photo that the server in front hands over as a file, and not in the request's body, which TorchServe would copy.

The file lies in a folder of the server's user alone, which the environment names, and is gone once the request is answered. It is
read by the process that decodes the photo, and by this one only where the photo is captured or costly.
"""

import os
import re
from pathlib import Path

PHOTO_HEADER, PHOTO_DIR = "x-photo-file", "SEEFOOD_PHOTO_DIR"
# no path: whoever reaches the worker past the server reads no other file by it
NAME = re.compile(r"[0-9a-f]{32}")


def takes_files() -> bool:
    """Whether this worker takes photos so."""
    return bool(os.environ.get(PHOTO_DIR))


class HandedPhoto:
    """The photo in an open file. `bytes()` of it reads it."""

    def __init__(self, path: Path) -> None:
        """OSError if there is no such file."""
        self._size = path.stat().st_size
        self._file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return read_file(self.fileno(), self._size)

    def fileno(self) -> int:
        """The file's descriptor, by which another process reads it, too."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; its bytes are no longer there."""
        self._file.close()


Photo = bytes | HandedPhoto


def read_file(descriptor: int, size: int) -> bytes:
    """The first bytes of a file; fewer if it has fewer."""
    return os.pread(descriptor, size, 0)  # as others share the descriptor's place in the file


def open_handed(name: str) -> HandedPhoto:
    """The photo in the file of that name. ValueError for no such name, or where no photos come so; OSError if it is gone."""
    if not takes_files() or not NAME.fullmatch(name):
        raise ValueError(f"{PHOTO_HEADER} is {name[:80]!r}, expected the name of a file that the server in front has written")
    return HandedPhoto(Path(os.environ[PHOTO_DIR]) / name)
