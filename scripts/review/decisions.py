"""What was decided: a journal with a line for each choice, and the CSV `path,label` for `make ingest` that follows from it.

The journal is on the disk before a choice counts, so that a kill loses nothing. The CSV grows by a row; it is written anew only
where a choice takes the place of another. Paths in both are relative to their folder.

The newest choice wins, also where a photo came in two batches, as files are named for their content (scripts/collection/batch.py):
the CSV has the one that was labelled, or called none of the classes, last. Of the latter, those that had a label before, which may
have been ingested, have a row with none.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from scripts.atomic import write_text
from scripts.class_names import as_in_lists, cell_problem, class_problem
from scripts.collection.batch import NAME_DIGITS
from scripts.review.answers import ReviewError

LABEL, NONE, SKIP, OPEN = KINDS = ("label", "none", "skip", "open")  # open: undone
OF_CONTENT = re.compile(rf"[0-9a-f]{{{NAME_DIGITS}}}\.\w+")


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
    """Those of all batches that write to one CSV. Safe to call from threads; one process at a time: alone()."""

    def __init__(self, table: Path) -> None:
        """Read what was decided before. ValueError for a journal that is none."""
        self.table, self.journal = table, table.with_suffix(".jsonl")
        table.parent.mkdir(parents=True, exist_ok=True)
        self.made: dict[str, Decision] = {}  # by path, the newest last
        self._lock = threading.RLock()
        self._labelled = set[str]()  # what has had a label at any time, by _key
        self._end = self._read()
        self._table_end = self._write_table()

    def of(self, photo: Path) -> Decision:
        """The photo's last one."""
        return self.made.get(self._path(photo), Decision(OPEN))

    def labels(self) -> set[str]:
        """All labels that were given."""
        with self._lock:
            return {decision.label for decision in self.made.values() if decision.label}

    def decide(self, photo: Path, decision: Decision) -> None:
        """Keep it. ValueError for one that cannot be, OSError with nothing decided."""
        self.decide_all([(photo, decision)])

    def decide_all(self, chosen: Sequence[tuple[Path, Decision]]) -> None:
        """Keep all of them, or none: see decide."""
        for _, decision in chosen:
            check(decision)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        made = [(self._path(photo), decision) for photo, decision in chosen]
        lines = [json.dumps({"path": path, "kind": one.kind, "label": one.label, "at": at}) + "\n" for path, one in made]
        with self._lock:
            before = dict(self.made) if len(made) > 1 else {path: self.made[path] for path, _ in made if path in self.made}
            end = self._append("".join(lines).encode())
            added = self._take(made)
            try:
                self._table_end = self._write_table() if added is None else self._append_rows(added)
            except OSError:
                self._take_back(made, before)
                raise
            self._end = end

    def _append(self, lines: bytes) -> int:
        """Where the journal ends then; `_end` is where it ends once they count."""
        with self.journal.open("ab") as file:
            file.truncate(self._end)  # what a kill or a full disk cut off
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        return self._end + len(lines)

    def _take(self, made: Sequence[tuple[str, Decision]]) -> list[tuple[str, str]] | None:
        """Let the decisions count. The rows that the CSV gets by them; None if others of it change."""
        rows, changes = [], False
        for path, decision in made:
            before = self.made.pop(path, Decision(OPEN))
            if decision.kind == LABEL:
                self._labelled.add(_key(path))
            changes |= before.kind == LABEL or (OF_CONTENT.fullmatch(_name(path)) is not None and _name(path) in self._names)
            self.made[path] = decision
            if decision.label is not None:
                rows.append((path, decision.label))
            if decision.kind in (LABEL, NONE):
                self._names.add(_name(path))
        return None if changes else rows

    def _take_back(self, made: Sequence[tuple[str, Decision]], before: dict[str, Decision]) -> None:
        """After a CSV that cannot be written: nothing was decided."""
        for path, _ in made:
            self.made.pop(path, None)
        self.made |= before
        for file, end in ((self.journal, self._end), (self.table, self._table_end)):
            with contextlib.suppress(OSError):  # cut off by the next choice, too
                os.truncate(file, end)

    def _append_rows(self, rows: Sequence[tuple[str, str]]) -> int:
        """Where the CSV ends then."""
        content = _as_csv(rows)
        with self.table.open("ab", buffering=0) as file:
            file.truncate(self._table_end)  # what a full disk cut off
            if rows and file.write(content) != len(content):
                raise OSError(28, os.strerror(28))
        return self._table_end + len(content)

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
                check(decision)
                self.made.pop(values["path"], None)
                self.made[values["path"]] = decision
                if decision.kind == LABEL:
                    self._labelled.add(_key(values["path"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.journal}, line {number} is no decision: {error}: move the file away to begin anew"
                ) from error
            end += len(line)
        return end

    def _write_table(self) -> int:
        """Write the CSV anew, the newest decision on each content; where it ends."""
        newest: dict[str, tuple[str, Decision]] = {}
        for path, decision in self.made.items():
            if decision.kind in (LABEL, NONE):
                newest.pop(_key(path), None)  # the newest choice is the last row, as lists of several batches are read in order
                newest[_key(path)] = path, decision
        rows = [(path, decision.label or "") for key, (path, decision) in newest.items() if decision.label or key in self._labelled]
        self._names = {_name(path) for path, decision in self.made.items() if decision.kind in (LABEL, NONE)}
        content = _as_csv([("path", "label"), *rows])
        write_text(self.table, content.decode())
        return len(content)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _key(path: str) -> str:
    """What stands for a photo in however many batches it came."""
    return _name(path) if OF_CONTENT.fullmatch(_name(path)) else path


def _as_csv(rows: Sequence[tuple[str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def check(decision: Decision) -> None:
    """ValueError for a decision that cannot be, or a label that make ingest would refuse."""
    if decision.kind not in KINDS:
        raise ValueError(f"the kind is {str(decision.kind)[:80]!r}, expected one of {', '.join(KINDS)}")
    label = decision.label
    if decision.kind != LABEL:
        if label is not None:
            raise ValueError(f"the label is {str(label)[:80]!r}, expected none with {decision.kind!r}")
        return
    if not isinstance(label, str) or label != label.strip() or label != as_in_lists(label):
        raise ValueError(f"the label is {str(label)[:80]!r}, expected a class's name, without spaces around it or two in a row")
    if problem := cell_problem(label) or class_problem(label):
        raise ValueError(f"the label is {label[:80]!r}, expected a class's name: {problem[:300]}")
