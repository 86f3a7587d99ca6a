"""Which photos are trained on and which are held out, so that no photo and no near-duplicate of it is on both sides.

The split depends on each photo's content and the seed alone: a data set can grow, and old photos stay on their side.
"""

import hashlib
import os
import sys
import zipfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from handler.preprocess import PhotoError
from scripts.atomic import aside
from scripts.phrases import counted
from training.data.duplicates import groups_of
from training.data.extras import NOTHING
from training.data.thumbnail import PIXELS, thumbnail

# More unreadable photos, by share and by number, mean that something is wrong with the data set and not with a few files
MAX_UNREADABLE, MAX_UNREADABLE_FEW = 0.01, 3
UNREADABLE = -1  # in place of a class index
OFFICIAL = ("val", "test")  # splits that a data set publishes, beside the one to train on
# more near-duplicates, by share of all photos and of a class, may be different things before one background
MANY, MANY_OF_CLASS = 0.1, 0.5


def check_unreadable(unreadable: int, photos: int, where: str) -> None:
    """ValueError if so many of the photos are unreadable: over MAX_UNREADABLE of all, and over MAX_UNREADABLE_FEW."""
    if unreadable == photos or unreadable > max(MAX_UNREADABLE * photos, MAX_UNREADABLE_FEW):
        limit = f"{MAX_UNREADABLE:.0%} of them, or {MAX_UNREADABLE_FEW} of a small set"
        raise ValueError(
            f"{unreadable} of {photos} {where} are unreadable, the limit is {limit}: repair or remove them, or copy the "
            "folder again if it is not whole"
        )


@dataclass(frozen=True)
class Photo:
    """One labelled photo. `split` is "train", "val" or "test" where the data set says so, "" where it does not.

    `text`, `weight` (over 0) and `group` are as a list says, see extras.py.
    """

    path: Path
    index: int
    split: str = ""
    sha256: str = ""
    text: str = NOTHING.text
    weight: float = NOTHING.weight
    group: str = NOTHING.group

    @property
    def said(self) -> dict[str, Any]:
        """What a list says of it: text, weight and group, those alone that differ from the default."""
        return {name: getattr(self, name) for name, default in vars(NOTHING).items() if getattr(self, name) != default}


def hash_photos(root: Path, photos: list[Photo], cache: Path | None) -> tuple[list[Photo], np.ndarray]:
    """The readable photos with their sha256, and their thumbnails uint8 (N, PIXELS).

    Unreadable photos are named on stderr and left out. ValueError as check_unreadable.
    """
    cached = _read_cache(cache, root)

    def hash_photo(photo: Photo) -> tuple[str, str, np.ndarray] | PhotoError | OSError:
        try:
            stat = photo.path.stat()
            # by size and time, not content: to read it is what the cache saves
            key = f"{os.path.relpath(photo.path, root)} {stat.st_size} {stat.st_mtime_ns}"
            if key in cached:
                return key, *cached[key]
            photo_bytes = photo.path.read_bytes()
            pixels = thumbnail(photo_bytes)
        except (PhotoError, OSError) as error:
            return error
        return key, hashlib.sha256(photo_bytes).hexdigest(), pixels

    readable, rows, unreadable = [], {}, []
    # threads are enough: Pillow decodes and resizes without the interpreter's lock
    with ThreadPoolExecutor() as pool:
        progress = tqdm(pool.map(hash_photo, photos), "reading photos", len(photos), delay=3, leave=False)
        for photo, result in zip(photos, progress, strict=True):
            if isinstance(result, Exception):
                unreadable.append(photo)
                print(f"skipped {photo.path}: {result}", file=sys.stderr)
            else:
                readable.append(replace(photo, sha256=result[1]))
                rows[result[0]] = result[1:]
    if unreadable:
        check_unreadable(len(unreadable), len(photos), f"photos in {root}")
    if cache is not None and rows.keys() - cached.keys():
        _write_cache(cache, root, rows)
    return readable, _stack(rows)


