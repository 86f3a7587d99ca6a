"""Lists of photos: a path or an s3:// address a line (.txt), or in a column (.csv). Paths are relative to the list's folder."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from scripts.predict.bucket import SCHEME, stored
from scripts.predict.photo import LocalPhoto, Photo

SUFFIXES = (".txt", ".csv", ".tsv")
COLUMNS = ("path", "photo", "file", "filename", "image")
QUOTES = "\"'"
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def listed_photos(path: Path) -> Iterator[Photo]:
    """The photos of a list, in its order. ValueError for a table without a column of photos, OSError."""
    cells = _lines(path) if path.suffix.lower() == ".txt" else _column(path)
    for text in cells:
        if (photo := _photo(text, path.parent)) is not None:
            yield photo


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        encoding = BOMS.get(file.read(2), "utf-8-sig")
    # names of files may be in no encoding at all; only \n ends a line, as others may stand in a name
    return path.open(encoding=encoding, errors="surrogateescape", newline="\n")


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as file:
        for line in file:
            if text := line.removesuffix("\n").removesuffix("\r"):
                yield text


def _column(path: Path) -> Iterator[str]:
    with _open(path) as file:
        head = file.readline()
        file.seek(0)
        separator = max(",;\t", key=head.count)
        rows = csv.reader(file, delimiter=separator)
        header = [name.strip().lower() for name in next(rows, [])]
        name = next((name for name in COLUMNS if name in header), None)
        if name is None:
            raise ValueError(f"{path} has the columns {', '.join(header) or 'none'}: expected one named {' or '.join(COLUMNS)}")
        column = header.index(name)
        for row in rows:
            if len(row) > column and row[column]:
                yield row[column]


def _photo(text: str, folder: Path) -> Photo | None:
    """What a line names; None for a blank one or a comment. A name is taken as it stands if there is such a file."""
    bare = text.strip()
    unquoted = bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in QUOTES else bare
    if unquoted.startswith(SCHEME):
        try:
            return stored(unquoted)
        except ValueError:  # no bucket, or no key: a row that says so
            return LocalPhoto(Path(unquoted))
    for name in (text, bare, unquoted):
        if name and "\0" not in name and os.path.lexists(folder / name):
            return LocalPhoto(folder / name)
    return LocalPhoto(folder / unquoted) if unquoted and not bare.startswith("#") else None
