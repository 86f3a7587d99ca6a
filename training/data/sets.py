"""Data sets for training, read and split: Food-101, folders of class folders, generated pictures, or a file of prepare.py's.

A further layout is one more case in find_photos. download.py downloads the real Food-101.
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.atomic import write_text
from training.data.duplicates import near_duplicate_pairs
from training.data.pictures import generate
from training.data.split import Photo, hash_photos, split_photos
from training.params import NEAR_DUPLICATES

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PREPARED = "seefood data, prepared"
# of all commands: photos that one has hashed, no other reads again
HASH_CACHE = Path("build/photo-hashes")
# the first of them that a data set has: a validation folder beside a test folder is not used
HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")


@dataclass(frozen=True)
class Data:
    """A data set, read and split: no photo of `held_out`, and no near-duplicate of one, is in `train`.

    `fingerprint` is the sha256 over all labels and photos; `source` describes for people what was read from `root`.
    """

    labels: tuple[str, ...]
    train: tuple[Photo, ...]
    held_out: tuple[Photo, ...]
    fingerprint: str
    source: str
    root: Path | None = None

    def summary(self) -> dict[str, object]:
        """What a checkpoint records of its data."""
        return {
            "source": self.source,
            "root": str(self.root) if self.root else "",
            "fingerprint": self.fingerprint,
            "train": len(self.train),
            "held_out": len(self.held_out),
        }


def read_data(
    root: Path | None,
    val_fraction: float,
    seed: int,
    near_duplicates: float = NEAR_DUPLICATES,
    cache: Path | None = HASH_CACHE,
) -> Data:
    """The data set in `root`, hashed and split; generated pictures if `root` is None. A prepared one's photos are not read.

    `cache` is a folder that keeps the hashes, so that a large data set is read whole only once; None: no cache.
    ValueError if the folder has no known layout, a class has no photo, or too many photos are unreadable; or if `root`
    is a .json that prepare.py did not write, or wrote for other values of these, or for photos that are gone.
    """
    if root is not None and root.suffix == ".json":
        return _read_prepared(root, {"val_fraction": val_fraction, "seed": seed, "near_duplicates": near_duplicates})
    folder = root or generate(Path("build/generated"))
    labels, photos, layout = find_photos(folder)
    source = f"{layout} in {root.resolve().name}" if root else "generated pictures, not photos (DATA=folder trains on photos)"
    photos, thumbnails = hash_photos(folder, photos, cache)
    for index, label in enumerate(labels):
        if not any(photo.index == index for photo in photos):
            raise ValueError(f"class {label!r} in {folder} has no readable photo")
    train, held_out = split_photos(photos, near_duplicate_pairs(thumbnails, near_duplicates), val_fraction, seed)
    if not train or not held_out:
        raise ValueError(f"{folder} gives {len(train)} photos to train on and {len(held_out)} to hold out, expected some of both")
    if left_out := len(photos) - len(train) - len(held_out):
        print(f"left out {left_out} photos of {folder}: near-duplicates of photos in the other split", file=sys.stderr)
    return Data(labels, tuple(train), tuple(held_out), _fingerprint(labels, photos), source, root)


def _fingerprint(labels: tuple[str, ...], photos: list[Photo]) -> str:
    digest = hashlib.sha256("\n".join(labels).encode())
    # content and not paths: the same photos in another folder, under other names, are the same data set
    for photo in sorted(photos, key=lambda p: (p.index, p.sha256, p.split)):
        digest.update(f"{photo.index} {photo.sha256} {photo.split}\n".encode())
    return digest.hexdigest()


def write_prepared(data: Data, val_fraction: float, seed: int, path: Path, near_duplicates: float = NEAR_DUPLICATES) -> None:
    """Write a data set that was read from a folder with these values to a .json, whole or not at all."""
    assert data.root is not None
    # relative inside the project: the file then serves in any clone, and its md5, by which DVC skips stages, is the same
    root = Path(os.path.relpath(data.root)) if data.root.resolve().is_relative_to(Path.cwd()) else data.root.resolve()
    values: dict[str, object] = {"kind": PREPARED, "source": data.source, "root": str(root), "fingerprint": data.fingerprint}
    values |= {"val_fraction": val_fraction, "seed": seed, "near_duplicates": near_duplicates, "labels": data.labels}
    rows = {
        side: [json.dumps([str(p.path.relative_to(data.root)), p.index, p.split, p.sha256]) for p in photos]
        for side, photos in (("train", data.train), ("held_out", data.held_out))
    }
    # a line a photo, so that versions of the file can be compared
    lists = [f' "{side}": [\n  ' + ",\n  ".join(lines) + "\n ]" for side, lines in rows.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=1)[:-2] + ",\n" + ",\n".join(lists) + "\n}\n")


def _read_prepared(path: Path, params: dict[str, float]) -> Data:
    """A data set that write_prepared wrote with these values; its `root` is the folder of the photos. ValueError as read_data."""
    again = "run training/data/prepare.py again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        root, made_with = Path(values["root"]), {name: values.get(name) for name in params}
        train, held_out = (
            tuple(Photo(root / name, index, split, sha256) for name, index, split, sha256 in values[side])
            for side in ("train", "held_out")
        )
        data = Data(tuple(values["labels"]), train, held_out, values["fingerprint"], values["source"], root)
        if values["kind"] != PREPARED:
            raise ValueError(f"its kind is {values['kind']!r}, expected {PREPARED!r}")
    except FileNotFoundError as error:
        raise ValueError(f"no prepared data {path}: write it with training/data/prepare.py") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by training/data/prepare.py ({type(error).__name__}: {error})") from error
    if made_with != params:
        raise ValueError(f"{path} was prepared with {made_with}, the parameters are {params}: {again}")
    if not root.is_dir():
        raise ValueError(f"the photos of {path} are gone: no folder {root} (relative to {Path.cwd()})")
    # now, as training replaces a photo that it cannot read: the run would not be that of the prepared data
    gone = [photo.path for photo in train + held_out if not photo.path.is_file()]
    if gone:
        raise ValueError(f"{len(gone)} photos of {path} are gone, {gone[0]} is the first: {again}")
    return data


def find_photos(root: Path) -> tuple[tuple[str, ...], list[Photo], str]:
    """(labels, photos, layout) of the official Food-101 layout, of train/ and test/ folders, or of class folders."""
    if official := food101_folder(root):
        labels, photos = _food101(official)
        return labels, photos, "Food-101"
    if not root.is_dir():
        raise ValueError(f"no data set at {root}: the folder does not exist")
    held_out = next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out is not None:
        labels, photos = _class_folders(root / "train", "train")
        test_labels, test_photos = _class_folders(held_out, "test")
        if test_labels != labels:
            raise ValueError(f"{held_out} and {root / 'train'} differ in classes: {sorted(set(labels) ^ set(test_labels))}")
        return labels, photos + test_photos, f"train and {held_out.name} folders"
    labels, photos = _class_folders(root, "")
    return labels, photos, "class folders"


def food101_folder(root: Path) -> Path | None:
    """Food-101's own folder, if that is the layout of `root` or of the folder that torchvision unpacks there."""
    return next((folder for folder in (root, root / "food-101") if (folder / "meta" / "classes.txt").is_file()), None)


def _food101(root: Path) -> tuple[tuple[str, ...], list[Photo]]:
    labels = tuple((root / "meta" / "classes.txt").read_text(encoding="utf-8").split())
    photos = []
    for split in ("train", "test"):
        listed = json.loads((root / "meta" / f"{split}.json").read_text(encoding="utf-8"))
        for index, label in enumerate(labels):
            photos += [Photo(root / "images" / f"{name}.jpg", index, split) for name in listed[label]]
    return labels, photos


def _class_folders(root: Path, split: str) -> tuple[tuple[str, ...], list[Photo]]:
    # hidden folders are not classes: .git, .ipynb_checkpoints
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(f"{root} has {len(folders)} class folders, expected at least 2 (or Food-101's images/ and meta/)")
    photos = []
    for index, folder in enumerate(folders):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        photos += [Photo(path, index, split) for path in files]
    return tuple(folder.name for folder in folders), photos
