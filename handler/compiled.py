"""Compiled programs on disk, from where the next worker has them in a part of the time that compiling takes.

They lie beside a choice (remembered.py), in a folder for one archive, CPU, number of threads and version of OpenVINO: another
one's are not found, and removed. Each file begins with its checksum: one that is damaged by accident is compiled anew, and so is
one that answers the golden photos otherwise. That proves the answers to these photos alone, and keeps out nobody who can write:
a compiled program is trusted as the rest of the server's folder is.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from handler.remembered import digits_of, place_of

# of the whole key of a choice, what a compiled program depends on
KEYS = ("archive", "cpu", "threads")
CHECKSUM_BYTES = hashlib.sha256().digest_size
# room that a disk must have beyond a program: a cache must not be what fills it
SPARE_BYTES = 512 * 1024 * 1024


class Compiled:
    """The compiled programs of an archive on this machine. Nothing is kept where there is no folder, no room, or no right to."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of(cls, archive: Path, key: Mapping[str, Any]) -> "Compiled":
        """Those of an unpacked archive with this key of a choice."""
        place = place_of(archive)
        # of the libraries OpenVINO's alone: what SEEFOOD_FORMAT leaves out is not lost for it
        needed = {name: key[name] for name in KEYS} | {"openvino": key["libraries"].get("openvino", "")}
        return cls(place and place / f"compiled-{digits_of(needed)}")

    @property
    def keeps(self) -> bool:
        """Whether there is a folder to keep anything in."""
        return self.folder is not None

    def read(self, name: str) -> bytes | None:
        """What was written by this name; None if nothing was, or it is damaged."""
        if self.folder is None:
            return None
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return None
        checksum, program = content[:CHECKSUM_BYTES], memoryview(content)[CHECKSUM_BYTES:]
        return bytes(program) if hashlib.sha256(program).digest() == checksum else None

    def write(self, name: str, program: bytes | memoryview) -> None:
        """Keep a compiled program, whole or not at all."""
        if self.folder is None:
            return
        part = self.folder / f"{name}.{os.getpid()}.part"
        try:
            if not self.folder.is_dir():
                self._begin()
            if shutil.disk_usage(self.folder).free < len(program) + SPARE_BYTES:
                return
            with part.open("wb") as file:
                file.write(hashlib.sha256(program).digest())
                file.write(program)
            part.replace(self.folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def forget(self, beginning: str, but: Collection[str] = ()) -> None:
        """Remove all that is kept by names that begin so, but for some of them."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.startswith(beginning) and path.name not in but:
                    path.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Make the folder; those of other versions of the library, or of another CPU, go."""
        assert self.folder is not None
        for old in self.folder.parent.glob("compiled-*"):
            if old != self.folder:  # another worker may have made it meanwhile
                shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)


NOT_KEPT = Compiled(None)
