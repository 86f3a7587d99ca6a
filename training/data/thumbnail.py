"""What a photo is compared by: a colour thumbnail of 32 x 32 pixels, 3 KB, without an even margin around what is shown.

Without the margin a small product on a large white page fills its thumbnail, where else a few pixels would be all of it.
"""

import numpy as np
from PIL import Image

from handler.preprocess import read_photo

SIZE = 32  # side of a thumbnail in pixels
GREY = 2.0  # standard deviation of the colours, in levels, below which a photo is greyscale
# Brightness and two differences of colour, as in JPEG (ITU-T T.871)
YCC = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)

# The margin is looked for at this size, its colour in a ring of so many pixels
COARSE, RING = 128, 4
# The ring is even, and a pixel is content, by its difference from that colour: a part of the largest one, and grey levels of noise
EVEN, CONTENT, LEVELS = 0.06, 0.12, 4.0
EVEN_SHARE = 0.98
LEAST_PIXELS = 2  # of content in a row or column: one is a speck
KEPT_MARGIN = 0.15  # of the content's side, on each side: a copy whose content is found a little smaller or larger fits in


def thumbnail(photo_bytes: bytes) -> np.ndarray:
    """What near-duplicates are found by: RGB pixels uint8 (32 * 32 * 3,). Raises PhotoError."""
    return thumbnail_of(read_photo(photo_bytes))


def thumbnail_of(image: Image.Image) -> np.ndarray:
    """The thumbnail of an RGB image, as `thumbnail`."""
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX, box=_content(image))).ravel()


def _content(image: Image.Image) -> tuple[float, float, float, float] | None:
    """The box of what is shown before an even background, in pixels; None if the edge of the picture is not even."""
    pixels = np.asarray(image.resize((COARSE, COARSE), Image.Resampling.BOX), np.float32)
    ring = np.ones((COARSE, COARSE), bool)
    ring[RING:-RING, RING:-RING] = False
    differs = np.abs(pixels - np.median(pixels[ring], axis=0)).max(axis=2)
    largest = max(float(differs.max()), 8 * LEVELS)
    if np.quantile(differs[ring], EVEN_SHARE) > EVEN * largest + LEVELS:
        return None
    content = differs > CONTENT * largest + LEVELS
    sides = [np.flatnonzero(content.sum(axis) >= LEAST_PIXELS) for axis in (0, 1)]  # columns, rows
    if not all(len(side) for side in sides):
        return None
    ends = [(side[0], side[-1] + 1, KEPT_MARGIN * (side[-1] + 1 - side[0])) for side in sides]
    (left, right), (top, bottom) = ((max(0.0, a - kept), min(float(COARSE), b + kept)) for a, b, kept in ends)
    x, y = image.width / COARSE, image.height / COARSE
    return left * x, top * y, right * x, bottom * y


def planes(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails uint8 (N, 32 * 32 * 3) as brightness and two colours, blurred, each of mean 0: float32 (N, 3, 32, 32)."""
    pixels = thumbnails.reshape(-1, SIZE * SIZE, 3).astype(np.float32) @ YCC.T
    return centred(smooth(np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(-1, 3, SIZE, SIZE)))


def centred(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., n, n), each of mean 0."""
    return np.asarray(pictures - pictures.mean((-2, -1), keepdims=True))


def smooth(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., n, n) blurred over three pixels, with weights 1, 2, 1."""
    for _ in range(2):  # rows, then columns
        padded = np.concatenate([pictures[..., :1, :], pictures, pictures[..., -1:, :]], axis=-2)
        pictures = ((padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4).swapaxes(-1, -2)
    return np.ascontiguousarray(pictures)


def halved(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., n, n) at half the size."""
    n = pictures.shape[-1] // 2
    return np.asarray(pictures.reshape(*pictures.shape[:-2], n, 2, n, 2).mean((-3, -1)))


def tangents(pictures: np.ndarray) -> np.ndarray:
    """What a shift by a pixel adds to each picture, and a zoom by one at its edge, in x and y: (P, n, n) to (P, 4, n, n)."""
    along = np.linspace(-1, 1, pictures.shape[-1], dtype=np.float32)
    down, right = np.gradient(pictures, axis=(1, 2))
    return np.stack([right, right * along, down, down * along[:, None]], axis=1)


def is_grey(stack: np.ndarray) -> np.ndarray:
    """Which photos (P,) of a stack of planes have no colour."""
    return np.asarray(stack[:, 1:].std((2, 3)).max(1) < GREY)
