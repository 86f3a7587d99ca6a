"""Data sets for training: Food-101, a folder of class folders, generated pictures, or what prepare.py wrote; read and split.

`python -m training.data.sets data` downloads and verifies the real Food-101 (`make data`).
"""

import argparse
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from torchvision import datasets

from training.data.pictures import generate
from training.data.split import Photo, hash_photos, split_photos

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FOOD101_PHOTOS = {"train": 75_750, "test": 25_250}
PREPARED = "seefood data, prepared"
HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")


@dataclass(frozen=True)
class Data:
    """A data set read and split: no photo, exact or near, of `held_out` is in `train`.

    `fingerprint` is the sha256 over all labels and photos; `source` says in words what was read from `root`.
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


def read_data(root: Path | None, val_fraction: float, seed: int, cache: Path | None = None) -> Data:
    """The data set in `root`, hashed and split; generated pictures if `root` is None; without a look at any photo if prepared.

    `cache` is a folder that keeps the hashes, so that a large data set is read whole only once.
    Raises ValueError if the folder has no known layout, a class has no photo, or too many photos are unreadable; or if `root`
    is a .json that prepare.py did not write, or wrote for another seed or fraction, or for photos that are gone.
    """
    if root is not None and root.suffix == ".json":
        return _read_prepared(root, val_fraction, seed)
    folder = root or generate(Path("build/generated"))
    labels, photos, layout = find_photos(folder)
    source = f"{layout} in {root.resolve().name}" if root else "generated pictures, no photos of food (give DATA=folder for those)"
    photos, thumbnails = hash_photos(folder, photos, cache)
    for index, label in enumerate(labels):
        if not any(photo.index == index for photo in photos):
            raise ValueError(f"class {label!r} in {folder} has no readable photo")
    digest = hashlib.sha256("\n".join(labels).encode())
    for photo in sorted(photos, key=lambda p: (p.index, p.sha256, p.split)):
        digest.update(f"{photo.index} {photo.sha256} {photo.split}\n".encode())
    train, held_out = split_photos(photos, thumbnails, val_fraction, seed)
    if not train or not held_out:
        raise ValueError(f"{folder} gives {len(train)} photos to train on and {len(held_out)} to hold out, expected some of both")
    if left_out := len(photos) - len(train) - len(held_out):
        print(f"left out {left_out} photos of {folder}: near copies of photos on the other side", file=sys.stderr)
    return Data(labels, tuple(train), tuple(held_out), digest.hexdigest(), source, root)


def write_prepared(data: Data, val_fraction: float, seed: int, path: Path) -> None:
    """Write a data set that was read from a folder with these two values to a .json, whole or not at all."""
    assert data.root is not None
    root = Path(os.path.relpath(data.root)) if data.root.resolve().is_relative_to(Path.cwd()) else data.root.resolve()
    values: dict[str, object] = {"kind": PREPARED, "source": data.source, "root": str(root), "fingerprint": data.fingerprint}
    values |= {"val_fraction": val_fraction, "seed": seed, "labels": data.labels}
    rows = {
        side: [json.dumps([str(p.path.relative_to(data.root)), p.index, p.split, p.sha256]) for p in photos]
        for side, photos in (("train", data.train), ("held_out", data.held_out))
    }
    # a line a photo, so that versions of the file can be compared
    lists = [f' "{side}": [\n  ' + ",\n  ".join(lines) + "\n ]" for side, lines in rows.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=1)[:-2] + ",\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")
    part.replace(path)


def _read_prepared(path: Path, val_fraction: float, seed: int) -> Data:
    """What write_prepared wrote; its `root` is the folder of the photos. ValueError as read_data says."""
    again = "run training/data/prepare.py again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        root, made_with = Path(values["root"]), {name: values[name] for name in ("val_fraction", "seed")}
        train, held_out = (
            tuple(Photo(root / name, index, split, sha256) for name, index, split, sha256 in values[side])
            for side in ("train", "held_out")
        )
        data = Data(tuple(values["labels"]), train, held_out, values["fingerprint"], values["source"], root)
        if values["kind"] != PREPARED:
            raise ValueError(f"its kind is {values['kind']!r}, expected {PREPARED!r}")
    except FileNotFoundError as error:
        raise ValueError(f"no prepared data {path}; training/data/prepare.py writes it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what training/data/prepare.py writes ({type(error).__name__}: {error})") from error
    if made_with != {"val_fraction": val_fraction, "seed": seed}:
        raise ValueError(f"{path} was prepared with {made_with}, the parameters say {val_fraction} and {seed}: {again}")
    if not root.is_dir():
        raise ValueError(f"the photos of {path} are gone: no folder {root} (seen from {Path.cwd()})")
    gone = [photo.path for photo in train + held_out if not photo.path.is_file()]
    if gone:
        raise ValueError(f"{len(gone)} photos of {path} are gone, {gone[0]} the first: {again}")
    return data


def find_photos(root: Path) -> tuple[tuple[str, ...], list[Photo], str]:
    """(labels, photos, layout) of the official Food-101 layout, of train/ and test/ folders, or of class folders."""
    for folder in (root, root / "food-101"):
        if (folder / "meta" / "classes.txt").is_file():
            return *_food101(folder), "Food-101"
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


def _food101(root: Path) -> tuple[tuple[str, ...], list[Photo]]:
    labels = tuple((root / "meta" / "classes.txt").read_text(encoding="utf-8").split())
    photos = []
    for split in ("train", "test"):
        listed = json.loads((root / "meta" / f"{split}.json").read_text(encoding="utf-8"))
        for index, label in enumerate(labels):
            photos += [Photo(root / "images" / f"{name}.jpg", index, split) for name in listed[label]]
    return labels, photos


def _class_folders(root: Path, split: str) -> tuple[tuple[str, ...], list[Photo]]:
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(f"{root} has {len(folders)} class folders, expected at least 2 (or Food-101's images/ and meta/)")
    photos = []
    for index, folder in enumerate(folders):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        photos += [Photo(path, index, split) for path in files]
    return tuple(folder.name for folder in folders), photos


def download(root: Path) -> None:
    """Download the real Food-101 (about 5 GB) into `root`/food-101 and verify it. OSError where there is no network."""
    datasets.Food101(str(root), download=True)
    for split, expected in FOOD101_PHOTOS.items():
        found = len(datasets.Food101(str(root), split=split))
        if found < expected:  # make ingest may have added some
            raise OSError(f"Food-101 in {root} lists {found} {split} photos, expected {expected}: delete it and try again")


def main() -> int:
    """`python -m training.data.sets ROOT`: download Food-101 into ROOT."""
    parser = argparse.ArgumentParser(description="Download and verify Food-101 (about 5 GB).")
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    try:
        download(root)
    except (OSError, RuntimeError) as error:
        print(
            f"error: Food-101 could not be downloaded: {error}\n"
            f"Without a network, copy food-101.tar.gz from another machine to {root}/ and run this again,\n"
            "or train on your own folder of class folders: make train DATA=path/to/folder",
            file=sys.stderr,
        )
        return 1
    print(f"Food-101 is complete in {root / 'food-101'}. Next: make train DATA={root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
