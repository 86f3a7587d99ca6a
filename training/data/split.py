"""Which photos are trained on and which are held out, so that no photo, exact or near, is on both sides."""

import hashlib
import json
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from handler.preprocess import PhotoError, read_photo

# Correlation of 16 x 16 grey thumbnails from which two photos count as one. On Food-101's first ten classes, re-encoded,
# resized and brightened copies of a photo stay above it, and hardly any two different photos reach it
NEAR_DUPLICATE = 0.93
THUMBNAIL = 16
# Above this share of unreadable photos, something is wrong with the data set and not with a few files
MAX_UNREADABLE = 0.01


@dataclass(frozen=True)
class Photo:
    """One labelled photo. `split` is "train", "test" where the data set says so, "" where it does not."""

    path: Path
    index: int
    split: str = ""
    sha256: str = ""


def thumbnail(photo_bytes: bytes) -> np.ndarray:
    """A photo's grey thumbnail, uint8 (16 * 16,). Raises PhotoError."""
    return np.asarray(read_photo(photo_bytes).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()


def hash_photos(root: Path, photos: list[Photo], cache: Path | None) -> tuple[list[Photo], np.ndarray]:
    """The readable photos with their sha256, and their grey thumbnails uint8 (N, 16 * 16).

    Unreadable photos are named on stderr and left out. ValueError if they are more than MAX_UNREADABLE of all.
    """
    known = _read_cache(cache, root)

    def one(photo: Photo) -> tuple[str, str, bytes] | PhotoError | OSError:
        try:
            stat = photo.path.stat()
            key = f"{photo.path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}"
            if key in known:
                return key, *known[key]
            photo_bytes = photo.path.read_bytes()
            grey = thumbnail(photo_bytes)
        except (PhotoError, OSError) as error:
            return error
        return key, hashlib.sha256(photo_bytes).hexdigest(), grey.tobytes()

    readable, rows, unreadable = [], {}, []
    with ThreadPoolExecutor() as pool:
        progress = tqdm(pool.map(one, photos), "reading photos", len(photos), delay=3, leave=False)
        for photo, result in zip(photos, progress, strict=True):
            if isinstance(result, Exception):
                unreadable.append(photo)
                print(f"skipped {photo.path}: {result}", file=sys.stderr)
            else:
                readable.append(replace(photo, sha256=result[1]))
                rows[result[0]] = result[1:]
    if len(unreadable) > MAX_UNREADABLE * len(photos):
        raise ValueError(f"{len(unreadable)} of {len(photos)} photos in {root} are unreadable, the limit is {MAX_UNREADABLE:.0%}")
    if cache is not None and rows.keys() - known.keys():
        _write_cache(cache, root, rows)
    thumbnails = [np.frombuffer(thumbnail, np.uint8) for _, thumbnail in rows.values()]
    return readable, np.stack(thumbnails) if thumbnails else np.zeros((0, THUMBNAIL**2), np.uint8)


def _cache_file(cache: Path, root: Path) -> Path:
    return cache / f"{root.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]}.json"


def _read_cache(cache: Path | None, root: Path) -> dict[str, tuple[str, bytes]]:
    if cache is None or not _cache_file(cache, root).is_file():
        return {}
    rows = json.loads(_cache_file(cache, root).read_text(encoding="utf-8"))
    return {key: (sha256, bytes.fromhex(thumbnail)) for key, (sha256, thumbnail) in rows.items()}


def _write_cache(cache: Path, root: Path, rows: dict[str, tuple[str, bytes]]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    part = _cache_file(cache, root).with_suffix(".part")
    part.write_text(json.dumps({key: (sha256, thumb.hex()) for key, (sha256, thumb) in rows.items()}), encoding="utf-8")
    part.replace(_cache_file(cache, root))


def normalise(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 16 * 16) as float32 rows whose products are correlations, and the same of the mirrored thumbnails."""
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True) + 1e-6
    return pixels, pixels.reshape(-1, THUMBNAIL, THUMBNAIL)[:, :, ::-1].reshape(len(pixels), -1)


def near_duplicate_groups(thumbnails: np.ndarray) -> np.ndarray:
    """Group number (N,) of each thumbnail uint8 (N, 16 * 16): one group for all that show one photo, mirrored too."""
    pixels, mirrored = normalise(thumbnails)
    group = np.arange(len(pixels))

    def root_of(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    chunk = 1024
    for start in range(0, len(pixels), chunk):
        for other in (pixels, mirrored):
            near = pixels[start : start + chunk] @ other[start:].T >= NEAR_DUPLICATE  # (chunk, N - start): it is symmetric
            for i, j in np.argwhere(near):
                a, b = root_of(start + i), root_of(start + j)
                group[max(a, b)] = min(a, b)
    return np.array([root_of(i) for i in range(len(group))])


def split_photos(photos: list[Photo], thumbnails: np.ndarray, val_fraction: float, seed: int) -> tuple[list[Photo], list[Photo]]:
    """(train, held out), copies and near copies of a photo on one side.

    Where the data set brings a test split, that is held out, and training photos that repeat one of it are left out.
    Else hold_out decides.
    """
    groups = defaultdict(list)
    sha_group: dict[str, int] = {}
    for photo, near in zip(photos, near_duplicate_groups(thumbnails), strict=True):
        groups[sha_group.setdefault(photo.sha256, int(near))].append(photo)
    if not any(photo.split == "test" for photo in photos):
        return hold_out(list(groups.values()), val_fraction, seed)
    tested = [any(photo.split == "test" for photo in group) for group in groups.values()]
    train = [p for group, test in zip(groups.values(), tested, strict=True) for p in group if not test]
    return train, [photo for photo in photos if photo.split == "test"]


def lot(photo: Photo, seed: int) -> float:
    """A number from 0 to 1, uniform over photos, that depends on content and seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {photo.sha256}".encode()).digest()[:7]) / 2**56


def hold_out(groups: list[list[Photo]], val_fraction: float, seed: int) -> tuple[list[Photo], list[Photo]]:
    """(train, held out) of groups of near copies, such that adding photos moves no photo from one side to the other.

    A photo's own side is settled by its lot: held out if that is below val_fraction. A group takes the side of the photo
    with the smallest sha256 in it; a group under several labels is never held out. A photo whose own side is not its
    group's is left out: so it does not move when a near copy of it or a second label is added.

    A class with two or more groups of its own of which none is held out has its lowest lot held out all the same, and a
    class with nothing to train on trains on its highest. These are the only photos that can move when their class grows.
    """
    train: list[Photo] = []
    held_out: list[Photo] = []
    own, all_of = defaultdict(list), defaultdict(list)
    deciding = {id(group): min(group, key=lambda photo: photo.sha256) for group in groups}
    for group in sorted(groups, key=lambda g: lot(deciding[id(g)], seed)):
        indices = {photo.index for photo in group}
        low = len(indices) == 1 and lot(deciding[id(group)], seed) < val_fraction
        (held_out if low else train).extend(photo for photo in group if (lot(photo, seed) < val_fraction) == low)
        for index in indices:
            all_of[index].append(group)
            if len(indices) == 1:
                own[index].append(group)
    for index in all_of:
        if len(own[index]) > 1 and not any(photo.index == index for photo in held_out):
            train = [photo for photo in train if photo not in own[index][0]]
            held_out += own[index][0]
        if not any(photo.index == index for photo in train):
            last = (own[index] or all_of[index])[-1]
            held_out = [photo for photo in held_out if photo not in last]
            train += [photo for photo in last if photo not in train]
    return train, held_out
