"""Lists of photos: a path or an s3:// address a line (.txt), or in a column (.csv). Paths are relative to the list's folder.

A table's column of texts is for models that read them (handler/text.py); others leave it out.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from scripts.folders import shown
from scripts.predict.bucket import SCHEME, StoredPhoto, stored
from scripts.predict.photo import LocalPhoto, NoPhoto, Photo

SUFFIXES = (".txt", ".csv", ".tsv")
COLUMNS = ("path", "photo", "file", "filename", "image")
TEXT_COLUMNS = ("text", "caption", "title")
QUOTES = "\"'"
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def listed_photos(path: Path) -> Iterator[Photo]:
    """The photos of a list, in its order. ValueError for a table without a column of photos or with an open quote, OSError."""
    cells = ((line, "") for line in _lines(path)) if path.suffix.lower() == ".txt" else _column(path)
    for cell, text in cells:
        if (photo := _photo(cell, path.parent)) is not None:
            yield replace(photo, text=text) if text else photo


def _open(path: Path, newline: str | None = None) -> TextIO:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if newline is None:  # only \n ends a line, as others may stand in a name; a file without any is an old Mac's
        newline = "\r" if b"\n" not in head and b"\r" in head else "\n"
    # names of files may be in no encoding at all
    return path.open(encoding=BOMS.get(head[:2], "utf-8-sig"), errors="surrogateescape", newline=newline)


def _lines(path: Path) -> Iterator[str]:
    with _open(path) as file:
        for line in file:
            if text := line.removesuffix("\n").removesuffix("\r"):
                yield text


def _column(path: Path) -> Iterator[tuple[str, str]]:
    with _open(path, newline="") as file:
        head = file.readline()
        file.seek(0)
        separator = max(",;\t", key=head.count)
        rows = csv.reader(file, delimiter=separator, strict=True)
        try:
            yield from _cells(path, rows)
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}: is a quote left open?") from error


def _cells(path: Path, rows: Iterator[list[str]]) -> Iterator[tuple[str, str]]:
    """The cells of photos, each with its text."""
    header = [name.strip().lower() for name in next(rows, [])]
    name = next((name for name in COLUMNS if name in header), None)
    if name is None:
        raise ValueError(f"{path} has the columns {', '.join(header) or 'none'}: expected one named {' or '.join(COLUMNS)}")
    column = header.index(name)
    beside = next((header.index(one) for one in TEXT_COLUMNS if one in header), None)
    for row in rows:
        if len(row) > column and row[column]:
            yield row[column], row[beside] if beside is not None and len(row) > beside else ""


def _photo(text: str, folder: Path) -> LocalPhoto | StoredPhoto | NoPhoto | None:
    """What a line names; None for a blank one or a comment. A name is taken as it stands if there is such a file."""
    bare = text.strip()
    unquoted = bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in QUOTES else bare
    if unquoted.startswith(SCHEME):
        try:
            return stored(unquoted)
        except ValueError as error:  # no bucket, or no key: a row that says so
            return NoPhoto(shown(unquoted), str(error))
    for name in (text, bare, unquoted):
        if name and "\0" not in name and os.path.lexists(folder / name):
            return LocalPhoto(folder / name)
    return LocalPhoto(folder / unquoted) if unquoted and not bare.startswith("#") else None