def _stack(rows: dict[str, tuple[str, np.ndarray]]) -> np.ndarray:
    """The thumbnails (N, PIXELS) of photos."""
    return np.stack([pixels for _, pixels in rows.values()]) if rows else np.zeros((0, PIXELS), np.uint8)


def cache_file(cache: Path, root: Path, what: str = "photos") -> Path:
    """Where a data set's hashes are kept, or other things about it."""
    # with a hash of the whole path: two data sets may both be called photos
    ending = "" if what == "photos" else f"-{what}"
    return cache / f"{root.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]}{ending}.npz"


def _read_cache(cache: Path | None, root: Path) -> dict[str, tuple[str, np.ndarray]]:
    """sha256 and thumbnail by key; nothing if the file is missing or cannot be read: photos are then read again."""
    if cache is None or not cache_file(cache, root).is_file():
        return {}
    try:
        # opened here: np.load leaves a broken file open
        with cache_file(cache, root).open("rb") as stream, np.load(stream) as file:
            keys, sha256s, pixels = (file[name] for name in ("keys", "sha256", "thumbnails"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return {}
    if pixels.dtype != np.uint8 or pixels.shape != (len(keys), PIXELS):
        return {}
    return dict(zip(keys.tolist(), zip(sha256s.tolist(), pixels, strict=True), strict=True))


def _write_cache(cache: Path, root: Path, rows: dict[str, tuple[str, np.ndarray]]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    path = cache_file(cache, root)
    with aside(path) as part, part.open("wb") as file:
        np.savez(file, keys=np.array(list(rows)), sha256=np.array([sha256 for sha256, _ in rows.values()]), thumbnails=_stack(rows))
    path.with_suffix(".json").unlink(missing_ok=True)  # of versions that kept grey thumbnails


def split_photos(
    photos: list[Photo], pairs: np.ndarray, val_fraction: float, seed: int, quiet: bool = False
) -> tuple[list[Photo], list[Photo]]:
    """(train, held out), near-duplicates on one side: `pairs` (P, 2) are the numbers of two photos each.

    Where the data set brings a val or a test split, those are held out, and training photos that repeat one of them are left
    out. Else hold_out decides. Many near-duplicates are a warning, unless `quiet`, and a ValueError if nothing is left on a side.
    """
    groups = _near_duplicates(photos, pairs)
    many = _many_near_duplicates(photos, pairs, groups)
    if any(photo.split in OFFICIAL for photo in photos):
        train = [photo for group in groups if not any(p.split in OFFICIAL for p in group) for photo in group]
        # whole, even where its photos repeat each other: results on an official test split are compared with those of others
        held_out = [photo for photo in photos if photo.split in OFFICIAL]
    else:
        train, held_out = hold_out(groups, val_fraction, seed)
    if many and not (train and held_out):
        raise ValueError(
            f"{counted(len(train), 'photo')} to train on and {len(held_out)} to hold out, expected some of both: {many}"
        )
    if many and not quiet:
        print(f"warning: {many}", file=sys.stderr)
    return train, held_out


def _near_duplicates(photos: list[Photo], pairs: np.ndarray) -> list[list[Photo]]:
    # the same bytes are one group, whatever their thumbnails: those of two photos of one grey are not compared
    first_of: dict[str, int] = {}
    same = [(first_of.setdefault(photo.sha256, i), i) for i, photo in enumerate(photos)]
    groups = defaultdict(list)
    numbers = groups_of(np.concatenate([pairs, np.array(same, np.intp).reshape(-1, 2)]), len(photos))
    for photo, number in zip(photos, numbers, strict=True):
        groups[int(number)].append(photo)
    return list(groups.values())


def _many_near_duplicates(photos: list[Photo], pairs: np.ndarray, groups: list[list[Photo]]) -> str:
    """What to tell people if many photos are near-duplicates, with two of the largest group; "" if they are few."""
    repeated = [photo for group in groups if len(group) > 1 for photo in group]
    per_class, repeated_per_class = (Counter(photo.index for photo in p) for p in (photos, repeated))
    of_class = any(count > max(1, MANY_OF_CLASS * per_class[index]) for index, count in repeated_per_class.items())
    if not len(pairs) or not (len(repeated) > MANY * len(photos) or of_class):
        return ""
    largest = {photo.path for photo in max(groups, key=len)}
    # a pair that was measured: the ends of a chain need not be alike; and of two files, where there are such
    found = [(photos[i], photos[j]) for i, j in pairs if photos[i].path in largest] or [(photos[i], photos[j]) for i, j in pairs]
    one, other = next((pair for pair in found if pair[0].sha256 != pair[1].sha256), found[0])
    return (
        f"{len(repeated)} of {len(photos)} photos count as near-duplicates of others, such as {one.path} and {other.path}; "
        f"if those two differ, lower near_duplicates in params.yaml (0: only the same bytes are duplicates)"
    )


def unit_hash(photo: Photo, seed: int) -> float:
    """A number from 0 to 1, uniform over photos, that depends on content and seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {photo.sha256}".encode()).digest()[:7]) / 2**56


@dataclass(frozen=True)
class Group:
    """Near-duplicates of each other, their classes, and the unit hash that decides their side."""

    photos: list[Photo]
    indices: set[int]
    unit_hash: float


def hold_out(groups: list[list[Photo]], val_fraction: float, seed: int) -> tuple[list[Photo], list[Photo]]:
    """(train, held out) of groups of near-duplicates, such that adding photos moves no photo from one side to the other.

    1. A photo's own side: held out if its unit hash is below val_fraction.
    2. A group's side: that of its photo with the smallest sha256; a group under several labels is never held out.
       A photo whose own side is the other one is left out. So it does not move when a near-duplicate of it, or of
       that under a second label, is added.
    3. A class with two or more groups of its own holds out at least one, that of the lowest unit hash; and a class with
       nothing to train on trains on its highest. These are the only photos that can move when their class grows.
    """
    by_hash = sorted((_group(photos, seed) for photos in groups), key=lambda group: group.unit_hash)
    train, held_out = _sides_by_hash(by_hash, val_fraction, seed)
    for index, in_class in _by_class(by_hash).items():
        only_in_class = [group for group in in_class if len(group.indices) == 1]
        if len(only_in_class) > 1 and not _has_class(held_out, index):
            lowest = only_in_class[0].photos
            train, held_out = _without(train, lowest), held_out + lowest
        if not _has_class(train, index):
            highest = (only_in_class or in_class)[-1].photos
            train, held_out = train + _without(highest, train), _without(held_out, highest)
    return train, held_out


def _group(photos: list[Photo], seed: int) -> Group:
    # the smallest sha256, and not the lowest unit hash: a minimum over more photos would be held out more often
    decides = min(photos, key=lambda photo: photo.sha256)
    return Group(photos, {photo.index for photo in photos}, unit_hash(decides, seed))


def _sides_by_hash(groups: list[Group], val_fraction: float, seed: int) -> tuple[list[Photo], list[Photo]]:
    """(train, held out) by the first two rules of hold_out."""
    train: list[Photo] = []
    held_out: list[Photo] = []
    for group in groups:
        is_held_out = len(group.indices) == 1 and group.unit_hash < val_fraction
        side = held_out if is_held_out else train
        side += [photo for photo in group.photos if (unit_hash(photo, seed) < val_fraction) == is_held_out]
    return train, held_out


def _by_class(groups: list[Group]) -> dict[int, list[Group]]:
    """The groups in which a class occurs, in the order that they are given."""
    by_class = defaultdict(list)
    for group in groups:
        for index in group.indices:
            by_class[index].append(group)
    return by_class


def _has_class(photos: list[Photo], index: int) -> bool:
    return any(photo.index == index for photo in photos)


def _without(photos: list[Photo], removed: list[Photo]) -> list[Photo]:
    return [photo for photo in photos if photo not in removed]
