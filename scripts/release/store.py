"""What a store does that holds a release document, its history, its archives and the status of each instance.

folder_store.py                   s3_store.py
release.json                      s3://bucket/prefix/release.json
release.history/000012.json       its older object versions
release.status/INSTANCE.json      s3://bucket/prefix/release.status/INSTANCE.json
MODEL-1.0.0.mar                   s3://bucket/prefix/MODEL-1.0.0.mar
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from scripts.archive.unzip import MAX_ARCHIVE_BYTES
from scripts.errors import FullDiskError, SeeFoodError


class StoreError(SeeFoodError):
    """The store cannot be reached, or refuses: worth a retry later."""


class DeniedError(StoreError):
    """A permission is missing; the message names it. No retry helps before it is granted."""


class ChangedError(StoreError):
    """Somebody else has written the document meanwhile."""


class Store(Protocol):
    """A document is identified by its `tag`, which changes whenever it is written; None: there is no document yet."""

    address: str  # as it was given, for messages

    def read(self, tag: str | None = None) -> tuple[str, str] | None:
        """(text, tag), or None if it is still the one with this tag. FileNotFoundError if there is none, StoreError."""

    def write(self, text: str, tag: str | None) -> str:
        """Replace the document that has this tag, whole or not at all; the new tag. ChangedError, StoreError."""

    def history(self) -> list[str]:
        """All documents, newest first, the present one included. StoreError."""

    def fetch(self, name: str, target: Path) -> None:
        """Copy an archive to a file. FileNotFoundError, StoreError; ValueError if it is too large, OSError if the disk is full."""

    def put(self, archive: Path) -> None:
        """Copy an archive beside the document. ValueError if another one has its name, StoreError."""

    def has(self, name: str) -> bool:
        """Whether that archive lies beside the document. StoreError."""

    def write_status(self, instance: str, status: Mapping[str, Any] | None) -> None:
        """Write an instance's status; None removes it. StoreError."""

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """(age in seconds, an instance's status), sorted by the instances' names. StoreError."""

    def instances(self) -> list[tuple[float, str]]:
        """(age of its status in seconds, an instance's name), sorted by name. Reads no status, so it is cheap. StoreError."""


def check_same(archive: Path, sha256: str, stored_sha256: str, address: str) -> None:
    """ValueError unless the archive has the checksum of the one that is stored under its name."""
    if sha256 != stored_sha256:
        raise ValueError(
            f"another {archive.name} lies beside {address} (sha256 {stored_sha256[:12]}, this one has {sha256[:12]}): "
            "a version is never overwritten, choose another VERSION"
        )


def save(name: str, size: int, chunks: Iterable[bytes], target: Path) -> None:
    """Write an archive of `size` bytes as it comes. ValueError if that is too large, OSError if the disk has no room for it."""
    if size > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, an archive has at most {MAX_ARCHIVE_BYTES:,}")
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise FullDiskError.lacking(target.parent, size, free)
    left = size
    with target.open("wb") as file:
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"{name} has more than the {size:,} bytes that its store states")
            file.write(chunk)
