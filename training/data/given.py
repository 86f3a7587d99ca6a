"""The labelled photos that someone gives to `make ingest`: a folder of class folders, or a CSV."""

import sys
import unicodedata
from collections import Counter
from pathlib import Path

from scripts.folders import leftover, not_taken, read_folder
from training.data.label_lists import LIST_SUFFIXES, read_label_list
from training.data.selection import GivenPhoto
from training.data.split_names import split_name


def read_given(source: Path) -> list[GivenPhoto]:
    """The labelled photos in a folder or a CSV; what is passed over is said on stderr.

    ValueError if it is neither, or a label cannot be a folder's name.
    """
    if source.is_dir():
        given, remark = _in_class_folders(source)
    elif source.suffix.lower() in LIST_SUFFIXES and source.is_file():
        listed_photos = read_label_list(source)
        given = [GivenPhoto(row.path, row.label) for row in listed_photos.rows]
        remark = listed_photos.remark(source)
    else:
        raise ValueError(f"{source} is neither a folder of class folders nor a CSV with the columns path,label")
    for photo in given:
        check_label(photo)
    if remark:
        print(remark, file=sys.stderr)
    if not given:
        raise ValueError(f"{source} holds no photo in a class folder" if source.is_dir() else f"{source} has no good row")
    return given


def check_label(photo: GivenPhoto) -> None:
    """ValueError for a label that cannot be the name of a class folder, or is that of a split."""
    label = photo.label
    split = split_name(label)
    if split and not split.rest:
        raise ValueError(
            f"{photo.path} has the label {label!r}, expected the name of a class: {label!r} is that of a split. Give a split's "
            f"class folders (FROM=.../{label}), or rename the class ({label}_class)"
        )
    if label != Path(label).name or leftover(label) or not label.isprintable():
        raise ValueError(f"{photo.path} has the label {label!r}, expected the name of a class, which can be that of a folder")


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
    passed = Counter({"beside the class folders": beside}) + passed
    return given, not_taken(source, passed)
