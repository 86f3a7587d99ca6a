"""Data sets for training, read and split: Food-101, folders of class folders, generated pictures, or a file of prepare.py's.

A further layout is one more case in layouts.py. published.py downloads the sets that have a name.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scripts.atomic import write_text
from scripts.folders import not_taken
from scripts.phrases import counted, some
from training.data.extras import NOTHING
from training.data.folders_or_lists import check_names, layout_of
from training.data.known_pairs import known_pairs
from training.data.label_lists import LIST_SUFFIXES
from training.data.layouts import Layout
from training.data.listed import read_list
from training.data.photo_folders import kinds, read_tree
from training.data.pictures import generate
from training.data.split import OFFICIAL, Photo, cache_file, hash_photos, split_photos
from training.params import NEAR_DUPLICATES

PREPARED = "seefood data, prepared"
# of all commands: photos that one has hashed, no other reads again
HASH_CACHE = Path("build/photo-hashes")


@dataclass(frozen=True)
class Data:
    """A data set, read and split: no photo of `held_out` or `test`, and no near-duplicate of one, is in `train`.

    `held_out` is what training is measured and chosen by: the data set's val split, else its test split, else photos of each
    class. `test` is a test split beside a val split, for evaluation alone; empty where there is none.
    `fingerprint` is the sha256 over all labels and photos; `source` describes for people what was read from `root`.
    """

    labels: tuple[str, ...]
    train: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    fingerprint: str
    source: str
    root: Path | None = None
    test: tuple[Photo, ...] = ()

    def summary(self) -> dict[str, object]:
        """What a checkpoint records of its data."""
        return {
            "source": self.source,
            "root": str(self.root) if self.root else "",
            "fingerprint": self.fingerprint,
            "train": len(self.train),
            "held_out": len(self.held_out),
        } | ({"test": len(self.test)} if self.test else {})


def read_data(
    root: Path | None,
    val_fraction: float,
    seed: int,
    near_duplicates: float = NEAR_DUPLICATES,
    cache: Path | None = HASH_CACHE,
    quiet: bool = False,
) -> Data:
    """The data set in `root`, hashed and split; generated pictures if `root` is None. A prepared one's photos are not read.

    `cache` is a folder that keeps the hashes, so that a large data set is read whole only once; None: no cache.
    What is not taken is printed on stderr, unless `quiet`.
    ValueError if the folder has no known layout, a class has no photo, or too many photos are unreadable; or if `root`
    is a .json that prepare.py did not write, or wrote for other values of these, or for photos that are gone.
    """
    if root is not None and root.suffix == ".json":
        return _read_prepared(root, {"val_fraction": val_fraction, "seed": seed, "near_duplicates": near_duplicates})
    folder = root or generate(Path("build/generated"))
    remarks: list[str] = []
    labels, photos, layout = find_photos(folder, remarks)
    source = f"{layout} in {root.resolve().name}" if root else "generated pictures, not photos (DATA=folder trains on photos)"
    if is_list(folder):
        source = f"the list {folder.name} in {photos_folder(folder).resolve().name}"
    photos, thumbnails = hash_photos(folder, photos, cache)
    _check_classes(labels, [photo for photo in photos if photo.split not in OFFICIAL], f"readable photo in {folder}")
    pairs = known_pairs(thumbnails, near_duplicates, cache and cache_file(cache, folder, "pairs"))
    train, held_out = split_photos(photos, pairs, val_fraction, seed, quiet)
    if not train or not held_out:
        raise ValueError(
            f"{folder} gives {counted(len(train), 'photo')} to train on and {len(held_out)} to hold out, expected some of both"
        )
    _check_classes(labels, train, f"photo in {folder} but near-duplicates of held-out ones")
    if left_out := len(photos) - len(train) - len(held_out):
        remarks.append(f"left out {counted(left_out, 'photo')} of {folder}: near-duplicates of photos in the other split")
    for split in sorted({photo.split for photo in held_out} - {""}):
        there = {photo.index for photo in held_out if photo.split == split}
        if missing := [label for index, label in enumerate(labels) if index not in there]:
            remarks.append(f"no photo in {split} of {len(missing)} of the classes: {some(map(repr, sorted(missing)))}")
    # without a val split the test split is what a run is chosen by, too
    has_val = any(photo.split == "val" for photo in held_out)
    test = tuple(photo for photo in held_out if has_val and photo.split == "test")
    held_out = [photo for photo in held_out if not has_val or photo.split == "val"]
    if both := len({photo.sha256 for photo in test} & {photo.sha256 for photo in held_out}):
        remarks.append(f"{counted(both, 'photo')} in both val and test: these make results on test too good")
    if not quiet:
        print("".join(f"{remark}\n" for remark in remarks), end="", file=sys.stderr)
    return Data(labels, tuple(train), tuple(held_out), _fingerprint(labels, photos), source, root, test)


def _check_classes(labels: tuple[str, ...], photos: list[Photo], what: str) -> None:
    """ValueError if a class has none of these photos."""
    with_photos = {photo.index for photo in photos}
    if missing := [label for index, label in enumerate(labels) if index not in with_photos]:
        has = (
            f"class {missing[0]!r} has"
            if len(missing) == 1
            else f"{counted(len(missing), 'class')} ({some(map(repr, sorted(missing)))}) have"
        )
        raise ValueError(f"{has} no {what}: put photos into each class's folder, or remove it")


def _fingerprint(labels: tuple[str, ...], photos: list[Photo]) -> str:
    digest = hashlib.sha256("\n".join(labels).encode())
    # content and not paths: the same photos in another folder, under other names, are the same data set
    # and what a list says of them, where it says something: without such columns a fingerprint is what it was before them
    for index, sha256, split, said in sorted((p.index, p.sha256, p.split, json.dumps(p.said) * bool(p.said)) for p in photos):
        digest.update(f"{index} {sha256} {split}{' ' * bool(said)}{said}\n".encode())
    return digest.hexdigest()


def write_prepared(data: Data, val_fraction: float, seed: int, path: Path, near_duplicates: float = NEAR_DUPLICATES) -> None:
    """Write a data set that was read from a folder with these values to a .json, whole or not at all."""
    assert data.root is not None
    # relative inside the project: the file then serves in any clone, and its md5, by which DVC skips stages, is the same
    root = Path(os.path.relpath(data.root)) if data.root.resolve().is_relative_to(Path.cwd()) else data.root.resolve()
    values: dict[str, object] = {"kind": PREPARED, "source": data.source, "root": str(root), "fingerprint": data.fingerprint}
    values |= {"val_fraction": val_fraction, "seed": seed, "near_duplicates": near_duplicates, "labels": data.labels}
    folder = photos_folder(data.root)
    rows = {
        side: [json.dumps([os.path.relpath(p.path, folder), p.index, p.split, p.sha256, *filter(None, [p.said])]) for p in photos]
        for side, photos in (("train", data.train), ("held_out", data.held_out), ("test", data.test))
    }
    # a line a photo, so that versions of the file can be compared
    lists = [f' "{side}": [\n  ' + ",\n  ".join(lines) + "\n ]" for side, lines in rows.items() if lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=1)[:-2] + ",\n" + ",\n".join(lists) + "\n}\n")


def _read_prepared(path: Path, params: dict[str, float]) -> Data:
    """A data set that write_prepared wrote with these values; its `root` is the folder of the photos. ValueError as read_data."""
    again = "run training/data/prepare.py again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        root, made_with = Path(values["root"]), {name: values.get(name) for name in params}
        folder = photos_folder(root)
        values.setdefault("test", [])  # most data sets have none
        train, held_out, test = (
            tuple(
                Photo(folder / name, index, split, sha256, **(said[0] if said else {}))
                for name, index, split, sha256, *said in values[side]
            )
            for side in ("train", "held_out", "test")
        )
        data = Data(tuple(values["labels"]), train, held_out, values["fingerprint"], values["source"], root, test)
        if values["kind"] != PREPARED:
            raise ValueError(f"its kind is {values['kind']!r}, expected {PREPARED!r}")
    except FileNotFoundError as error:
        raise ValueError(f"no prepared data {path}: write it with training/data/prepare.py") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by training/data/prepare.py ({type(error).__name__}: {error})") from error
    if made_with != params:
        raise ValueError(f"{path} was prepared with {made_with}, the parameters are {params}: {again}")
    if not root.exists():
        raise ValueError(
            f"the photos of {path} are gone: no {'list' if is_list(root) else 'folder'} {root} (relative to {Path.cwd()})"
        )
    # now, as training replaces a photo that it cannot read: the run would not be that of the prepared data
    gone = [photo.path for photo in train + held_out + test if not photo.path.is_file()]
    if gone:
        raise ValueError(f"missing: {counted(len(gone), 'photo')} of {path}, {gone[0]} is the first: {again}")
    return data


def find_photos(root: Path, remarks: list[str] | None = None) -> tuple[tuple[str, ...], list[Photo], str]:
    """(labels, photos, layout) of the official Food-101 layout, of class folders, alone or below folders of splits, or of lists.

    `remarks` gets what people should read: what is not taken, and what differs between the splits.
    ValueError if the folder has no layout of layouts.py.
    """
    if official := food101_folder(root):
        return *_food101(official), "Food-101"
    if is_list(root):
        layout = read_list(root)
        check_names(layout.labels)
        if remarks is not None:
            remarks += layout.remarks
        return layout.labels, _in_layout(layout), layout.name
    if not root.is_dir():
        problem = "it is a file, expected a folder (of an archive, unpack it)" if root.is_file() else "the folder does not exist"
        raise ValueError(f"no data set at {root}: {problem}")
    passed: Counter[str] = Counter()
    tree = read_tree(root, passed)
    layout = layout_of(tree)
    check_names(layout.labels)
    photos = _in_layout(layout)
    # of photos first: they are the likeliest to be missed
    loose = tree.count - len(photos) - layout.left_out
    others = Counter({f"{counted(loose, 'photo').partition(' ')[2]} without a class": loose}) + kinds(tree.all_others()) + passed
    if remarks is not None:
        remarks += filter(None, [*layout.remarks, not_taken(root, others)])
    return layout.labels, photos, layout.name


def is_list(root: Path) -> bool:
    """Whether a data set is given as a list of photos, not as a folder."""
    return root.suffix.lower() in LIST_SUFFIXES and not root.is_dir()


def photos_folder(root: Path) -> Path:
    """The folder to which a data set's photos are relative."""
    return root.parent if is_list(root) else root


