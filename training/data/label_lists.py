"""Lists of photos and labels: a CSV as spreadsheets and data sets have it, or Parquet, its rows read or refused with their lines.

list_text.py decodes it, list_table.py makes rows of it, list_columns.py finds the columns, photo_names.py the photos.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts.class_names import as_in_lists, cell_problem
from scripts.phrases import counted
from training.data.extras import NOTHING, Extras, WeightError, read_extras
from training.data.list_columns import YES, Columns, find_columns, is_label
from training.data.list_table import read_parquet, read_table
from training.data.list_text import GUESSED, ListText, encoded_twice, encoding_problem, looks_right, read_text
from training.data.photo_names import PhotoNames, looks_like_photo, slashed

PARQUET = ".parquet"
LIST_SUFFIXES = (".csv", ".tsv", PARQUET)
SHOWN = 10  # so many bad rows are named
MANY_SEVERAL = 0.1  # of a list's rows with several classes: it is one of several labels a photo


@dataclass(frozen=True)
class Row:
    """A photo's row: its list and line, where the photo should be, its label and split ("" if the list has none)."""

    list: Path
    line: int
    path: Path
    label: str
    split: str
    there: bool = True
    extras: Extras = NOTHING

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.list.name}, line {self.line}"


@dataclass
class LabelList:
    """The good rows of a list, and what is wrong with the others: "line 7: no label". `sure`: see Columns.

    `no_weights` is what is wrong with weights; `repeated` are photos of which rows say different things, beside their labels.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    sure: bool = True
    no_weights: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unlabelled: list[Row] = field(default_factory=list)  # of photos that are there; each is a problem, too

    def check_weights(self) -> None:
        """WeightError if a photo's weight is none."""
        if self.no_weights:
            raise WeightError(f"{self.path}: {_some_lines(self.no_weights)}")

    def said(self) -> list[str]:
        """The remarks and problems for people."""
        remarks = [f"{self.path}: {remark}" for remark in self.remarks]
        if not self.problems:
            return remarks
        problems = sorted(self.problems, key=_line)  # ingest adds some
        return [*remarks, f"{self.path}: {counted(len(problems), 'row')} not taken: {_some_lines(problems)}"]


