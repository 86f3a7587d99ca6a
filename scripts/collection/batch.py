"""A batch of collected photos: a folder DATE-SOURCE with `photos/` and `batch.jsonl`, a line for each photo (Collected).

A photo's file is named for its content. While photos come, the lines stand in `batch.jsonl.part`, after one that says what is
collected, so that a run that was killed goes on; a batch with a `batch.jsonl` is finished.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.atomic import write_bytes, write_text
from scripts.errors import SeeFoodError

LINES, PART, PHOTOS = "batch.jsonl", "batch.jsonl.part", "photos"
FORMAT = 1  # of the part's first line; another one is not gone on with
NAME_DIGITS = 32  # of a photo's SHA-256
# a line's keys and their types
KEYS: dict[str, tuple[type, ...]] = {
    "photo": (str,),
    "source": (str,),
    "from": (str,),
    "at": (str,),
    "title": (str, type(None)),
    "id": (str, type(None)),
    "answer": (dict, type(None)),
    "feedback": (str, type(None)),
    "given": (bool,),
}


class BatchError(SeeFoodError):
    """A batch that cannot be read or gone on with."""


@dataclass(frozen=True)
class Collected:
    """A photo of a batch. `photo` is its path in the batch's folder, `origin` where it came from ("from" in the file).

    `at` is ISO 8601: when it was answered or posted, else collected. `answer` is a captured photo's; `feedback` is the class that a
    person named, and None for "none of the classes" if feedback was `given`.
    """

    photo: str
    source: str
    origin: str
    at: str
    title: str | None = None
    id: str | None = None
    answer: dict[str, Any] | None = None
    feedback: str | None = None
    given: bool = False

    def line(self) -> str:
        """Its line of JSON, without the line's end."""
        return json.dumps({key: getattr(self, "origin" if key == "from" else key) for key in KEYS})

    @classmethod
    def from_line(cls, line: str | bytes) -> "Collected":
        """ValueError for a line that is none."""
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != KEYS.keys():
            raise ValueError(f"expected an object with the keys {', '.join(KEYS)}")
        for key, types in KEYS.items():
            if not isinstance(values[key], types):
                raise ValueError(f"{key!r} is {json.dumps(values[key])[:80]}")
        path = PurePosixPath(values["photo"])
        if path.is_absolute() or ".." in path.parts or not path.parts:  # a path of somebody else's batch reads no other file
            raise ValueError(f"'photo' is {values['photo']!r}, expected a path in the batch's folder")
        return cls(**{"origin" if key == "from" else key: value for key, value in values.items()})


def read_batch(folder: Path) -> list[Collected]:
    """The photos of a finished batch, in the order in which they came. BatchError."""
    path = folder / LINES
    if not path.is_file():
        if (folder / PART).exists():
            raise BatchError(f"{folder} is not finished: the same make collect goes on with it")
        raise BatchError(f"{folder} is no batch: it has no {LINES}")
    photos = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            photos.append(Collected.from_line(line))
        except (ValueError, RecursionError) as error:
            raise BatchError(f"{path}, line {number}: {error}") from error
    return photos


def finished(collected: Path) -> list[Path]:
    """The finished batches in a folder, oldest first."""
    found = [path.parent for path in collected.glob(f"*/{LINES}")] if collected.is_dir() else []
    return sorted(found, key=lambda folder: (_key(folder.name), folder.name))


def _key(name: str) -> tuple[str, int]:
    """Of one day and source: the first, -2, ..., -10."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 1)


class Batch:
    """A batch that grows. It appears with its first photo; whoever writes holds the lock of seen.py."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """One to begin, or to go on with; `about` says what is collected, `source` among it. BatchError if it is finished."""
        self.folder, self.about = folder, {"format": FORMAT, **about}
        if (folder / LINES).exists():
            raise BatchError(f"{folder} is finished: new photos go into another batch")
        photos, self._end = _unfinished(folder)
        self._photos = {photo.photo: photo for photo in photos}

    @classmethod
    def open(cls, collected: Path, about: Mapping[str, Any]) -> "Batch":
        """The unfinished batch about the same, else a new one of today."""
        for part in sorted(collected.glob(f"*/{PART}")):
            if _about(part) == {"format": FORMAT, **about} and not (part.parent / LINES).exists():
                return cls(part.parent, about)
        return cls(_free(collected, f"{date.today():%Y-%m-%d}-{about['source']}"), about)  # noqa: DTZ011 - a person's day

    @property
    def photos(self) -> list[Collected]:
        """Its photos, each once: with the last of its lines, where feedback came twice."""
        return list(self._photos.values())

    @staticmethod
    def name_of(content: bytes) -> str:
        """A photo's name, without its suffix."""
        return hashlib.sha256(content).hexdigest()[:NAME_DIGITS]

    def add(self, content: bytes, suffix: str, **values: Any) -> Collected:
        """Keep a photo: first its file, then its line. OSError, with nothing half written."""
        name = f"{PHOTOS}/{self.name_of(content)}{suffix}"
        photo = Collected(photo=name, source=self.about["source"], **values)
        path = self.folder / name
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # strangers' photos, as captured ones are
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            write_bytes(path, content)
        self._append(photo.line())
        self._photos[name] = photo
        return photo

    def _append(self, line: str) -> None:
        with (self.folder / PART).open("ab", buffering=0) as file:
            file.truncate(self._end)  # what a full disk or a kill cut off
            start = "" if self._end else json.dumps(self.about) + "\n"
            text = memoryview(f"{start}{line}\n".encode())
            end = self._end + len(text)
            while text:
                text = text[file.write(text) or 0 :]
            os.fsync(file.fileno())
        self._end = end

    def finish(self) -> None:
        """Mark it as finished; without a photo there is no batch."""
        if self.photos:
            write_text(self.folder / LINES, "".join(f"{photo.line()}\n" for photo in self.photos))
            (self.folder / PART).unlink(missing_ok=True)


def unfinished(collected: Path) -> Iterator[Collected]:
    """The photos of all batches that runs have left."""
    for part in sorted(collected.glob(f"*/{PART}")):
        yield from _unfinished(part.parent)[0]


def _about(part: Path) -> Any:
    with part.open("rb") as file:
        line = file.readline()
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _unfinished(folder: Path) -> tuple[list[Collected], int]:
    """(the photos of a part, where its last whole line ends)."""
    part, photos, end = folder / PART, list[Collected](), 0
    if not part.exists() or _about(part) is None:
        return photos, end
    with part.open("rb") as file:
        end = len(file.readline())
        for line in file:
            try:
                photo = Collected.from_line(line) if line.endswith(b"\n") else None
            except ValueError:  # zeros after a power cut
                photo = None
            if photo is None:
                break
            photos.append(photo)
            end += len(line)
    return photos, end


def _free(collected: Path, name: str) -> Path:
    """The first folder of name, name-2, name-3 that holds no batch, not even one that is not finished."""
    number, folder = 1, collected / name
    while (folder / LINES).exists() or ((folder / PART).exists() and _about(folder / PART) is not None):
        number += 1
        folder = collected / f"{name}-{number}"
    return folder
