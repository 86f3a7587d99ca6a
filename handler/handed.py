"""A large photo that the server in front hands over as a file, and not in the request's body, which TorchServe would copy.

The file lies in a folder of the server's user alone, which the environment names, and is gone once the request is answered.
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


def read_handed(name: str) -> bytes:
    """The photo in the file of that name. ValueError for no such name, or where no photos come so; OSError if it is gone."""
    if not takes_files() or not NAME.fullmatch(name):
        raise ValueError(f"{PHOTO_HEADER} is {name[:80]!r}, expected the name of a file that the server in front has written")
    return (Path(os.environ[PHOTO_DIR]) / name).read_bytes()
