"""The photos of the data set that a model comes from, as its archive names them: `seen.npy`, sorted uint64.

Trained on or held out, they were chosen and labelled, so that a retrained model rightly answers them otherwise than the one before.
A photo's number is the first eight bytes of its sha256. What `make ingest` takes is encoded anew, and its file named by the number
that it had when it came in.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SEEN = "seen.npy"
NUMBER = re.compile(r"[0-9a-f]{16}")


def number_of(photo: bytes) -> int:
    """Of a photo's bytes."""
    return int.from_bytes(hashlib.sha256(photo).digest()[:8])


def save(path: Path, photos: Iterable[tuple[str, Path]]) -> None:
    """Write the numbers of these photos, (sha256 in hex, path) each."""
    names = {name for sha256, photo in photos for name in (sha256[:16], photo.stem) if NUMBER.fullmatch(name)}
    np.save(path, np.array(sorted(int(name, 16) for name in names), np.uint64))


def load(folder: Path) -> frozenset[int]:
    """The numbers in an unpacked archive; none where it does not say them, as those of earlier versions."""
    path = folder / SEEN
    return frozenset(np.load(path, allow_pickle=False).tolist()) if path.is_file() else frozenset()
