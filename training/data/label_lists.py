"""Lists of photos and labels: a CSV as spreadsheets and data sets have it, with the columns path,label and perhaps split.

Any of the usual encodings, separators and names of columns; what is wrong with a row is said with its line, and good rows count.
"""

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from scripts.folders import files_below, leftover
from training.data.layouts import Layout
from training.data.photo_folders import PhotoFolder
from training.data.split_names import TRAIN, split_name

# names of columns in the order of preference; case, spaces, _ and a plural's s do not count
COLUMNS = {
    "path": "path file_path image_path photo_path file file_name image image_file image_name photo photo_name picture img img_path "
    "img_name image_id id name",
    "label": "label label_name class class_name category category_name title target tag species",
    "split": "split set data_set subset usage partition fold",
}
LIST_SUFFIXES = (".csv", ".tsv")
SEPARATORS = ",;\t|"
SHOWN = 10  # so many bad rows are named


@dataclass(frozen=True)
class Row:
    """A photo's row: its line in the list, where the photo should be, its label and split ("" if the list has none)."""

    line: int
    path: Path
    label: str
    split: str


@dataclass
class LabelList:
    """The good rows of a list, and what is wrong with the others: "line 7: no label"."""

    rows: list[Row]
    problems: list[str] = field(default_factory=list)

    def remark(self, path: Path) -> str:
        """The problems for people; "" if there are none."""
        if not self.problems:
            return ""
        more = f"; and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
        problems = sorted(self.problems, key=lambda problem: int("".join(re.findall(r"^lines? (\d+)", problem))))
        rows = f"{len(self.problems)} row{'s' * (len(self.problems) > 1)}"
        return f"{path}: {rows} not taken: {'; '.join(problems[:SHOWN])}{more}"


def is_label_list(path: Path) -> bool:
    """Whether a CSV has columns of photos and labels."""
    try:
        text = decoded(path)
        return _columns(_header(text)[1]) is not None
    except ValueError:
        return False


def find_listed(tree: PhotoFolder) -> Layout | None:
    """The layout of a data set whose labels are in lists in its first folder: labels.csv, or train.csv and test.csv ...

    None if there is no list. ValueError if a list gives less than two classes.
    """
    while not (lists := _lists(tree.path)):
        if len(inner := tree.with_photos()) != 1:
            return None
        tree = inner[0]
    layout = Layout(" and ".join(path.name for path in lists), {}, None)
    photos = set(tree.all_photos())
    for path in lists:
        found, name = read_label_list(path), split_name(path.stem)
        for row in _usable(found, photos):
            classes = layout.splits.setdefault(row.split or (name.role if name else ""), {})
            classes.setdefault(row.label, []).append(row.path)
        layout.remarks += filter(None, [found.remark(path)])
    _check_listed(layout, tree.path)
    return layout


def _lists(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in LIST_SUFFIXES and not leftover(path.name))
    return [path for path in paths if path.is_file() and is_label_list(path)]


def _usable(found: LabelList, photos: set[Path]) -> list[Row]:
    """The rows of photos that are there and under one label."""
    times = Counter(row.path for row in found.rows)
    missing = [row for row in found.rows if row.path not in photos]
    found.problems += [f"line {row.line}: no photo {row.path}: paths are relative to the list's folder" for row in missing]
    return [row for row in found.rows if row.path in photos and times[row.path] == 1]


def _check_listed(layout: Layout, root: Path) -> None:
    if "" in layout.splits and len(layout.splits) > 1:  # a list with a split in some rows alone
        for label, paths in layout.splits.pop("").items():
            layout.splits.setdefault(TRAIN, {}).setdefault(label, []).extend(paths)
    if set(layout.splits) == {TRAIN}:
        layout.splits = {"": layout.splits[TRAIN]}
    train = layout.splits.get(TRAIN) or layout.splits.get("") or {}
    if len(train) < 2:
        problem = f"{layout.name} in {root} lists photos of {len(train)} classes to train on, expected at least 2"
        raise ValueError("; ".join([problem, *layout.remarks]))
    for split, classes in layout.splits.items():
        for label in sorted(set(classes) - set(train)):
            layout.remarks.append(f"left out {len(classes.pop(label))} photos of {split}: train has no class {label!r}")


