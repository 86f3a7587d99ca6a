"""A choice among an archive's programs, kept on this machine for the next worker and the next start.

SEEFOOD_PROGRAMS_DIR names the folder (scripts/backend/torchserve/environment.py), in which each unpacked archive has one of its own
name. A choice is found again only where all that it depends on is the same: see key_of. Whatever cannot be read is measured anew,
and where nothing can be written, nothing is kept.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.cpu import kind
from handler.locks import alone
from handler.parts import PROVENANCE, sha256

LIBRARIES = ("openvino", "onnxruntime", "torch")  # a format's name begins with its library's
LOCK_S = 30.0  # a worker that loads and measures needs some seconds


def version_of(library: str) -> str:
    """The installed version, "" if there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def key_of(folder: Path, programs: Mapping[str, Mapping[str, Any]], num_threads: int, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """All that a choice among these programs of an unpacked archive depends on."""
    formats = {about["format"] for about in programs.values()}
    libraries = [library for library in LIBRARIES if any(name.startswith(library) for name in formats)]
    return {
        "archive": sha256(folder / PROVENANCE),  # which lists the checksum of each part
        "programs": sorted(programs),
        "cpu": kind(),
        "threads": num_threads or len(os.sched_getaffinity(0)),
        "libraries": {library: version_of(library) for library in libraries},
        "batch_sizes": list(batch_sizes),
    }


def place_of(archive: Path) -> Path | None:
    """The folder of what is kept about an unpacked archive, made; None without SEEFOOD_PROGRAMS_DIR, or where it cannot be."""
    if not (place := os.environ.get("SEEFOOD_PROGRAMS_DIR", "")):
        return None
    folder = Path(place, archive.resolve().name)  # TorchServe reaches an archive by a link
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def digits_of(key: Mapping[str, Any]) -> str:
    """Which stand for a key in a file's name."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


class Remembered:
    """The file of one choice, or none where SEEFOOD_PROGRAMS_DIR is not set."""

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self.path, self.key = path, key

    @classmethod
    def of(cls, archive: Path, key: Mapping[str, Any]) -> "Remembered":
        """That of an unpacked archive with this key."""
        place = place_of(archive)
        return cls(place and place / f"choice-{digits_of(key)}.json", key)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other worker loads or measures; not for longer than LOCK_S, and not where there is no file."""
        with contextlib.ExitStack() as stack:
            if self.path is not None:
                with contextlib.suppress(OSError):
                    stack.enter_context(alone(self.path.parent.parent, LOCK_S))
            yield

    def read(self) -> Any:
        """What was written under this key; None if nothing was, or it cannot be read."""
        if self.path is None:
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return content["choice"] if content["key"] == self.key else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, choice: Mapping[str, Any]) -> None:
        """Keep a choice under this key, whole or not at all; those under other keys go."""
        if self.path is None:
            return
        # handler/ may not import scripts.atomic: an archive does not hold it
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text(json.dumps({"key": self.key, "choice": choice}), encoding="utf-8")
            part.replace(self.path)
            for other in self.path.parent.glob("choice-*.json"):
                if other != self.path:
                    other.unlink(missing_ok=True)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
