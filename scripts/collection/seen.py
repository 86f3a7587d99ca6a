"""What earlier runs have looked at: `seen.jsonl` beside the batches, so that the same command brings only what is new.

A line for each photo that was taken, was there already, or can never be taken; it is written once the photo is in its batch.
Locked while a run collects: of two at a time each would bring the photos of the other.
"""

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scripts.collection.batch import BatchError, unfinished

NAME = "seen.jsonl"
Feedback = tuple[bool, str | None]  # whether it was given, and the class


class Seen:
    """Used with `with`: open and locked. BatchError if another run collects into this folder."""

    def __init__(self, collected: Path) -> None:
        self.path = collected / NAME
        self._stamps: dict[str, str] = {}  # by origin
        self._photos: dict[str, Feedback] = {}  # by the name that a photo's content has

    def __enter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BatchError(f"another run collects into {self.path.parent}: wait for its end, or choose another OUT") from None
        self._end = self._read()
        # a kill may have come between a batch's line and ours
        for photo in unfinished(self.path.parent):
            self._photos[Path(photo.photo).stem] = photo.given, photo.feedback
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _read(self) -> int:
        """Where the last whole line ends."""
        self._file.seek(0)
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    row = json.loads(line)
                    self._keep(row["from"], row["stamp"], row["photo"], (row["given"], row["feedback"]))
                except (ValueError, KeyError, TypeError):  # zeros after a power cut: looked at again
                    continue
        return end

    def _keep(self, origin: str, stamp: str, name: str | None, feedback: Feedback) -> None:
        self._stamps[origin] = stamp
        if name is not None:
            self._photos[name] = feedback

    def has(self, origin: str, stamp: str) -> bool:
        """Whether it was looked at, and is as it was."""
        return self._stamps.get(origin) == stamp

    def has_photo(self, name: str, feedback: Feedback) -> bool:
        """Whether the photo is in a batch. New feedback makes it a new one."""
        return name in self._photos and (not feedback[0] or self._photos[name] == feedback)

    def add(self, origin: str, stamp: str, name: str | None, feedback: Feedback = (False, None)) -> None:
        """Note what was looked at; `name` is None for what is no photo. OSError."""
        row: dict[str, Any] = {"from": origin, "stamp": stamp, "photo": name, "given": feedback[0], "feedback": feedback[1]}
        self._file.truncate(self._end)
        text = memoryview(json.dumps(row).encode() + b"\n")
        end = self._end + len(text)
        while text:
            text = text[self._file.write(text) or 0 :]
        self._end = end
        self._keep(origin, stamp, name, feedback)
