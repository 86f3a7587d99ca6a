"""The layout of a data set whose labels are in lists: labels.csv, or train.csv and test.csv, or a list in each split's folder.

A photo in several lists counts once. If they disagree about its label it is left out, if about its split it is held out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from scripts.class_names import TEST, TRAIN, VAL, split_name
from scripts.folders import files_below
from scripts.phrases import counted, some
from training.data.extras import NOTHING
from training.data.label_lists import LIST_SUFFIXES, SHOWN, LabelList, Row, read_label_list
from training.data.layouts import Layout, alike_remark
from training.data.photo_folders import PhotoFolder
from training.data.photo_names import PhotoNames

# what a model has said, or an example of how to hand it in: no labels
GUESSES = re.compile(r"submission|predict|\bpreds?\b", re.IGNORECASE)


def find_listed(tree: PhotoFolder, guess: bool = True) -> tuple[Layout | None, list[str]]:
    """The layout that lists give, None if there is no list; and what is said of lists that cannot be read.

    Lists whose labels are not sure (see Columns) count only with `guess`.
    ValueError if the lists give less than two classes; WeightError if one that counts holds a weight that is none.
    """
    lists, unread = _read_lists(tree)
    lists = _used([found for found in lists if guess or found.sure], unread)
    if not lists:
        return None, unread
    root = tree.path
    layout = Layout(" and ".join(str(found.path.relative_to(root)) for found in lists), {}, None)
    for found in lists:
        found.check_weights()
        layout.remarks += found.said()
    layout.remarks += unread
    for row, split in _merged(lists, root, layout):
        layout.splits.setdefault(split, {}).setdefault(row.label, []).append(row.path)
    _check_listed(layout, root)
    return layout, []


def read_list(path: Path) -> Layout:
    """The layout that one list gives, of photos relative to its folder or anywhere on this machine.

    ValueError if it cannot be read, or gives less than two classes; if a weight is none; and if none of its photos is there.
    """
    if not path.is_file():
        raise ValueError(f"no list {path}")
    files = (file for file in files_below(path.parent, Counter()) if file.suffix.lower() not in LIST_SUFFIXES)
    found = read_label_list(path, PhotoNames(files, elsewhere=True))
    if not any(row.there for row in found.rows):
        raise ValueError("; ".join(found.said()) or f"{path} has no row")
    found.check_weights()
    layout = Layout(path.name, {}, None, found.said())
    for row, split in _merged([found], path.parent, layout):
        layout.splits.setdefault(split, {}).setdefault(row.label, []).append(row.path)
    _check_listed(layout, path.parent)
    return layout


def _read_lists(tree: PhotoFolder) -> tuple[list[LabelList], list[str]]:
    """The lists below a folder that name photos in it, and what is wrong with others."""
    paths = [path for path in files_below(tree.path, Counter()) if path.suffix.lower() in LIST_SUFFIXES]
    lists, unread = [], []
    names = PhotoNames(tree.all_photos()) if paths else None
    for path in paths:
        try:
            assert names is not None
            found = read_label_list(path, names)
        except ValueError as error:
            unread.append(str(error))
            continue
        if GUESSES.search(path.stem):
            unread.append(f"{path} is not used: by its name it holds predictions, or an example of them")
        elif any(row.there for row in found.rows):
            lists.append(found)
        else:
            unread += found.said() or [f"{path} names no photo that is here"]
    return lists, unread


def _used(lists: list[LabelList], unread: list[str]) -> list[LabelList]:
    """Those nearest to the first folder; of them those whose labels are sure, if there are such. Others are said."""
    nearest = min((len(found.path.parts) for found in lists), default=0)
    used = [found for found in lists if len(found.path.parts) == nearest]
    if any(found.sure for found in used):
        used = [found for found in used if found.sure]
    for found in lists:
        if found not in used:
            unread.append(f"{found.path} is not used: labels are taken from {used[0].path}")
    return used


def _merged(lists: list[LabelList], root: Path, layout: Layout) -> list[tuple[Row, str]]:
    """Each photo's row and split; what lists say beside goes into the layout, of several the first that says something.

    Conflicts between lists are remarked; those within one are among its problems already.
    """
    of_photo: dict[Path, list[tuple[Row, str]]] = defaultdict(list)
    for found in lists:
        split = _split_of(found.path, root)
        for row in found.rows:
            if row.there:
                of_photo[row.path].append((row, row.split or split))
    conflicts, leaks, merged = [], [], []
    for path, entries in of_photo.items():
        first, split = entries[0]
        other = next((entry for entry in entries if entry[0].label != first.label), None)
        splits = {split: row for row, split in reversed(entries) if split}
        if other:
            layout.left_out += 1
            if other[0].list != first.list or len(splits) > 1:
                conflicts.append(f"{path.name} is {first.label!r} in {first.where}, and {other[0].label!r} in {other[0].where}")
            continue
        if len(splits) > 1:
            places = " and ".join(f"{split} ({row.where})" for split, row in sorted(splits.items()))
            leaks.append(f"{path.name} is in {places}")
        if extras := next((row.extras for row, _ in entries if row.extras != NOTHING), None):
            layout.extras[path] = extras
        merged.append((first, next((role for role in (TEST, VAL, TRAIN) if role in splits), "")))
    _remark(layout.remarks, conflicts, "under different labels in lists, left out", "correct a list, or move an old one away")
    _remark(layout.remarks, leaks, "in several splits, not trained on", "correct the lists")
    return merged


def _remark(remarks: list[str], cases: list[str], what: str, remedy: str) -> None:
    if cases:
        more = f"; and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
        remarks.append(f"{counted(len(cases), 'photo')} {what}: {'; '.join(cases[:SHOWN])}{more}: {remedy}")


def _split_of(path: Path, root: Path) -> str:
    """The split that a list's name says, or else a folder that it is in; "" if none does."""
    places: Iterable[str] = (path.stem, *reversed(path.relative_to(root).parent.parts))
    return next((name.role for place in places if (name := split_name(place))), "")


def _check_listed(layout: Layout, root: Path) -> None:
    if "" in layout.splits and len(layout.splits) > 1:
        rest = layout.splits.pop("")
        layout.remarks.append(f"trained on without a split: {counted(sum(map(len, rest.values())), 'photo')} of {layout.name}")
        for label, paths in rest.items():
            layout.splits.setdefault(TRAIN, {}).setdefault(label, []).extend(paths)
    if set(layout.splits) == {TRAIN}:
        layout.splits = {"": layout.splits[TRAIN]}
    train = layout.splits.get(TRAIN) or layout.splits.get("") or {}
    if len(train) < 2:
        problem = f"{layout.name} in {root} lists photos of {counted(len(train), 'class')} to train on, expected at least 2"
        raise ValueError("; ".join([problem, *layout.remarks]))
    for split, classes in layout.splits.items():
        if unknown := sorted(set(classes) - set(train)):
            count = sum(len(classes.pop(label)) for label in unknown)
            layout.left_out += count
            layout.remarks.append(
                f"left out {counted(count, 'photo')} of {split}: train has no class {some(map(repr, sorted(unknown)))}"
            )
    layout.splits = {split: classes for split, classes in layout.splits.items() if classes}
    if set(layout.splits) == {TRAIN}:
        layout.splits = {"": train}
    layout.remarks += alike_remark(layout.labels)
