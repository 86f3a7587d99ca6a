"""The part file of a run: rows of photos that are labelled, so that a run that was killed goes on where it stopped.

Beside OUT as OUT.part, or in build/predict/ for results on S3. JSON lines: first what the run is about (KEYS), then a row for each
photo in their order, with a stamp that changes with the photo. It is written row by row, and locked while a run writes it.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scripts.predict.photo import Photo, PredictError

FORMAT = 1  # of this file; another one is not gone on with
# by: the archive's checksum and program, or a server's address and version
KEYS = {"format": "another format", "photos": "other photos", "by": "another model"}


class Journal:
    """Used with `with`: open and locked. PredictError if another run has it."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, {"format": FORMAT, **about}
        self.anew = ""  # why rows that were there are not used, in words
        self._kept: int | None = None  # bytes that are used, while the others are still there

    def __enter__(self) -> Self:
        while True:
            self._file = self.path.open("a+b", buffering=0)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise PredictError(
                    f"another run writes these results ({self.path}): wait for its end, or choose another OUT"
                ) from None
            # the run that had it may have ended, and removed it, in between
            if self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                return self
            self._file.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def go_on(self, photos: Iterator[Photo], seen: Callable[[Mapping[str, Any]], None]) -> Iterator[Photo]:
        """The photos that are not labelled yet; `seen` gets the rows of the others, up to the first photo that is another one now.

        Rows behind that are dropped with the first new row: until there is an answer, nothing is lost.
        """
        self.anew, kept = self._check_about()
        rest: Iterator[Photo] = photos
        if kept:
            for row, end in self._rows(kept):
                photo = next(photos, None)
                if photo is None:
                    self.anew = f"there are fewer photos than before: after {row['photo']} none is left"
                    break
                if photo.name != row["photo"] or photo.stamp() != row["stamp"]:
                    same = photo.name == row["photo"]
                    self.anew = f"{photo.name} has changed since" if same else f"{photo.name} stands where {row['photo']} was"
                    rest = chain([photo], photos)
                    break
                seen(row)
                kept = end
        self._kept = kept
        return rest

    def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            self._file.truncate(kept)
            if not kept:
                self.append(self.about)

    def _check_about(self) -> tuple[str, int]:
        """(why the rows cannot be used, where the first one begins: 0 if they cannot be)."""
        with self.path.open("rb") as file:
            line = file.readline()
            about = _parsed(line)
        if about is None or "format" not in about:
            if not _is_start(line):
                raise PredictError(f"{self.path} is not of such a run: move it away, or choose another OUT")
            return "", 0
        for key, other in KEYS.items():
            if about.get(key) != self.about[key]:
                return f"the earlier run had {other}: {_shown(about.get(key))}, not {_shown(self.about[key])}", 0
        return "", len(line)

    def _rows(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """(row, where it ends) up to the first that is not whole."""
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if (row := _parsed(line)) is None:
                    return
                start += len(line)
                yield row, start

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row; whatever ends this process afterwards, it is there."""
        self._drop()
        line = memoryview(json.dumps(row).encode() + b"\n")
        while line:
            line = line[self._file.write(line) or 0 :]

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, in order, without their stamps."""
        self._drop()
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                row = json.loads(line)
                del row["stamp"]
                yield row

    def remove(self) -> None:
        """Delete it: the results are written."""
        self.path.unlink(missing_ok=True)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it is cut off or broken."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_start(line: bytes) -> bool:
    """Whether it is the first line of a part file, cut off or lost in a power cut: zeros stand in its place."""
    start = json.dumps({"format": FORMAT})[:-2].encode()
    return not line.strip(b"\0") or (not line.endswith(b"\n") and (line.startswith(start) or start.startswith(line)))


def _shown(value: Any) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
