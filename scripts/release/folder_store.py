"""A release document in a file, with its history, its archives and statuses in the same folder: see scripts/release/store.py."""

import contextlib
import errno
import fcntl
import json
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handler.parts import sha256
from scripts.atomic import aside
from scripts.release.store import ChangedError, StoreError, check_same, save
from scripts.settings import Settings

CHUNK = 1024 * 1024  # bytes of an archive that are in memory


class FolderStore:
    """A document in a file, archives beside it."""

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        self.path, self.address, self.settings = path, str(path), settings or Settings()
        self.folder = path.parent  # made by the first write, not here: a refused rollout leaves nothing
        self.history_dir = path.with_suffix(".history")
        self.status_dir = path.with_suffix(".status")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        # without it two writers could both find the tag unchanged, and the second would overwrite the first
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_suffix(".lock")
        with lock.open("w") as file:
            with contextlib.suppress(PermissionError):  # somebody else's
                self._share(lock)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _share(self, path: Path) -> None:
        """Make a file as readable as the store's folder: `serve` writes by umask 077, and a rollout may be another user's."""
        path.chmod(0o600 | (self.folder.stat().st_mode & 0o044))

    def _write(self, path: Path, text: str) -> None:
        if path.parent != self.folder and not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(stat.S_IMODE(self.folder.stat().st_mode))
        with aside(path) as part:
            part.write_text(text, encoding="utf-8")
            self._share(part)

    def read(self, tag: str | None = None) -> tuple[str, str] | None:
        """See Store."""
        try:
            found = self.path.stat()
            # each write is a new file, so the inode changes even where the clock is coarse and the size is the same
            current = f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
            return None if current == tag else (self.path.read_text(encoding="utf-8", errors="replace"), current)
        except FileNotFoundError:
            raise  # an OSError, too, but no fault of the store: there is no document yet
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from error

    def write(self, text: str, tag: str | None) -> str:
        """See Store."""
        try:
            with self._lock():
                present = self.read() if self.path.exists() else None
                if (present[1] if present else None) != tag:
                    raise ChangedError(f"{self.path} was written by somebody else meanwhile: see make status, then try again")
                if present:
                    number = max((int(path.stem) for path in self.history_dir.glob("[0-9]*.json")), default=0) + 1
                    self._write(self.history_dir / f"{number:06}.json", present[0])
                self._write(self.path, text)
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
        source = self.folder / name
        if not source.is_file():  # opened, a pipe or a device would never end
            raise FileNotFoundError(errno.ENOENT, "there is no such archive", str(source))
        with source.open("rb") as file:
            save(name, source.stat().st_size, iter(lambda: file.read(CHUNK), b""), target)

    def put(self, archive: Path) -> None:
        """See Store."""
        target = self.folder / archive.name
        if target.exists():
            check_same(archive, sha256(archive), sha256(target), self.address)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with aside(target) as part:
                shutil.copyfile(archive, part)
                self._share(part)
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
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(path, json.dumps(status, indent=2) + "\n")
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def _status_files(self) -> list[tuple[float, Path]]:
        """(age in seconds, file) of each status, sorted. StoreError."""
        files = []
        try:
            # not glob(), which finds nothing where it may not read
            for path in sorted(self.status_dir.iterdir()) if self.status_dir.exists() else []:
                with contextlib.suppress(FileNotFoundError):  # the instance has just stopped
                    files += [(time.time() - path.stat().st_mtime, path)] if path.suffix == ".json" else []
        except OSError as error:
            raise StoreError(f"{self.status_dir} cannot be read: {error.strerror}") from error
        return files

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """See Store."""
        statuses = []
        for age_s, path in self._status_files():
            try:
                if age_s > self.settings.forget_status_s:
                    path.unlink()
                    continue
                statuses.append((age_s, json.loads(path.read_text(encoding="utf-8"))))
            except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
                continue  # the instance has just stopped, or somebody else wrote that file
        return statuses

    def instances(self) -> list[tuple[float, str]]:
        """See Store."""
        return [(age_s, path.stem) for age_s, path in self._status_files()]
