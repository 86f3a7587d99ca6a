"""Rows of a list, from its text or from Parquet.

Of a text, separator, quotes and header are found; a quote that is not closed spoils its own line alone.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SEPARATORS = ",;\t|"
SAMPLED = 50  # lines by which the separator is found
JOINED = 50  # lines that a cell with line breaks may take
PAIRED = {'"': '"', "'": "'", "“": "”", "\u2018": "\u2019", "„": "“", "«": "»"}

IsPhoto = Callable[[str], object]


@dataclass
class Table:
    """The rows below the header, each with its line (from 1); `header` is None where the first row is a photo's."""

    header: list[str] | None
    rows: list[tuple[int, list[str]]]
    problems: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Number of columns."""
        if self.header is not None:
            return len(self.header)
        widths = Counter(len(cells) for _, cells in self.rows)
        return max(widths, key=widths.__getitem__)


def read_table(text: str, is_photo: IsPhoto, is_label: Callable[[str], bool]) -> Table:
    """A text's table, empty if no line has two columns. `is_photo` tells names of photos, `is_label` headers of labels."""
    lines = [line.rstrip("\r\n") + "\n" for line in io.StringIO(text, newline="")]
    if _quoted_whole(lines):
        lines = [f"{cells[0]}\n" if (cells := next(csv.reader([line]), [])) else line for line in lines]
    reader = _Reader(lines, is_photo)
    table = Table(None, list(reader.rows()), reader.problems)
    first = top = table.rows[0][1] if table.rows else []
    while table.rows:
        first = table.rows[0][1]
        # titles and comments stand before it: Excel's `sep=;`, the name of a table
        if len([cell for cell in first if cell]) > 1 and not _is_comment(first, is_label):
            break
        del table.rows[0]
    if not table.rows:
        table.header = top
    elif any(map(is_label, first)) or not any(map(is_photo, first)):
        table.header = _trimmed([name.lstrip("#").strip() for name in first], 2)
        del table.rows[0]
    if table.rows:
        width = table.width
        table.rows = [(line, _trimmed(cells, width)) for line, cells in table.rows]
    return table


def read_parquet(path: Path) -> Table:
    """The table of a Parquet file, as text; its lines are those of a CSV of the same rows. ValueError if it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"is no Parquet file: {error}") from error
    # columns of bytes and lists are a photo's, or none of ours
    plain = [field.name for field in content.schema if not pyarrow.types.is_nested(field.type) and not _is_bytes(field.type)]
    rows = content.select(plain).to_pylist()
    cells = (["" if row[name] is None else str(row[name]).strip() for name in plain] for row in rows)
    return Table(plain, list(enumerate(cells, 2)))


def _is_bytes(kind: object) -> bool:
    return "binary" in str(kind)


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Cells without empty ones at the end beyond this width: spreadsheets end lines with separators."""
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return cells


def _is_comment(cells: list[str], is_label: Callable[[str], bool]) -> bool:
    return cells[0].startswith("#") and not any(map(is_label, cells))


def _quoted_whole(lines: list[str]) -> bool:
    """Whether each line is one quoted cell, as after two exports: "a.jpg,pie"."""
    filled = [line.strip() for line in lines if line.strip()][:SAMPLED]
    return bool(filled) and all(re.fullmatch(r'"[^"]*[,;\t|][^"]*"', line) for line in filled)


def unquoted(cell: str) -> str:
    """A cell without a pair of quotes that no CSV reader takes for such: 'pie', “pie”."""
    cell = cell.strip()
    return cell[1:-1].strip() if len(cell) > 2 and PAIRED.get(cell[0]) == cell[-1] else cell


class _Reader:
    def __init__(self, lines: list[str], is_photo: IsPhoto) -> None:
        self.lines, self.is_photo = lines, is_photo
        self.problems: list[str] = []
        first = next((line for line in lines if line.strip()), "")
        explicit = re.match(r"sep=(.)\s*$", first)
        self.quote = "'" if first.startswith("'") else '"'
        self.separator = explicit[1] if explicit else max(SEPARATORS, key=self._fit)
        self.width = 0  # columns of the first row

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of each row with text; others are in `problems`."""
        number = 0
        while number < len(self.lines):
            line, (cells, number) = number + 1, self._row(number)
            if cells is None:
                self.problems.append(f'line {line}: a quote (") that is not closed, or stands within text: remove it, or write ""')
            elif any(cells):
                self.width = self.width or (len(cells) if len(cells) > 1 else 0)
                yield line, [unquoted(cell) for cell in cells]

    def _row(self, number: int) -> tuple[list[str] | None, int]:
        """The cells of the row that begins at a line, None if its quotes are wrong; and where the next begins."""
        for end in range(number + 1, min(number + JOINED, len(self.lines)) + 1):
            try:
                cells = self._cells(self.lines[number:end])
            except csv.Error as error:
                if "end of data" in str(error):  # within quotes: the cell may go on in the next line
                    continue
                break
            if end == number + 1 or not self._swallowed(cells):
                return cells, end
            break
        return None, number + 1

    def _swallowed(self, cells: list[str]) -> bool:
        """Whether a cell with line breaks holds rows: it is then no cell, but began with a stray quote."""
        if self.width and len(cells) != self.width:
            return True
        inner = [self._split(line) for cell in cells for line in cell.splitlines()[1:]]
        return any(len(row) == (self.width or len(row)) and any(map(self.is_photo, row)) for row in inner)

    def _cells(self, lines: list[str]) -> list[str]:
        escaped = [line.replace('\\"', '""') for line in lines]
        rows = csv.reader(escaped, delimiter=self.separator, quotechar=self.quote, skipinitialspace=True, strict=True)
        return next(rows, [])

    def _split(self, line: str) -> list[str]:
        return [cell.strip().strip('"') for cell in line.split(self.separator)]

    def _fit(self, separator: str) -> tuple[int, int, int]:
        """How well a separator fits: lines with a photo's name, lines of the usual number of columns, that number."""
        filled = [line for line in self.lines if line.strip()][:SAMPLED]
        rows = [[unquoted(cell).strip('"') for cell in line.split(separator)] for line in filled]
        if not rows:
            return 0, 0, 0
        width, lines = Counter(map(len, rows)).most_common(1)[0]
        photos = sum(any(map(self.is_photo, row)) for row in rows if len(row) > 1)
        return photos, lines if width > 1 else 0, width
