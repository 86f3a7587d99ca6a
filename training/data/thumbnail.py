"""What a photo is compared by: a colour thumbnail of 64 x 64 pixels, 12 KB, without a border and without an even margin.

A border is cut off, so that a copy with one is as its photo. Without the margin a small product on a large white page fills its
thumbnail, where else a few pixels would be all of it.
"""

import numpy as np
from PIL import Image

from handler.preprocess import read_photo

SIZE = 64  # side of a thumbnail in pixels
PIXELS = SIZE * SIZE * 3
GREY = 2.0  # standard deviation of the colours, in levels, below which a photo is greyscale
Box = tuple[float, float, float, float]  # left, top, right, bottom
# Brightness and two differences of colour, as in JPEG (ITU-T T.871)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
CHROMA = np.array([[-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
# A border is looked for at this size, up to a part of the side. Its first lines are of one colour, but for some levels in some
# pixels, its last ones less so (JPEG); the first line within differs by more levels in so many pixels
FINE, WIDEST, BORDERS = 256, 0.3, 3
BORDER_LEVELS, BORDER_SHARE, RINGING, RINGING_SHARE, WITHIN_SHARE = 4.0, 0.98, 14.0, 0.8, 0.6

# The margin is looked for at this size, its colour in a ring of so many pixels
COARSE, RING = 128, 4
# The ring is even, and a pixel is content, by its difference from that colour: a part of the largest one, and grey levels of noise
EVEN, CONTENT, LEVELS = 0.06, 0.12, 4.0
EVEN_SHARE = 0.98
LEAST_PIXELS = 2  # of content in a row or column: one is a speck
KEPT_MARGIN = 0.15  # of the content's side, on each side: a copy whose content is found a little smaller or larger fits in


def thumbnail(photo_bytes: bytes) -> np.ndarray:
    """What near-duplicates are found by: RGB pixels uint8 (PIXELS,). Raises PhotoError."""
    return thumbnail_of(read_photo(photo_bytes))


def thumbnail_of(image: Image.Image) -> np.ndarray:
    """The thumbnail of an RGB image, as `thumbnail`."""
    # bilinear: its wide filter gives a photo and one of half the size the same pixels, a box does not
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=_content(image, _within_border(image)))).ravel()


def _within_border(image: Image.Image) -> Box:
    """The box without borders of one colour, in pixels; of a letterbox, too. A bar on one side alone is part of the picture."""
    box = (0.0, 0.0, float(image.width), float(image.height))
    for _ in range(BORDERS):
        rows = np.asarray(image.resize((FINE, FINE), Image.Resampling.BOX, box=box), np.float32)
        (top, bottom), (left, right) = (_borders(lines) for lines in (rows, rows.swapaxes(0, 1)))
        x, y = (box[2] - box[0]) / FINE, (box[3] - box[1]) / FINE
        box = box[0] + left * x, box[1] + top * y, box[2] - right * x, box[3] - bottom * y
        if not top + left:
            break
    return box


def _borders(lines: np.ndarray) -> tuple[int, int]:
    """How many of the first and of the last lines (n, n, 3) are a border, both of one colour; 0, 0 if there is none."""
    if np.abs(np.median(lines[0], axis=0) - np.median(lines[-1], axis=0)).max() > 2 * BORDER_LEVELS:
        return 0, 0
    first, last = _border(lines), _border(lines[::-1])
    return (first, last) if first and last else (0, 0)


def _border(lines: np.ndarray) -> int:
    """How many lines (n, n, 3) from the first on are a border: 0 where what follows is no picture over most of its width."""
    differs = np.abs(lines[: int(WIDEST * len(lines))] - np.median(lines[0], axis=0)).max(axis=2)
    if np.quantile(differs[:2], BORDER_SHARE) > BORDER_LEVELS:
        return 0
    even = (differs <= RINGING).mean(axis=1) >= RINGING_SHARE
    width = int(even.argmin())  # 0 if there is no end
    # the line at which it ends may be half border, half picture
    return width + 1 if (differs[width : width + 3] > RINGING).mean() >= WITHIN_SHARE else 0


def _content(image: Image.Image, box: Box) -> Box:
    """The box of what is shown before an even background within a box, in pixels; that box if its edge is not even."""
    pixels = np.asarray(image.resize((COARSE, COARSE), Image.Resampling.BOX, box=box), np.float32)
    ring = np.ones((COARSE, COARSE), bool)
    ring[RING:-RING, RING:-RING] = False
    differs = np.abs(pixels - np.median(pixels[ring], axis=0)).max(axis=2)
    largest = max(float(differs.max()), 8 * LEVELS)
    if np.quantile(differs[ring], EVEN_SHARE) > EVEN * largest + LEVELS:
        return box
    content = differs > CONTENT * largest + LEVELS
    sides = [np.flatnonzero(content.sum(axis) >= LEAST_PIXELS) for axis in (0, 1)]  # columns, rows
    if not all(len(side) for side in sides):
        return box
    ends = [(side[0], side[-1] + 1, KEPT_MARGIN * (side[-1] + 1 - side[0])) for side in sides]
    (left, right), (top, bottom) = ((max(0.0, a - kept), min(float(COARSE), b + kept)) for a, b, kept in ends)
    x, y = (box[2] - box[0]) / COARSE, (box[3] - box[1]) / COARSE
    return box[0] + left * x, box[1] + top * y, box[0] + right * x, box[1] + bottom * y


def pictures_of(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails uint8 (N, PIXELS) as RGB pictures float32 (N, 3, 64, 64), a little blurred: some resizing sharpens."""
    pixels = thumbnails.reshape(-1, SIZE, SIZE, 3).transpose(0, 3, 1, 2)
    return smooth(np.ascontiguousarray(pixels, np.float32))


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
    rows = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return np.asarray((rows[..., ::2] + rows[..., 1::2]) / 4)


def tangents(pictures: np.ndarray) -> np.ndarray:
    """What a shift by a pixel adds to each picture, and a zoom by one at its edge, in x and y: (P, n, n) to (P, 4, n, n)."""
    along = places(pictures.shape[-1])
    down, right = np.gradient(pictures, axis=(1, 2))
    return np.stack([right, right * along, down, down * along[:, None]], axis=1)


def is_grey(pictures: np.ndarray) -> np.ndarray:
    """Which RGB pictures (P, 3, n, n) have no colour."""
    colours = np.tensordot(pictures, CHROMA, (1, 1))  # (P, n, n, 2)
    return np.asarray(colours.std((1, 2)).max(1) < GREY)


def places(n: int) -> np.ndarray:
    """Where the n pixels of a line are, from -1 at one edge of the picture to 1 at the other."""
    return np.asarray((np.arange(n, dtype=np.float32) + 0.5) * 2 / n - 1)
