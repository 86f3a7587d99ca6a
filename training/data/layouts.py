"""How people lay out a data set in folders: class folders, alone or below folders of splits, at any depth.

A split's folder is recognised by its name (scripts/class_names.py), and is never taken for a class.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from scripts.class_names import TEST, TRAIN, VAL, split_name
from scripts.folders import listed
from scripts.phrases import counted, some
from training.data.extras import Extras
from training.data.photo_folders import TEXT_SUFFIXES, PhotoFolder, kinds

MAX_WRAPPERS = 6  # folders in each other that hold one folder alone, as unpacked archives do

Classes = dict[str, list[Path]]  # photos by label
Folders = dict[str, list[PhotoFolder]]  # folders by label, or by split


@dataclass
class Layout:
    """What was found: photos by split ("" where the data set has none) and label.

    `class_folder` is where the class folders are that a new photo goes into, None if there is no such place; `remarks` are for
    people: what was left out and why; `left_out` is the number of photos that they count; `extras` is what lists say of photos.
    """

    name: str
    splits: dict[str, Classes]
    class_folder: Path | None
    remarks: list[str] = field(default_factory=list)
    left_out: int = 0
    extras: dict[Path, Extras] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that are trained on, sorted."""
        return tuple(sorted(self.splits[TRAIN if TRAIN in self.splits else ""]))


def find_layout(tree: PhotoFolder) -> Layout:
    """The layout of a data set's tree. ValueError if it is none, with what to change."""
    remarks: list[str] = []
    folder = _unwrapped(tree, remarks)
    inner = folder.with_photos()
    if splits := _split_folders(inner):
        layout = _of_splits(folder, splits, [other for other in inner if not any(other in of_role for of_role in splits.values())])
    elif _classes_hold_splits(inner):
        layout = _of_class_folders_with_splits(folder, inner)
    else:
        layout = Layout("class folders", {"": _photos(_class_folders(folder, remarks))}, folder.path)
        _remark_same_folders(inner, remarks)
    layout.remarks = remarks + alike_remark(layout.labels) + layout.remarks
    return layout


def _names(folders: Iterable[PhotoFolder]) -> str:
    return some(map(repr, sorted(folder.path.name for folder in folders)))


def _alike(labels: Iterable[str]) -> str:
    """Labels that differ by case, spaces, _ or - alone, for people; "" if there are none."""
    alike = defaultdict(set)
    for label in labels:
        alike[re.sub(r"[\s_-]+", "", label.casefold())].add(label)
    return "; ".join(" and ".join(map(repr, sorted(names))) for names in alike.values() if len(names) > 1)


def alike_remark(labels: Iterable[str]) -> list[str]:
    """A remark on classes that may be one; none if there are no such."""
    alike = _alike(labels)
    return [f"classes that differ by case or spaces alone: {alike}: if they are one, give them one name"] if alike else []


def _unwrapped(tree: PhotoFolder, remarks: list[str]) -> PhotoFolder:
    """The first folder from `tree` down that holds more than one folder with photos, or a split's."""
    folder = tree
    for _ in range(MAX_WRAPPERS):
        inner = folder.with_photos()
        if len(inner) != 1 or not inner[0].with_photos():
            break
        name = split_name(inner[0].label)
        if name and not name.rest and not _split_folders(inner[0].with_photos()):
            break
        _remark_empty(folder, remarks)
        folder = inner[0]
    return folder


def _remark_empty(folder: PhotoFolder, remarks: list[str]) -> None:
    if empty := [inner for inner in folder.folders if not inner.count]:
        remarks.append(f"no photo in {_names(empty)} of {folder.path}")


def _split_folders(folders: list[PhotoFolder]) -> Folders:
    """Of folders beside each other, those of splits; empty if there are none.

    "train" is one. "food-train" is one beside "food-test", or where all folders are named like splits and hold class folders.
    """
    names = {id(folder): name for folder in folders if (name := split_name(folder.label))}
    roles_of = defaultdict(set)
    for name in names.values():
        roles_of[name.rest].add(name.role)
    all_named = len(names) == len(folders) and len({name.role for name in names.values()}) > 1
    splits: Folders = defaultdict(list)
    for folder in folders:
        name = names.get(id(folder))
        if name and (not name.rest or len(roles_of[name.rest]) > 1 or (all_named and not folder.photos)):
            splits[name.role].append(folder)
    return dict(splits)


