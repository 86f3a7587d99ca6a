"""What counts as a near-duplicate: two photos whose near-duplicate hashes correlate by NEAR_DUPLICATE or more, mirrored or not.

The near-duplicate hash (a perceptual hash) of a photo is its grey thumbnail of 16 x 16 pixels, 256 bytes. It survives
re-encoding, resizing and a change of brightness.
"""

import numpy as np
from PIL import Image

from handler.preprocess import read_photo

# On Food-101's first ten classes, re-encoded, resized and brightened versions of a photo stay above it, and hardly any
# two different photos reach it
NEAR_DUPLICATE = 0.93
THUMBNAIL = 16
CHUNK = 1024  # rows compared at a time: 101,000 photos at once would be a matrix of 38 GiB


def thumbnail(photo_bytes: bytes) -> np.ndarray:
    """A photo's near-duplicate hash: grey pixels uint8 (16 * 16,). Raises PhotoError."""
    return np.asarray(read_photo(photo_bytes).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()


def normalise(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 16 * 16) as float32 rows whose products are correlations, and the same of the mirrored thumbnails."""
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True) + 1e-6  # a photo of one grey has a norm of 0
    return pixels, pixels.reshape(-1, THUMBNAIL, THUMBNAIL)[:, :, ::-1].reshape(len(pixels), -1)


def near_duplicate_groups(thumbnails: np.ndarray) -> np.ndarray:
    """Group number (N,) of each thumbnail uint8 (N, 16 * 16): near-duplicates, and theirs in turn, share a group.

    A union-find: `parent` leads from each photo to the first one of its group.
    """
    pixels, mirrored = normalise(thumbnails)
    parent = np.arange(len(pixels))

    def first_of(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]  # halves the path for the next call
        return i

    for start in range(0, len(pixels), CHUNK):
        for other in (pixels, mirrored):
            # the correlation is symmetric: what lies before `start` has been compared already
            near = pixels[start : start + CHUNK] @ other[start:].T >= NEAR_DUPLICATE  # (CHUNK, N - start)
            for i, j in np.argwhere(near):
                a, b = first_of(start + i), first_of(start + j)
                parent[max(a, b)] = min(a, b)
    return np.array([first_of(i) for i in range(len(parent))])
