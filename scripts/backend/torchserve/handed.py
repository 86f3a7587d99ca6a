"""Large photos on their way to the worker as files beside TorchServe's sockets: its front end would copy their bytes five times.

handler/handed.py reads them. The folder is its user's alone, and the files go with their requests; what is left of a door that was
killed goes when the next one starts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handler.handed import NAME

# below this a file costs as much as it saves
LEAST_BYTES = 256 * 1024


def photo_folder(address: str) -> Path | None:
    """Where photos for the TorchServe at this address are written: its socket's folder; None where it listens on a port."""
    return Path(address.removeprefix("unix:")).parent if address.startswith("unix:") else None


def remove_left(folder: Path) -> None:
    """Remove the photos of a door that was killed."""
    for path in folder.glob("*"):
        if NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def handed(folder: Path, photo: bytes) -> Iterator[str]:
    """Inside `with`, the name of a file in `folder` that holds the photo; "" where there is no room for it."""
    name = os.urandom(16).hex()
    try:
        written = _write(folder / name, photo)
        yield name if written else ""
    finally:
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, photo: bytes) -> bool:
    # on the event loop: as much work as it is to put them into a socket
    with suppress(OSError):
        path.write_bytes(photo)
        return True
    return False