def _of_splits(folder: PhotoFolder, splits: Folders, others: list[PhotoFolder]) -> Layout:
    of_splits = [split for folders in splits.values() for split in folders]
    nested = [split for split in of_splits if split.with_photos()]
    if others and (TRAIN not in splits or len(splits) == 1 or not nested):
        raise ValueError(
            f"{folder.path} holds {_names(of_splits)}, named like a split, beside {_names(others)}: if that is a class, rename it "
            f"({of_splits[0].path.name}_class); if it is a split, put all class folders below train, val and test folders"
        )
    if TRAIN not in splits:
        raise ValueError(f"{folder.path} holds {_names(of_splits)} and no folder of training photos: name that one train")
    layout = Layout("", {}, _inside(splits[TRAIN][0]).path)
    train = _merged(_class_folders(_inside(split), layout.remarks) for split in splits[TRAIN])
    layout.splits[TRAIN] = _photos(train)
    for role in (VAL, TEST):
        classes = _merged(_classes_of_split(split, set(train), layout) for split in splits.get(role, []))
        if classes:
            layout.splits[role] = _photos(classes)
    if len(layout.splits) == 1:  # the split by photos' content decides, as it does for class folders
        layout.splits = {"": layout.splits[TRAIN]}
    used = [split.path.name for role in (TRAIN, VAL, TEST) if role in layout.splits for split in splits[role]]
    layout.name = f"{', '.join(used[:-1])} and {used[-1]} folders" if used else f"class folders in {splits[TRAIN][0].path.name}"
    _remark_empty(folder, layout.remarks)
    return layout


def _inside(split: PhotoFolder) -> PhotoFolder:
    """The folder of a split's class folders: itself, or one that it wraps (seg_train/seg_train/CLASS)."""
    folder = split
    for _ in range(MAX_WRAPPERS):
        inner = folder.with_photos()
        if len(inner) != 1 or folder.photos or len(inner[0].with_photos()) < 2:
            break
        folder = inner[0]
    return folder


def _class_folders(folder: PhotoFolder, remarks: list[str]) -> Folders:
    """The class folders directly in a folder, by label. ValueError if they are fewer than two, empty, or hold splits."""
    inner = folder.with_photos()
    if empty := [other for other in folder.folders if not other.count and _may_be_class(other)]:
        held = listed(kinds(sum((other.all_others() for other in empty), Counter())))
        raise ValueError(
            f"class {_names(empty)} in {folder.path} has no readable photo{f', only {held}' if held else ': it is empty'}: "
            "put photos into it, or remove the folder"
        )
    _remark_empty(folder, remarks)
    classes = _merged({other.label: [other]} for other in inner)
    if len(classes) < 2:
        flat = f" and {counted(len(folder.photos), 'photo')} without a class" if folder.photos else ""
        raise ValueError(
            f"{folder.path} has {counted(len(classes), 'class folder')}{flat}, expected at least 2, each with the photos of one "
            f"class ({folder.path.name}/CLASS/photo.jpg), or Food-101's images/ and meta/, or a labels.csv "
            "with the columns path,label"
        )
    for other in inner:
        if len(held_splits := _split_folders(other.with_photos())) > 1:
            names = _names(split for splits in held_splits.values() for split in splits)
            raise ValueError(
                f"{other.path} holds the splits {names}, and stands beside {_names(f for f in inner if f is not other)}: "
                f"give it alone as the data set, or put the splits above the classes (train/{other.path.name})"
            )
    if len(own_splits := _split_folders(inner)) > 1 and sum(map(len, own_splits.values())) == len(inner):
        raise ValueError(
            f"{folder.path} holds splits within a split: {_names(inner)}: give one of these folders as the data set, "
            f"or rename them if they are classes ({inner[0].path.name}_class)"
        )
    return classes