def _some_lines(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{'; '.join(problems[:SHOWN])}{more}"


def read_label_list(path: Path, names: PhotoNames) -> LabelList:
    """The rows of a list; those of photos that do not exist stay in it, not `there`. ValueError if it cannot be read as one."""
    is_parquet = path.suffix.lower() == PARQUET
    text = ListText("") if is_parquet else read_text(path)
    try:
        if is_parquet:
            table = read_parquet(path)
        else:
            table = read_table(text.text, lambda cell: names.match(cell) or looks_like_photo(cell), is_label)
        columns = find_columns(table, names)
        found = LabelList(path, problems=table.problems, remarks=columns.remarks, sure=columns.sure)
        header = table.header or [""] * table.width
        good = [(line, cells) for line, cells in table.rows if _is_whole(line, cells, len(header), found.problems)]
        labels = _one_hot_labels(good, columns, header, found) if columns.classes else None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    lines = [line for line, _ in good]
    written = [cells[columns.photo] for _, cells in good]
    labels = labels or [cells[columns.label] for _, cells in good if columns.label is not None]
    if text.guessed:
        _check_guess(found, lines, written, labels)
    rows = defaultdict(list)
    for (line, cells), name, label, photo in zip(good, written, labels, names.find(written, path), strict=True):
        if row := _row(found, line, name, label, _role(cells, columns, line, found), photo):
            rows[row.path].append(_with_extras(row, cells, columns, found))
    for of_photo in rows.values():
        _add(of_photo, found)
    if found.repeated:
        found.remarks.append(f"several rows of a photo differ, the first counts: {_some_lines(found.repeated)}")
    if several := _composed({row.label for row in found.rows}):
        found.remarks.append(f"{several!r} looks like several labels, and is a class of its own: one label a photo is supported")
    found.rows.sort(key=lambda row: row.line)
    found.problems.sort(key=_line)
    return found


def _composed(labels: set[str]) -> str:
    """A label that is made of others ("rust scab", "cat|dog", "['cat']"); "" if none is."""
    for label in sorted(labels):
        parts = [part for part in re.split(r"[|;,]\s*|\s+", label) if part]
        if (len(parts) > 1 and labels.issuperset(parts)) or re.fullmatch(r"\[.*\]", label):
            return label
    return ""


def _line(problem: str) -> int:
    return int("".join(re.findall(r"^lines? (\d+)", problem)))


def _is_whole(line: int, cells: list[str], expected: int, problems: list[str]) -> bool:
    if len(cells) != expected:
        quote = ': text with a separator in it needs quotes (")' if len(cells) > expected else ""
        problems.append(f"line {line}: {counted(len(cells), 'column')}, expected {expected}{quote}")
    return len(cells) == expected


def _one_hot_labels(rows: list[tuple[int, list[str]]], columns: Columns, header: Sequence[str], found: LabelList) -> list[str]:
    """The class of each row of a one-hot list; rows with none, or several, are taken out. ValueError if many have several."""
    marked = [[header[i] for i in columns.classes if cells[i].casefold() in YES] for _, cells in rows]
    several = [(line, classes) for (line, _), classes in zip(rows, marked, strict=True) if len(classes) > 1]
    if len(several) > MANY_SEVERAL * len(rows):
        line, classes = several[0]
        raise ValueError(
            f"marks several classes a photo (line {line}: {', '.join(classes)}; {len(several)} of {counted(len(rows), 'row')}): "
            "photos with several labels are not supported, write one in a column label"
        )
    found.problems += [f"line {line}: several classes: {', '.join(classes)}: mark one" for line, classes in several]
    found.problems += [f"line {line}: no class is marked" for (line, _), classes in zip(rows, marked, strict=True) if not classes]
    rows[:] = [row for row, classes in zip(rows, marked, strict=True) if len(classes) == 1]
    return [classes[0] for classes in marked if len(classes) == 1]


def _check_guess(found: LabelList, lines: list[int], names: list[str], labels: list[str]) -> None:
    """Say that the encoding is a guess, with an example. ValueError if names or labels do not look right."""
    wrong = [line for line, *texts in zip(lines, names, labels, strict=True) if not all(map(looks_right, texts))]
    if wrong:
        raise ValueError(encoding_problem(found.path, wrong[0]))
    if example := next((text for text in [*labels, *names] if not text.isascii()), None):
        found.remarks.append(
            f"not in UTF-8, read as Windows' Western European ({GUESSED}), such as {example!r}: if that is wrong, save it as UTF-8"
        )


def _role(cells: list[str], columns: Columns, line: int, found: LabelList) -> str | None:
    """The split of a row, "" if there is none; None, and said, if it is not known."""
    if columns.split is None:
        return ""
    role = columns.split.of(cells[columns.split.column])
    if role is None:
        found.problems.append(f"line {line}: the split is {cells[columns.split.column]!r}, expected train, val or test")
    return role


def _row(found: LabelList, line: int, name: str, label: str, role: str | None, photo: Path | str) -> Row | None:
    """The row; None, and why in the list's problems, for a bad one."""
    if role is None:
        return None
    label = as_in_lists(label)
    if problem := _problem(name, label):
        found.problems.append(f"line {line}: {problem}")
        if not label and isinstance(photo, Path):
            found.unlabelled.append(Row(found.path, line, photo, label, role))
        return None
    if before := encoded_twice(label):
        found.remarks.append(f"line {line}: the label {label!r} was {before!r} once: read as UTF-8, the list would have it so")
    if isinstance(photo, Path):
        return Row(found.path, line, photo, label, role)
    found.problems.append(f"line {line}: {photo}")
    return Row(found.path, line, found.path.parent / slashed(name), label, role, there=False)


def _with_extras(row: Row, cells: list[str], columns: Columns, found: LabelList) -> Row:
    """The row with what it says beside the label; a weight that is none is noted, if the photo is there."""
    if not columns.extras or not row.there:
        return row
    try:
        return replace(row, extras=read_extras(cells, columns.extras))
    except ValueError as error:
        found.no_weights.append(f"line {row.line}: {error}")
        return row


def _problem(name: str, label: str) -> str:
    """What is wrong with a row's name or label, and the remedy; "" if nothing is."""
    if not name:
        return "no path: fill it in, or remove the row"
    if "\ufffd" in name:
        return f"{name!r} has lost a letter (U+FFFD): save the list as UTF-8 from where it comes"
    if "\n" in name:
        return f"a line break in {name!r}: remove it; is a quote not closed?"
    return cell_problem(label)


def _add(rows: list[Row], found: LabelList) -> None:
    """Add the rows of one photo: once for each split, however often it is listed; all of its labels, and said, if they differ."""
    alike = len({row.label for row in rows}) == 1
    # conflicts are given on: ingest lists each of them with the reason, or takes the last
    different = {(row.label, row.split): row for row in (reversed(rows) if alike else rows)}
    found.rows += different.values()
    first = rows[0]
    if alike and (differs := next((row for row in rows if row.extras != first.extras), None)):
        found.repeated.append(f"lines {first.line} and {differs.line}: {first.path.name}")
    if other := next((row for row in rows if row.label != first.label), None):
        values = [" in ".join(filter(None, (row.label, row.split))) for row in (first, other)]
        found.problems.append(
            f"lines {first.line} and {other.line}: {first.path.name} is {values[0]!r} and {values[1]!r}: keep one of the rows"
        )
