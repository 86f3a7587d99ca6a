"""What counts as a near-duplicate: two photos that differ nowhere by more than a part of their contrast, mirrored or not.

Photos are compared by their thumbnails (thumbnail.py). Of a pair, one thumbnail is shifted and zoomed by some percent onto the
other, brightness, contrast and gamma are made equal, and what is left is looked at place by place: the difference of
a pair is the largest over windows of 4 x 4 pixels, as a part of the photo's contrast (its standard deviation). So two dishes on
one tray differ, where a correlation of the whole pictures sees the tray alone; and a photo made smaller, brighter, greyscale,
cropped by some percent or compressed again does not. `near_duplicates` in params.yaml is the largest difference of copies.

The difference is that of two photos alone: no third one changes it. Which pairs are measured, neighbours.py chooses.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from training.data.neighbours import Pairs, neighbours
from training.data.thumbnail import SIZE, centred, halved, is_grey, planes, smooth, tangents

WINDOWS = 8  # windows of an eighth of the photo's side, at each pixel
# least contrast, in grey levels: that of noise, so that two photos of one wall are not compared by their noise
NOISE = 4.0
LARGEST_SHIFT = 1.2  # in pixels of 16: 7 % of the side
LAST_STEP = 0.7  # in pixels of 32
# pairs that are measured at a time: 512 need some 60 MB
CHUNK = 512
COLOUR = 0.7  # weight of differences in colour: JPEG keeps it at half the size
HOPELESS, NOTHING_ALIKE = 1.0, 9.0
CURVE = 64.0  # grey levels whose square counts as 64, too


def near_duplicate_pairs(thumbnails: np.ndarray, limit: float, first_new: int = 0) -> np.ndarray:
    """Pairs (P, 2) of near-duplicates among thumbnails uint8 (N, 32 * 32 * 3): their difference is `limit` at most; 0: none are.

    Of thumbnails that were compared before, only the pairs with one from `first_new` on are looked for.
    """
    if limit == 0:
        return np.zeros((0, 2), np.intp)
    pairs = neighbours(thumbnails, first_new)
    kept = [part[:, :2][_differences(thumbnails, part) <= limit] for part in _chunks(pairs)]
    return np.unique(np.concatenate([np.zeros((0, 2), np.intp), *kept]), axis=0)


def groups_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """Group number (count,) of each of `count` photos: the two of a pair, and what they are paired with in turn, share one."""
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    return (pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK))


def _differences(thumbnails: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The difference (P,) of each pair."""
    one, other = planes(thumbnails[pairs[:, 0]]), planes(thumbnails[pairs[:, 1]])
    mirrored = pairs[:, 2] == 1
    one[mirrored] = one[mirrored, :, :, ::-1]
    return difference(one, other)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference (P,) of the photos in two stacks of planes float32 (P, 3, 32, 32), place by place, the largest.

    Of a photo and a part of it, the whole explains the part, but not the part the whole: the better of the two counts.
    """
    coarse, onto = halved(one[:, 0]), halved(other[:, 0])
    # in three steps, each finer, as one is right for a part of a pixel only
    move = _clipped(_move(smooth(coarse), smooth(onto)))
    move = _clipped(move + _move(_moved(coarse, move), onto))
    differences = np.full(len(one), NOTHING_ALIKE)
    # most pairs are done with here, at half the size
    moved = centred(_moved(coarse, move))
    left = onto - _gain(moved, onto) * moved
    near = _largest_window(left * left) <= HOPELESS * (onto.std((1, 2)) + NOISE)
    one, other, move = one[near], other[near], move[near] * SIZE / onto.shape[-1]
    move += _move(_moved(one[:, 0], move), other[:, 0]).clip(-LAST_STEP, LAST_STEP)
    differences[near] = np.minimum(_unexplained(one, other, move), _unexplained(other, one, -move))
    return differences


def _clipped(move: np.ndarray) -> np.ndarray:
    return move.clip(-LARGEST_SHIFT, LARGEST_SHIFT)


def _move(one: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Shift and zoom in pixels (P, 4), x and y, that bring each picture (P, n, n) onto another, by least squares.

    Linear (Lucas and Kanade, 1981): the other is this one times a gain, plus what a small shift and a small zoom add to it.
    """
    n = one.shape[-1]
    basis = np.concatenate([one[:, None], tangents(one)], axis=1).reshape(len(one), 5, n * n)
    basis -= basis.mean(axis=2, keepdims=True)
    squares = (basis @ basis.transpose(0, 2, 1)).astype(np.float64)
    squares[:, range(5), range(5)] += n * n  # one grey level a pixel: a flat picture does not move
    weights = np.linalg.solve(squares, (basis @ onto.reshape(len(onto), n * n, 1)).astype(np.float64))[..., 0]
    return weights[:, 1:] / np.maximum(weights[:, :1], 0.2)


