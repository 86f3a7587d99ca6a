"""The labelled photos that someone gives to `make ingest`: a folder of class folders, or a CSV."""

import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

from scripts.class_names import class_problem
from scripts.folders import files_below, not_taken, read_folder
from training.data.foreign import foreign
from training.data.label_lists import LIST_SUFFIXES, read_label_list
from training.data.list_columns import is_label
from training.data.list_text import read_text
from training.data.photo_names import PhotoNames
from training.data.selection import GivenPhoto


def read_given(source: Path, reviewed: bool = False) -> list[GivenPhoto]:
    """The labelled photos in a folder or a CSV; what is passed over is said on stderr.

    `reviewed`: a list may have no row yet, and a row without a label says that its photo is of none of the classes.
    ValueError if it is neither, holds no photo, or a folder cannot be a class's.
    """
    if reviewed and _has_no_row(source):
        return []
    if source.is_dir():
        given, remark = _in_class_folders(source)
    elif source.suffix.lower() in LIST_SUFFIXES and source.is_file():
        given, remark = _in_list(source, reviewed)
    else:
        kind = foreign(source) if source.is_file() else None
        instead = f": it is {kind[0]}: {kind[1]}" if kind else ""
        raise ValueError(f"{source} is neither a folder of class folders nor a CSV with the columns path,label{instead}")
    if not given:
        raise ValueError(_nothing_in(source) if source.is_dir() else f"{source} has no good row: {remark}")
    if remark:
        print(remark, file=sys.stderr)
    return given


def _has_no_row(source: Path) -> bool:
    """Whether it is a list with a header and nothing else."""
    if source.suffix.lower() not in LIST_SUFFIXES or not source.is_file():
        return False
    lines = [line for line in read_text(source).text.splitlines() if line.strip()]
    return len(lines) == 1 and any(is_label(cell.strip(" \"'")) for cell in re.split(r"[,;\t|]", lines[0]))


def _nothing_in(source: Path) -> str:
    """What to tell people about a folder without photos in class folders."""
    lists = sorted(path for path in source.rglob("*") if path.suffix.lower() in LIST_SUFFIXES and path.is_file())
    return f"{source} holds no photo in a class folder" + (f": give its list instead (FROM={lists[0]})" if lists else "")


def _in_list(source: Path, reviewed: bool) -> tuple[list[GivenPhoto], str]:
    files = (path for path in files_below(source.parent, Counter()) if path.suffix.lower() not in LIST_SUFFIXES)
    found = read_label_list(source, PhotoNames(files, elsewhere=True))
    rows = list(found.rows)
    if reviewed:
        rows = sorted([*rows, *found.unlabelled], key=lambda row: row.line)
        taken = {row.line for row in found.unlabelled}
        found.problems[:] = [one for one in found.problems if not any(one.startswith(f"line {line}:") for line in taken)]
    given: dict[GivenPhoto, None] = {}  # once, in whatever splits the list has it; those not there are refused later, by name
    for row in rows:
        photo = GivenPhoto(row.path, row.label, f"{source}, line {row.line}")
        try:
            if photo.label:
                check_label(photo)
            given[photo] = None
        except ValueError as error:
            found.problems.append(f"line {row.line}: {error}")
    return list(given), "\n".join(found.said())


def check_label(photo: GivenPhoto) -> None:
    """ValueError for a label that cannot be the name of a class folder, or is that of a split."""
    if problem := class_problem(photo.label):
        raise ValueError(f"{photo.path} has the label {photo.label!r}, expected the name of a class: {problem}")


def _in_class_folders(source: Path) -> tuple[list[GivenPhoto], str]:
    passed: Counter[str] = Counter()
    tree = read_folder(source, passed)
    beside = len(tree.files)
    # one folder inside another, as unpacked archives are
    while len(tree.folders) == 1 and not tree.folders[0].files and len(tree.folders[0].folders) > 1:
        tree = tree.folders[0]
    given = [
        GivenPhoto(path, unicodedata.normalize("NFC", folder.path.name))
        for folder in tree.folders
        for path in sorted(folder.all_files())
    ]
    for photo in given:
        check_label(photo)
    passed = Counter({"beside the class folders": beside}) + passed
    return given, not_taken(source, passed)
