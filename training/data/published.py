"""Published data sets by name: torchvision downloads and verifies each, and its photos are laid out as class folders.

The published splits are kept: train, val and test folders, where a set has them. Food-101 stays as it is unpacked, which sets.py
reads. A further set is one more entry of PUBLISHED.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torchvision import datasets
from tqdm import tqdm

from scripts.atomic import aside
from scripts.errors import SeeFoodError
from scripts.folders import files_below
from scripts.phrases import counted


class DownloadError(SeeFoodError):
    """A data set that could not be downloaded, or is incomplete."""


class Entry(NamedTuple):
    """A photo of a set as torchvision has it: its split ("" where none is published), class, file name, and file or picture."""

    split: str
    label: str
    name: str
    photo: Path | Image.Image


@dataclass(frozen=True)
class Published:
    """A data set: what people are told of it, what torchvision downloads for it, and how many photos each split has."""

    title: str
    download_size: str
    archives: tuple[str, ...]  # below the folder of downloads
    photos: dict[str, int]
    entries: Callable[[Path], Iterator[Entry]]  # of the folder of downloads, into which it downloads what is missing
    unpacked: str = ""  # the folder that stays as it is unpacked; "": class folders are made


def _cifar10(root: Path) -> Iterator[Entry]:
    for split in ("train", "test"):
        found = datasets.CIFAR10(str(root), train=split == "train", download=True)
        for number, (pixels, index) in enumerate(zip(found.data, found.targets, strict=True)):
            yield Entry(split, found.classes[index], f"{number:05}.png", Image.fromarray(pixels))


def _flowers102(root: Path) -> Iterator[Entry]:
    for split in ("train", "val", "test"):
        found = datasets.Flowers102(str(root), split=split, download=True)
        for path, index in zip(found._image_files, found._labels, strict=True):
            yield Entry(split, found.classes[index], path.name, path)


def _pets(root: Path) -> Iterator[Entry]:
    for split, published in (("train", "trainval"), ("test", "test")):
        found = datasets.OxfordIIITPet(str(root), split=published, download=True)
        for path, index in zip(found._images, found._labels, strict=True):
            yield Entry(split, found.classes[index], path.name, path)


def _eurosat(root: Path) -> Iterator[Entry]:
    found = datasets.EuroSAT(str(root), download=True)
    for path, index in found.samples:
        yield Entry("", found.classes[index], Path(path).name, Path(path))


def _food101(root: Path) -> Iterator[Entry]:
    datasets.Food101(str(root), download=True)
    for split in ("train", "test"):
        found = datasets.Food101(str(root), split=split)
        for path, index in zip(found._image_files, found._labels, strict=True):
            yield Entry(split, found.classes[index], path.name, path)


# sizes and numbers of photos are from the sets' own pages; no real download has confirmed them here
PUBLISHED = {
    # Bossard et al. 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/
    "food101": Published(
        "Food-101", "5 GB", ("food-101.tar.gz",), {"train": 75_750, "test": 25_250}, _food101, unpacked="food-101"
    ),
    # Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
    "cifar10": Published("CIFAR-10", "170 MB", ("cifar-10-python.tar.gz",), {"train": 50_000, "test": 10_000}, _cifar10),
    # Nilsback and Zisserman 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
    "flowers102": Published(
        "Flowers-102",
        "345 MB",
        ("flowers-102/102flowers.tgz", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        {"train": 1020, "val": 1020, "test": 6149},
        _flowers102,
    ),
    # Parkhi et al. 2012, https://www.robots.ox.ac.uk/~vgg/data/pets/
    "pets": Published(
        "Oxford-IIIT Pet",
        "810 MB",
        ("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        {"train": 3680, "test": 3669},
        _pets,
    ),
    # Helber et al. 2019, https://github.com/phelber/EuroSAT; no split is published
    "eurosat": Published("EuroSAT", "94 MB", ("eurosat/EuroSAT.zip",), {"": 27_000}, _eurosat),
}


def obtain(name: str, folder: Path) -> Path:
    """The folder of a published set in `folder`, downloaded, verified and laid out where it is not there yet.

    Downloads stay in `folder`/NAME-download until the set is whole, so that the same call goes on after a failure. DownloadError
    where there is no network, a file is not the published one, or photos are missing.
    """
    published = PUBLISHED[name]
    target = folder / (published.unpacked or name)
    if not published.unpacked and target.exists():
        _check(published, target, _laid_out(published, target))
        return target
    downloads = folder if published.unpacked else folder / f"{name}-download"
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        if published.unpacked:
            _check(published, target, Counter(entry.split for entry in published.entries(downloads)))
            return target
        with aside(target) as part:
            _check(published, downloads, _lay_out(published, downloads, part))
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's, for a wrong md5
        files = " and ".join(published.archives)
        raise DownloadError(
            f"{published.title} could not be downloaded: {error}\n"
            f"Without a network, copy {files} from another machine to {downloads}/ and run this again,\n"
            "or train on your own folder of class folders: make train DATA=path/to/folder"
        ) from error
    shutil.rmtree(downloads)
    return target


def _lay_out(published: Published, downloads: Path, folder: Path) -> Counter[str]:
    """Write the photos into class folders, below folders of splits. How many each split has."""
    found: Counter[str] = Counter()
    total = sum(published.photos.values())
    for entry in tqdm(published.entries(downloads), "writing photos", total, delay=3, leave=False):
        path = folder / entry.split / entry.label.replace("/", " or ") / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry.photo, Path):
            _link(entry.photo, path)
        else:
            entry.photo.save(path)
        found[entry.split] += 1
    return found


def _link(source: Path, target: Path) -> None:
    """A file at another place, too, without a copy where the disk can. The first stays, as downloads may be asked again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _laid_out(published: Published, folder: Path) -> Counter[str]:
    return Counter({split: sum(1 for _ in files_below(folder / split, Counter())) for split in published.photos})


def _check(published: Published, folder: Path, found: Counter[str]) -> None:
    for split, expected in published.photos.items():
        if found[split] < expected:  # make ingest may have added some
            photos = counted(found[split], f"{split} photo".strip())
            raise DownloadError(f"{published.title} in {folder} has {photos}, expected {expected}: delete it and try again")