def _moved(pictures: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Pictures (P, ..., n, n) after a shift and zoom (P, 4), bilinear."""
    rows, columns = _weights(move[:, 2:], pictures.shape[-1]), _weights(move[:, :2], pictures.shape[-1])
    if pictures.ndim == 4:
        rows, columns = rows[:, None], columns[:, None]
    return np.asarray(rows @ pictures @ columns.swapaxes(-1, -2))


def _weights(move: np.ndarray, n: int) -> np.ndarray:
    """Weights (P, n, n) that move the n pixels of a line by a shift and a zoom (P, 2)."""
    places = (np.arange(n) + move[:, :1] + move[:, 1:] * np.linspace(-1, 1, n)).clip(0, n - 1)  # (P, n)
    before = np.minimum(places.astype(int), n - 2)
    share = (places - before).astype(np.float32)
    weights = np.zeros((len(move), n, n), np.float32)
    each, line = np.ogrid[: len(move), :n]
    weights[each, line, before] = 1 - share
    weights[each, line, before + 1] = share
    return weights


def _unexplained(one: np.ndarray, other: np.ndarray, move: np.ndarray) -> np.ndarray:
    """What of the other photo's contrast is left (P,) where one is moved onto it, its brightness and contrast made equal."""
    moved = centred(_moved(one, move))
    left = other - _gain(moved, other) * moved
    left[:, 0] = _without_curve(left[:, 0], moved[:, 0])
    contrast = other[:, 0].std((1, 2))
    parts = _largest_window(left * left) / (contrast + NOISE)[:, None]
    parts[:, 1:] *= COLOUR
    parts[is_grey(one) | is_grey(other), 1:] = 0  # a greyscale copy is one: brightness alone counts
    # of two almost empty photos the windows are alike: half of what there is must be
    alike = (left[:, 0] ** 2).mean((1, 2)) <= contrast**2 / 2
    return np.where(alike, parts.max(1), NOTHING_ALIKE)


def _gain(moved: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What the moved pictures (..., n, n) times a gain (..., 1, 1) come nearest to the others by, 0 or more."""
    squares = (moved * moved).sum((-2, -1), keepdims=True) + moved.shape[-1] ** 2 / 4
    return np.asarray(((moved * other).sum((-2, -1), keepdims=True) / squares).clip(0))


def _without_curve(left: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """What is left (P, 32, 32) beside a square of the brightness: a gamma, or highlights that were cut off, bend it so."""
    curve = centred(brightness * brightness / CURVE)
    curve -= ((curve * brightness).sum((1, 2)) / ((brightness**2).sum((1, 2)) + 1))[:, None, None] * brightness
    weight = (curve * left).sum((1, 2)) / ((curve * curve).sum((1, 2)) + SIZE * SIZE / 4)
    return np.asarray(left - weight[:, None, None] * curve)


def _largest_window(squares: np.ndarray) -> np.ndarray:
    """The largest root mean square (...) over windows, of squares (..., n, n)."""
    side = squares.shape[-1] // WINDOWS
    sums = np.pad(squares, [(0, 0)] * (squares.ndim - 2) + [(1, 0), (1, 0)]).cumsum(-2).cumsum(-1)
    windows = sums[..., side:, side:] - sums[..., :-side, side:]
    windows += sums[..., :-side, :-side] - sums[..., side:, :-side]
    return np.asarray(np.sqrt(windows.max((-2, -1)).clip(0)) / side)
