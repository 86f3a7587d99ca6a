"""A photo on this machine or elsewhere: its name, its bytes, and a stamp that changes with them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from handler.limits import MAX_BYTES
from scripts.errors import SeeFoodError
from scripts.folders import shown


class PredictError(SeeFoodError):
    """No photo can be labelled, or no more; the message says why and what to do."""


class UnreadError(PredictError):
    """The bytes of one photo cannot be had; the others can. `status` is what HTTP would have for it."""

    def __init__(self, message: str, status: int, kind: str = "UnreadError") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Photo(Protocol):
    """A photo; its `name` is that of its row."""

    @property
    def name(self) -> str:
        """Its path or address."""

    @property
    def text(self) -> str:
        """What a list has beside it, for a model that reads texts; "" for none."""

    def stamp(self) -> str:
        """What is another string once the photo has changed; "" where nothing is known of it."""

    def read(self) -> bytes:
        """Its bytes. UnreadError; PredictError where it is not the photo's fault."""


def stamp_of(stamp: str, text: str) -> str:
    """A photo's stamp, which changes with its text, too; "" where nothing is known of the photo."""
    return f"{stamp} {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}" if stamp and text else stamp


def unusable(size: int) -> UnreadError | None:
    """The handler's own error of a photo over its limit, before a video's gigabytes are read, or of none at all; else None."""
    if size == 0:  # a server would call it an empty body
        return UnreadError("the photo is empty: 0 bytes", 400, "PhotoError")
    if size <= MAX_BYTES:
        return None
    return UnreadError(f"the photo has {size:,} bytes, the limit is {MAX_BYTES:,}", 413, "PhotoError")


def _no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder, expected a photo"
    return "is no file (a device, pipe or socket)" if path.exists() else "there is no such file"


@dataclass(frozen=True, slots=True)
class NoPhoto:
    """What names no photo, in a list; `reason` says why."""

    name: str
    reason: str
    text: str = ""

    def stamp(self) -> str:
        """Nothing."""
        return ""

    def read(self) -> bytes:
        """UnreadError."""
        raise UnreadError(self.reason, 400)


@dataclass(frozen=True, slots=True)
class LocalPhoto:
    """A file."""

    path: Path
    text: str = ""

    @property
    def name(self) -> str:
        """Its path, as it was given."""
        return shown(self.path)

    def stamp(self) -> str:
        """Its size and time."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # no such file; a name with a zero byte
            return ""
        return stamp_of(f"{status.st_size} {status.st_mtime_ns}", self.text)

    def read(self) -> bytes:
        """See Photo."""
        try:
            # a pipe has no end, and would be waited for
            if not self.path.is_file():
                raise UnreadError(_no_file(self.path), 404)
            with self.path.open("rb") as file:
                if error := unusable(self.path.stat().st_size):
                    raise error
                return file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UnreadError(f"the file cannot be read: {reason}", 403) from error
