"""Which columns of a list are the photo, the label and the split: by their content first, a label's by its name.

The photo's column is the one whose values are names of photos. The label's has a usual name, or is the only other one with
text that repeats; or there is a column for each class with one 1 in each row (one-hot). What else a list says of a photo has
the names of extras.py.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.class_names import TEST, TRAIN, split_name
from scripts.phrases import counted, some
from training.data.extras import find_extras, is_extra
from training.data.list_table import Table
from training.data.photo_names import PhotoNames, looks_like_photo

# names of a label's column in the order of preference; case, spaces, _, digits and a plural's s do not count
LABELS = (
    *("label", "labelname", "class", "classname", "category", "categoryname", "target", "targetname", "tag"),
    *("breed", "variety", "cultivar", "species", "dish", "disease", "diagnosis", "dx", "title"),
    *("labelid", "classid", "categoryid", "classnumber", "labelnum"),
)
SPLITS = ("split", "set", "dataset", "subset", "usage", "partition", "fold", "phase")
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
NO_SPLIT = ("", "unassigned", "none", "nan")
MOSTLY = 0.5  # of a column's values


@dataclass(frozen=True)
class Split:
    """The column of splits: with their names, or with yes and no for the one that its header names (is_valid)."""

    column: int
    role: str = ""

    def of(self, cell: str) -> str | None:
        """The split that a cell says: "" for none, None if it is none that is known."""
        if self.role:
            no = TRAIN if self.role != TRAIN else TEST
            return self.role if cell.casefold() in YES else no if cell.casefold() in NO else None
        name = split_name(cell)
        return name.role if name else "" if cell.casefold() in NO_SPLIT else None


@dataclass
class Columns:
    """Columns by number: `classes` are those of a one-hot list, which has no `label`; `extras` by their names in extras.py.

    `sure`: the label's was known by name.
    """

    photo: int
    label: int | None = None
    classes: tuple[int, ...] = ()
    split: Split | None = None
    extras: dict[str, int] = field(default_factory=dict)
    sure: bool = True
    remarks: list[str] = field(default_factory=list)


def plain(name: str) -> str:
    """A column's name as LABELS has it."""
    return re.sub(r"[^a-z]+", "", name.casefold()).rstrip("s")


# as plain() writes them: class loses its last s
_LABELS = tuple(map(plain, LABELS))


def is_label(name: str) -> bool:
    """Whether a header is a usual name of a label's column."""
    return plain(name) in _LABELS


def find_columns(table: Table, names: PhotoNames) -> Columns:
    """The columns of a table. ValueError, with the columns and what was expected, if they cannot be told."""
    header = table.header or [""] * table.width
    width = table.width
    columns = list(zip(*(cells for _, cells in table.rows if len(cells) == width), strict=True))
    if not columns:
        raise ValueError(_expected(table, "no row of photos"))
    photo = _photo_column(header, columns, names)
    if photo is None:
        raise ValueError(_expected(table, "no column with names of photos that are here"))
    found, others = Columns(photo), [i for i in range(len(columns)) if i != photo]
    _find_label(found, header, columns, others, table)
    rest = [i for i in others if i != found.label and i not in found.classes]
    found.split = _split_column(header, columns, rest)
    for i in rest:
        if plain(header[i]) in SPLITS and (found.split is None or found.split.column != i):
            held = some(map(repr, sorted({*columns[i]} - {""})))
            found.remarks.append(f"the column {header[i]!r} holds {held}, no names of splits: it is not used")
    found.extras = find_extras([plain(name) for name in header], [i for i in rest if not found.split or i != found.split.column])
    if found.extras:
        taken = ", ".join(f"{header[i]!r} for its {extra}" for extra, i in found.extras.items())
        found.remarks.append(f"taken beside a photo's class: {taken}")
    return found


