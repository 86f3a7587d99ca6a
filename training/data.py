"""Photos for training: Food-101, a folder of class folders, or generated pictures; the loaders.

`python training/data.py data` downloads and verifies the real Food-101 (`make data`).
Evaluation crops come from handler/preprocess.py; only augmentation is defined here.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import datasets, transforms

from handler.preprocess import Spec, preprocess, read_photo
from training.params import Params
from training.pictures import generate
from training.split import Photo, hash_photos, split_photos

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FOOD101_PHOTOS = {"train": 75_750, "test": 25_250}
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
    """The data set in `root`, hashed and split; generated pictures if `root` is None.

    `cache` is a folder that keeps the hashes, so that a large data set is read whole only once.
    Raises ValueError if the folder has no known layout, a class has no photo, or too many photos are unreadable.
    """
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
    return Data(labels, tuple(train), tuple(held_out), digest.hexdigest(), source, root)


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


class TrainPhotos(Dataset[Any]):
    """Augmented training crops: uint8 (S, S, 3), S = params.train_size, with their class index."""

    def __init__(self, photos: Sequence[Photo], params: Params) -> None:
        self.photos = photos
        bicubic = transforms.InterpolationMode.BICUBIC
        policy: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
            "none": [],
            "trivial": [transforms.TrivialAugmentWide()],
            "rand": [transforms.RandAugment()],
        }
        size, scale = params.train_size, (params.crop_scale_min, 1.0)
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale, interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                *policy[params.augment],
            ]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        photo = self.photos[i]
        return np.array(self.augment(read_photo(photo.path.read_bytes()))), photo.index


class EvalPhotos(Dataset[Any]):
    """Evaluation crops exactly as the worker makes them: uint8 (H, W, 3), class index, position in `photos`."""

    def __init__(self, photos: Sequence[Photo], spec: Spec, rank: int = 0, world_size: int = 1) -> None:
        self.photos, self.spec = photos, spec
        # no padding: every photo belongs to exactly one rank
        self.positions = range(rank, len(photos), world_size)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        position = self.positions[i]
        photo = self.photos[position]
        return preprocess(photo.path.read_bytes(), self.spec), photo.index, position


def _seed_worker(worker: int) -> None:
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.set_num_threads(1)


def train_loader(data: Data, params: Params, rank: int, world_size: int) -> DataLoader[Any]:
    """Batches (uint8 (B, S, S, 3), int64 (B,)); call `sampler.set_epoch` before each epoch."""
    photos = TrainPhotos(data.train, params)
    sampler: DistributedSampler[Any] = DistributedSampler(photos, world_size, rank, shuffle=True, seed=params.seed, drop_last=False)
    generator = torch.Generator().manual_seed(params.seed * world_size + rank)
    return DataLoader(
        photos,
        params.batch_size,
        sampler=sampler,
        num_workers=params.workers,
        drop_last=len(photos) >= params.batch_size * world_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=params.workers > 0,
        worker_init_fn=_seed_worker,
        generator=generator,
    )


def eval_loader(photos: Sequence[Photo], params: Params, spec: Spec, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
    """Batches (uint8 (B, H, W, 3), int64 (B,), positions int64 (B,)), every photo once over all ranks."""
    shard = EvalPhotos(photos, spec, rank, world_size)
    return DataLoader(shard, params.batch_size, num_workers=params.workers, worker_init_fn=_seed_worker)


def download(root: Path) -> None:
    """Download the real Food-101 (about 5 GB) into `root`/food-101 and verify it. OSError where there is no network."""
    datasets.Food101(str(root), download=True)
    for split, expected in FOOD101_PHOTOS.items():
        found = len(datasets.Food101(str(root), split=split))
        if found != expected:
            raise OSError(f"Food-101 in {root} lists {found} {split} photos, expected {expected}: delete it and try again")


def main() -> int:
    """`python training/data.py ROOT`: download Food-101 into ROOT."""
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
