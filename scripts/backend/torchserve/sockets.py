"""Where TorchServe listens: on Unix sockets that its own user alone reaches, else on loopback.

A socket's path has a limit of some hundred bytes. Where a server's folder is too deep for it, the folder of its sockets is a link
to a short one elsewhere.
"""

import os
import platform
import shutil
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from scripts.backend.torchserve.native import has_unix_sockets, native_folder
from scripts.errors import SeeFoodError

# Linux: unix(7), with the byte that ends it; macOS: unix(4)
SOCKET_PATH_BYTES = 103 if platform.system() == "Darwin" else 107
SHORT_PREFIX = "seefood-"


class ServeError(SeeFoodError):
    """The server cannot start or go on; the message says what is wrong and what to do."""


class Addresses(NamedTuple):
    """TorchServe's addresses: unix:PATH, or http://127.0.0.1:PORT."""

    inference: str
    management: str
    metrics: str

    @property
    def private(self) -> bool:
        """Whether its user alone can reach them."""
        return self.inference.startswith("unix:")


def choose_addresses(run_dir: Path) -> Addresses:
    """Where TorchServe shall listen, for as long as the server runs: in run_dir/sockets, else on free ports. ServeError."""
    if not has_unix_sockets(platform.system(), platform.machine()) or native_folder(run_dir) is None:
        with ExitStack() as stack:
            taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in Addresses._fields]
            return Addresses(*[f"http://127.0.0.1:{one.getsockname()[1]}" for one in taken])
    folder = make_short_folder(run_dir / "sockets", max(Addresses._fields, key=len))
    return Addresses(*[f"unix:{folder / name}" for name in Addresses._fields])


def make_short_folder(folder: Path, longest_name: str) -> Path:
    """An empty folder for this user alone, and where it really is: where its path is too long for sockets, a link to another."""
    remove_short_folder(folder)
    if _fits(folder, longest_name):
        folder.mkdir(mode=0o700)
        return folder.resolve()
    short = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX))  # for this user alone
    if not _fits(short, longest_name):
        short.rmdir()
        length = len(os.fsencode(short / longest_name))
        raise ServeError(
            f"no socket fits below {folder.parent} or {short.parent}: {short / longest_name} has {length} bytes, at most "
            f"{SOCKET_PATH_BYTES} are possible: set TMPDIR to a folder with a shorter path"
        )
    folder.symlink_to(short)
    return short


def _fits(folder: Path, name: str) -> bool:
    # links on the way are resolved: TorchServe gets the path without them
    return len(os.fsencode(folder.parent.resolve() / folder.name / name)) <= SOCKET_PATH_BYTES


def remove_short_folder(folder: Path) -> None:
    """Remove it with all that is in it, wherever it is."""
    if folder.is_symlink():
        if folder.readlink().name.startswith(SHORT_PREFIX):
            shutil.rmtree(folder.readlink(), ignore_errors=True)
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