def _photo_column(header: Sequence[str], columns: list[tuple[str, ...]], names: PhotoNames) -> int | None:
    candidates = [i for i in range(len(columns)) if not is_label(header[i])]
    for fits in (names.match, looks_like_photo):
        scores = {i: sum(map(fits, columns[i])) for i in candidates}
        if any(scores.values()):  # of two alike, photos are the more various: labels repeat
            return max(candidates, key=lambda i: (scores[i], len(set(columns[i])), -i))
    return None


def _find_label(found: Columns, header: Sequence[str], columns: list[tuple[str, ...]], others: list[int], table: Table) -> None:
    named = sorted((i for i in others if is_label(header[i])), key=lambda i: _LABELS.index(plain(header[i])))
    # beside numbers of classes, their names
    texts = [i for i in named if not all(map(_is_number, columns[i]))]
    hot = [i for i in others if header[i] and set(map(str.casefold, columns[i])) <= {*YES, *NO}]
    hot = [i for i in hot if plain(header[i]) not in SPLITS and not _flag(header[i])]
    # a column of that name is a class if it alone marks a row
    rows = zip(*([cell.casefold() in YES for cell in columns[i]] for i in hot), strict=True)
    marked = {hot[row.index(True)] for row in rows if sum(row) == 1}
    hot = [i for i in hot if i in marked or not is_extra(plain(header[i]))]
    if named:
        found.label = (texts or named)[0]
        if len(texts) > 1:
            shown = " and ".join(repr(header[i]) for i in texts)
            found.remarks.append(f"of the columns {shown}, {header[found.label]!r} is taken for the class")
        if not texts and any(map(_is_number, columns[found.label])):
            found.remarks.append(f"its classes are the numbers in {header[found.label]!r}: put names there, if they have some")
    elif len(hot) > 1:
        found.classes = tuple(hot)
        return
    else:
        split = _split_column(header, columns, others)
        free = [i for i in others if _repeats(columns[i]) and (split is None or split.column != i)]
        guesses = [i for i in free if _is_text(columns[i]) or (table.header is None and len(others) == 1)]
        if len(guesses) > 1:
            guesses = [i for i in guesses if not is_extra(plain(header[i]))] or guesses
        if len(guesses) != 1:
            raise ValueError(_expected(table, "no column of labels" if not guesses else "several columns that may be the label's"))
        found.label, found.sure = guesses[0], table.header is None
        if table.header:
            found.remarks.append(f"the column {header[found.label]!r} is taken for the class, as it alone has text that repeats")
    values = columns[found.label]
    if len(values) >= 20 and not _repeats(values):
        raise ValueError(
            _expected(
                table, f"{counted(len(set(values)), 'different value')} of {header[found.label]!r} in {counted(len(values), 'row')}"
            )
        )


def _expected(table: Table, found: str) -> str:
    columns = table.header or (table.rows[0][1] if table.rows else [])
    return (
        f"has the columns {columns}, expected path,label: name them so in its first line (class, category, breed ... are "
        f"labels, too), with paths relative to the list's folder; found {found}"
    )


def _split_column(header: Sequence[str], columns: list[tuple[str, ...]], others: list[int]) -> Split | None:
    for i in others:
        values = set(columns[i]) - {""}
        known = {name.role for value in values if (name := split_name(value))}
        if (known and plain(header[i]) in SPLITS) or (len(known) > 1 and all(map(Split(i).of, columns[i]))):
            return Split(i)
        if values and set(map(str.casefold, values)) <= {*YES, *NO} and (role := _flag(header[i])):
            return Split(i, role)
    return None


def _flag(name: str) -> str:
    """The split that a header like is_valid names; "" if it is none."""
    found = split_name(name)
    return found.role if found and set(found.rest) <= {"is"} else ""


def _is_number(value: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d*[.,]?\d+(e[-+]?\d+)?%?|", value.casefold()))


def _is_text(values: Sequence[str]) -> bool:
    return sum(not _is_number(value) for value in values) > MOSTLY * len(values)


def _repeats(values: Sequence[str]) -> bool:
    """Whether most values are those of several rows: captions and names of files are not."""
    times = Counter(values)
    return sum(times[value] > 1 for value in values if value) > MOSTLY * len(values)