def _remark_same_folders(classes: list[PhotoFolder], remarks: list[str]) -> None:
    """Splits of names that are not recognised hold the same class folders; classes seldom do."""
    held = [{inner.label for inner in folder.with_photos()} for folder in classes]
    if len(held[0]) > 1 and all(labels == held[0] for labels in held) and not any(folder.photos for folder in classes):
        remarks.append(
            f"{_names(classes)} hold the same folders, {some(map(repr, sorted(held[0])))}, and are taken for classes: "
            "if they are splits, name them train, val and test"
        )


def _may_be_class(folder: PhotoFolder) -> bool:
    """Whether a folder without a photo may be meant as a class: not one of lists and notes."""
    others = folder.all_others()
    return not others or any(suffix not in TEXT_SUFFIXES for suffix, _ in others)


def _classes_of_split(split: PhotoFolder, train: set[str], layout: Layout) -> Folders:
    """The class folders of a split beside train, those alone that train has; what is left out is remarked."""
    folder = split
    # wrapped, unless the one folder is a class
    while len(inner := folder.with_photos()) == 1 and inner[0].label not in train and inner[0].with_photos():
        folder = inner[0]
    classes = _merged({other.label: [other]} for other in folder.with_photos())
    unknown = {label: folders for label, folders in classes.items() if label not in train}
    count = sum(other.count for folders in unknown.values() for other in folders)
    if len(unknown) > 1 and len(unknown) == len(classes):
        raise ValueError(
            f"{folder.path} has none of the classes that are trained on: {some(map(repr, sorted(unknown)))}, "
            f"expected {some(map(repr, sorted(train)))}" + _as_train(unknown, train)
        )
    if not classes or len(unknown) == len(classes):
        beside = listed(kinds(split.all_others()))
        layout.left_out += split.count
        layout.remarks.append(
            f"{split.path.name} is not used: no class of its {counted(split.count, 'photo')} is trained on"
            + (f" (labels in {beside} are not read: put the photos into class folders)" if beside else "")
        )
        return {}
    if unknown:
        layout.left_out += count
        layout.remarks.append(
            f"left out {counted(count, 'photo')} of {split.path.name}: train has no class "
            f"{some(map(repr, sorted(unknown)))}{_as_train(unknown, train)}"
        )
    return {label: folders for label, folders in classes.items() if label in train}


def _as_train(unknown: Iterable[str], train: set[str]) -> str:
    alike = _alike([*unknown, *train])
    return f" ({alike} differ by case or spaces alone: if they are one, give them one name)" if alike else ""


def _classes_hold_splits(folders: list[PhotoFolder]) -> bool:
    """Whether all are class folders, each with folders of splits that hold photos: cat/train/1.jpg."""
    return len(folders) > 1 and all(
        not folder.photos
        and sum(map(len, _split_folders(folder.with_photos()).values())) == len(folder.with_photos())
        and not any(split.with_photos() for split in folder.with_photos())
        for folder in folders
    )


def _of_class_folders_with_splits(folder: PhotoFolder, classes: list[PhotoFolder]) -> Layout:
    if nouns := [f for f in classes if (name := split_name(f"train {f.label}")) and not name.rest]:
        raise ValueError(
            f"{nouns[0].path} and {counted(len(classes) - 1, 'folder')} beside it hold splits but no classes, expected train/CLASS"
        )
    splits: dict[str, Folders] = {}
    for one in classes:
        for role, folders in _split_folders(one.with_photos()).items():
            splits.setdefault(role, {}).setdefault(one.label, []).extend(folders)
    missing = {one.label for one in classes} - set(splits.get(TRAIN, {}))
    if missing:
        raise ValueError(
            f"{some(map(repr, sorted(missing)))} in {folder.path} has no train folder, expected one in each class folder"
        )
    layout = Layout("class folders with splits in each", {role: _photos(found) for role, found in splits.items()}, None)
    if len(splits) == 1:
        layout.splits = {"": layout.splits[TRAIN]}
    return layout


def _merged(parts: Iterable[Folders]) -> Folders:
    """One mapping of several: folders whose label is the same are one class."""
    merged: Folders = {}
    for part in parts:
        for label, folders in part.items():
            merged.setdefault(label, []).extend(folders)
    return merged


def _photos(classes: Folders) -> Classes:
    return {label: sorted(path for folder in folders for path in folder.all_photos()) for label, folders in classes.items()}