def _in_layout(layout: Layout) -> list[Photo]:
    index = {label: number for number, label in enumerate(layout.labels)}
    return [
        Photo(path, index[label], split, **vars(layout.extras.get(path, NOTHING)))
        for split, classes in layout.splits.items()
        for label in sorted(classes)
        for path in classes[label]
    ]


def food101_folder(root: Path) -> Path | None:
    """Food-101's own folder, if that is the layout of `root` or of the folder that torchvision unpacks there."""
    return next((folder for folder in (root, root / "food-101") if (folder / "meta" / "classes.txt").is_file()), None)


def _food101(root: Path) -> tuple[tuple[str, ...], list[Photo]]:
    labels = tuple((root / "meta" / "classes.txt").read_text(encoding="utf-8").split())
    photos = []
    for split in ("train", "test"):
        path = root / "meta" / f"{split}.json"
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"{root} has Food-101's meta/classes.txt, but no whole {path.name} beside it: unpack it again"
            ) from error
        if missing := [label for label in labels if label not in listed]:
            raise ValueError(f"{path} has no list of the class {missing[0]!r} of classes.txt: unpack Food-101 again")
        for index, label in enumerate(labels):
            photos += [Photo(root / "images" / f"{name}.jpg", index, split) for name in listed[label]]
    return labels, photos
