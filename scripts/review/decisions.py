"""What was decided: a journal with a line for each choice, and the CSV `path,label` for `make ingest` that follows from it.

The journal is on the disk before a choice counts, so that a kill loses nothing; the CSV is replaced whole after each.
Paths in both are relative to their folder.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from scripts.atomic import write_text
from scripts.review.answers import ReviewError

LABEL, NONE, SKIP, OPEN = KINDS = ("label", "none", "skip", "open")  # open: undone
MAX_LABEL = 200  # characters


class Decision(NamedTuple):
    """`kind` is one of KINDS; `label` is that of LABEL, else None."""

    kind: str
    label: str | None = None


@contextlib.contextmanager
def alone(table: Path) -> Iterator[None]:
    """Inside, no other process decides for this table. ReviewError if one does already."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.with_suffix(".lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReviewError(f"another make review writes {table}: end it first, or choose another OUT") from None
        yield


class Decisions:
    """Those of all batches that write to one CSV. One process at a time: alone()."""

    def __init__(self, table: Path) -> None:
        """Read what was decided before. ValueError for a journal that is none."""
        self.table, self.journal = table, table.with_suffix(".jsonl")
        table.parent.mkdir(parents=True, exist_ok=True)
        self.made: dict[str, Decision] = {}
        self._end = self._read()
        self._write_table()

    def of(self, photo: Path) -> Decision:
        """The photo's last one."""
        return self.made.get(self._path(photo), Decision(OPEN))

    def decide(self, photo: Path, decision: Decision) -> None:
        """Keep it. ValueError for one that cannot be, OSError with nothing decided."""
        _check(decision)
        path = self._path(photo)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"path": path, "kind": decision.kind, "label": decision.label, "at": at}) + "\n"
        with self.journal.open("ab") as file:
            file.truncate(self._end)  # what a kill or a full disk cut off
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._end += len(line.encode())
        self.made[path] = decision
        self._write_table()

    def _path(self, photo: Path) -> str:
        return os.path.relpath(photo.resolve(), self.table.parent.resolve())

    def _read(self) -> int:
        """Where the last whole line ends."""
        end = 0
        if not self.journal.exists():
            return end
        for number, line in enumerate(self.journal.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                decision = Decision(values["kind"], values["label"])
                _check(decision)
                self.made[values["path"]] = decision
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.journal}, line {number} is no decision: {error}: move the file away to begin anew"
                ) from error
            end += len(line)
        return end

    def _write_table(self) -> None:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["path", "label"])
        rows.writerows([path, decision.label] for path, decision in self.made.items() if decision.kind == LABEL)
        write_text(self.table, text.getvalue())


def _check(decision: Decision) -> None:
    if decision.kind not in KINDS:
        raise ValueError(f"the kind is {str(decision.kind)[:80]!r}, expected one of {', '.join(KINDS)}")
    label = decision.label
    if decision.kind != LABEL:
        if label is not None:
            raise ValueError(f"the label is {str(label)[:80]!r}, expected none with {decision.kind!r}")
        return
    fits = isinstance(label, str) and 0 < len(label) <= MAX_LABEL and label == label.strip()
    if not fits or not str(label).isprintable() or "/" in str(label) or str(label).startswith("."):
        raise ValueError(f"the label is {str(label)[:80]!r}, expected a class's name: 1 to {MAX_LABEL} characters, without /")
