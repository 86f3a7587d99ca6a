"""The layout of a folder: that of its class folders or, where these are none, that of lists in it."""

from collections.abc import Iterable

from scripts.phrases import counted, some
from training.data.extras import WeightError
from training.data.foreign import class_in_names, foreign_files, unused_splits
from training.data.layouts import Layout, find_layout
from training.data.listed import find_listed
from training.data.photo_folders import PhotoFolder


def layout_of(tree: PhotoFolder) -> Layout:
    """The layout of folders, or of lists where folders give none, or are no classes: images/ and masks/ beside labels.csv.

    ValueError if there is none, with what is there instead.
    """
    try:
        layout = find_layout(tree)
    except ValueError as error:
        listed, unread = find_listed(tree)
        if listed is None:
            hint = class_in_names(path.name for path in tree.all_photos())
            raise ValueError("; ".join(filter(None, [str(error), hint, *unread, *foreign_files(tree.path)]))) from error
        return listed
    if "" not in layout.splits:
        return layout
    try:
        listed, _ = find_listed(tree, guess=False)
    except WeightError:
        raise
    except ValueError:  # a list of something else
        listed = None
    if listed is None:
        layout.remarks += filter(None, [unused_splits(tree.path)])
        return layout
    if set(layout.labels) & set(listed.labels) and "" in listed.splits:
        layout.remarks += filter(None, [_disagreement(layout, listed)])
        layout.extras = listed.extras
        return layout
    listed.remarks.append(
        f"classes and splits are those of {listed.name}, not the folders {some(map(repr, sorted(layout.labels)))}"
    )
    return listed


def _disagreement(folders: Layout, listed: Layout) -> str:
    """What lists say otherwise than class folders; "" if nothing."""
    label_of = {path: label for label, paths in folders.splits[""].items() for path in paths}
    different = [path for label, paths in listed.splits[""].items() for path in paths if label_of.get(path, label) != label]
    if not different:
        return ""
    return f"{listed.name} has other classes for {counted(len(different), 'photo')} than their folders, " + (
        f"such as {different[0]}: the folders count"
    )


def check_names(labels: Iterable[str]) -> None:
    """ValueError for a class whose name cannot be written as text."""
    for label in labels:
        if not label.isprintable():  # bytes that are no UTF-8 become surrogates, which are not printable
            raise ValueError(f"the class {label!r} has a name that is no readable text (UTF-8): rename its folder")