def read_label_list(path: Path) -> LabelList:
    """The rows of a list; photos that do not exist stay in it. ValueError if it has no columns of photos and labels."""
    text = decoded(path)
    separator, header = _header(text)
    body, first_line = _body(text)
    columns = _columns(header)
    if columns is None:
        raise ValueError(
            f"{path} has the columns {header}, expected path,label: name them so in its first line (file, image, photo ... and "
            "class, category ... are understood, too)"
        )
    found, files = LabelList([]), _Files(path)
    lines_of: dict[Path, list[Row]] = defaultdict(list)
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        next(reader)
        for cells in reader:
            line = first_line + reader.line_num - 1
            if row := _row([cell.strip() for cell in cells], columns, len(header), line, files, found.problems):
                lines_of[row.path].append(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {first_line + reader.line_num - 1}: {error}: save it as CSV again") from error
    for rows in lines_of.values():
        _add(rows, found)
    found.rows.sort(key=lambda row: row.line)
    return found


def _row(
    cells: list[str], columns: tuple[int, int, int | None], expected: int, line: int, files: "_Files", problems: list[str]
) -> Row | None:
    """The row of these cells; None, and why in `problems`, for a bad one, and for an empty line."""
    if not any(cells):
        return None
    while len(cells) > expected and not cells[-1]:  # spreadsheets end lines with separators
        cells = cells[:-1]
    if len(cells) != expected:
        quote = ': text with a separator in it needs quotes (")' if len(cells) > expected else ""
        problems.append(f"line {line}: {len(cells)} columns, expected {expected}{quote}")
        return None
    name, label = (cells[column] for column in columns[:2])
    split = cells[columns[2]] if columns[2] is not None else ""
    role = split_name(split) if split else None
    if not name or not label:
        problems.append(f"line {line}: no {'label' if name else 'path'}: fill it in, or remove the row")
        return None
    if split and role is None:
        problems.append(f"line {line}: the split is {split!r}, expected train, val or test")
        return None
    return Row(line, files.find(name), unicodedata.normalize("NFC", label), role.role if role else "")


def _add(rows: list[Row], found: LabelList) -> None:
    """Add the rows of one photo: once, however often it is listed; not at all if the labels or splits differ."""
    first = rows[0]
    if other := next((row for row in rows if (row.label, row.split) != (first.label, first.split)), None):
        values = [" in ".join(filter(None, (row.label, row.split))) for row in (first, other)]
        # given on: ingest lists each of them with the reason
        found.rows += list({(row.label, row.split): row for row in reversed(rows)}.values())
        found.problems.append(
            f"lines {first.line} and {other.line}: {first.path.name} is {values[0]!r} and {values[1]!r}: keep one of the rows"
        )
    else:
        found.rows.append(first)


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or, if it is neither, Windows' Western European code page (cp1252)."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content[:200]:  # UTF-16 without its mark: every other byte of Western text is 0
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _body(text: str) -> tuple[str, int]:
    """The text from its header on, and the header's line: Excel's `sep=;` and empty lines may stand before it."""
    lines = text.splitlines(keepends=True)
    skipped = next((i for i, line in enumerate(lines) if line.strip() and not re.match(r"sep=.\s*$", line)), 0)
    return "".join(lines[skipped:]), skipped + 1


def _header(text: str) -> tuple[str, list[str]]:
    """(separator, names of columns): the separator with which both columns are found, else the one that gives most columns."""
    body, _ = _body(text)
    first_line = next(iter(body.splitlines()), "")
    headers = [(separator, next(csv.reader([first_line], delimiter=separator), [])) for separator in SEPARATORS]
    separator, header = max(headers, key=lambda found: (_columns(found[1]) is not None, len(found[1])))
    return separator, [name.strip() for name in header]


def _columns(header: list[str]) -> tuple[int, int, int | None] | None:
    """The columns of path, label and split (None if there is none) in a header; None without the first two."""
    names = {_plain(name): column for column, name in reversed(list(enumerate(header)))}
    known = ((names[_plain(name)] for name in known.split() if _plain(name) in names) for known in COLUMNS.values())
    path, label, split = (next(columns, None) for columns in known)
    return None if path is None or label is None else (path, label, split)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]+", "", name.casefold()).rstrip("s")


class _Files:
    """Where the photos are that a list names: relative to its folder, or to that of its name (train/ of train.csv), or anywhere
    below where one file alone fits."""

    def __init__(self, path: Path) -> None:
        self.folder, self.own = path.parent, path.stem
        self.by_name: dict[str, set[Path]] | None = None

    def find(self, name: str) -> Path:
        """The photo of that name; the path as it is written if there is none."""
        exact = self.folder / name
        slashed = self.folder / name.replace("\\", "/")
        for path in (exact, slashed):
            if path.is_file():
                return path
        key = _key(name.replace("\\", "/"))
        keys = (key, _key(f"{self.own}/{key}"), key.rpartition("/")[2])
        found = next((files for one in keys if len(files := self._index().get(one, set())) == 1), set())
        return next(iter(found)) if len(found) == 1 else slashed

    def _index(self) -> dict[str, set[Path]]:
        """Files by path, by name, and by name without suffix: without case, and composed (NFC)."""
        if self.by_name is None:
            self.by_name = defaultdict(set)
            for path in files_below(self.folder, Counter()):
                relative = path.relative_to(self.folder)
                for name in (relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem):
                    self.by_name[_key(name)].add(path)
        return self.by_name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().removeprefix("./")
