"""Where a release document lies, with its history, its archives and the status of each instance: a folder, or S3.

release.json                      s3://bucket/prefix/release.json
release.history/000012.json       its older object versions
release.status/INSTANCE.json      s3://bucket/prefix/release.status/INSTANCE.json
seefood-1.0.0.mar                 s3://bucket/prefix/seefood-1.0.0.mar
"""

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from handler.parts import sha256
from scripts.atomic import write_json, write_text

FORGET_STATUS_S = 24 * 3600.0


class StoreError(RuntimeError):
    """The store cannot be reached, or refuses: worth another try later."""


class ChangedError(StoreError):
    """Somebody else has written the document meanwhile."""


class Store(Protocol):
    """A document is known by its `tag`, which changes whenever it is written; None: there is no document yet."""

    address: str

    def read(self, tag: str | None = None) -> tuple[str, str] | None:
        """(text, tag), or None if it is still the one with this tag. FileNotFoundError if there is none, StoreError."""

    def write(self, text: str, tag: str | None) -> str:
        """Put a document in place of that with this tag, whole or not at all; the new tag. ChangedError, StoreError."""

    def history(self) -> list[str]:
        """All documents, newest first, the present one included. StoreError."""

    def fetch(self, name: str, target: Path) -> None:
        """Copy an archive to a new file. FileNotFoundError, StoreError; OSError if the disk is full."""

    def put(self, archive: Path) -> None:
        """Have this archive beside the document. ValueError if another one has its name, StoreError."""

    def has(self, name: str) -> bool:
        """Whether that archive lies beside the document. StoreError."""

    def write_status(self, instance: str, status: Mapping[str, Any] | None) -> None:
        """Note what an instance says of itself; None: nothing more. StoreError."""

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """(age in seconds, what an instance said), in the order of their names. StoreError."""


def open_store(address: str) -> Store:
    """The store of a document's address: a path, or s3://bucket/key. ValueError for any other."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        from scripts.release.s3_store import S3Store  # boto3 takes half a second to import

        return S3Store(address)
    if "://" in address or not address.endswith(".json"):
        raise ValueError(f"release is {address!r}, expected a path or s3://bucket/key that ends in .json")
    return FolderStore(Path(address))


class FolderStore:
    """A document in a file, archives beside it."""

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, str(path)
        self.folder = path.parent
        self.history_dir = path.with_suffix(".history")
        self.status_dir = path.with_suffix(".status")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, tag: str | None = None) -> tuple[str, str] | None:
        """See Store."""
        try:
            found = self.path.stat()
            now = f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
            return None if now == tag else (self.path.read_text(encoding="utf-8", errors="replace"), now)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from error

    def write(self, text: str, tag: str | None) -> str:
        """See Store."""
        try:
            with self._lock():
                present = self.read() if self.path.exists() else None
                if (present[1] if present else None) != tag:
                    raise ChangedError(f"{self.path} was written by somebody else meanwhile: look at make status, and try again")
                if present:
                    self.history_dir.mkdir(exist_ok=True)
                    number = max((int(path.stem) for path in self.history_dir.glob("[0-9]*.json")), default=0) + 1
                    write_text(self.history_dir / f"{number:06}.json", present[0])
                write_text(self.path, text)
                written = self.read()
                assert written is not None
                return written[1]
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror}") from error

    def history(self) -> list[str]:
        """See Store."""
        older = sorted(self.history_dir.glob("[0-9]*.json"), reverse=True)
        return [path.read_text(encoding="utf-8", errors="replace") for path in [self.path, *older] if path.is_file()]

    def fetch(self, name: str, target: Path) -> None:
        """See Store."""
        shutil.copyfile(self.folder / name, target)

    def put(self, archive: Path) -> None:
        """See Store."""
        target = self.folder / archive.name
        if target.exists():
            check_same(archive, sha256(archive), sha256(target), self.address)
            return
        part = target.with_name(target.name + ".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(archive, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error

    def has(self, name: str) -> bool:
        """See Store."""
        return (self.folder / name).is_file()

    def write_status(self, instance: str, status: Mapping[str, Any] | None) -> None:
        """See Store."""
        path = self.status_dir / f"{instance}.json"
        try:
            if status is None:
                path.unlink(missing_ok=True)
                return
            self.status_dir.mkdir(parents=True, exist_ok=True)
            write_json(path, status)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """See Store."""
        found = []
        for path in sorted(self.status_dir.glob("*.json")):
            try:
                age_s = time.time() - path.stat().st_mtime
                if age_s > FORGET_STATUS_S:
                    path.unlink()
                    continue
                found.append((age_s, json.loads(path.read_text(encoding="utf-8"))))
            except (FileNotFoundError, ValueError):
                continue
        return found


def check_same(archive: Path, ours: str, theirs: str, address: str) -> None:
    """ValueError unless these two checksums are one."""
    if ours != theirs:
        raise ValueError(
            f"another {archive.name} lies beside {address} (sha256 {theirs[:12]}, this one has {ours[:12]}): "
            "a version is never overwritten, choose another VERSION"
        )
