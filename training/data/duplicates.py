"""What counts as a near-duplicate: two photos that are the same everywhere, once one is brought onto the other (alignment.py).

Photos are compared by their thumbnails (thumbnail.py), place by place: of windows of 4 x 4 pixels, the one that differs most
decides, however small. So two dishes on one tray are two, and two soups in one bowl, two mugs of other colours, two pages of one
form. A photo made smaller, brighter, greyscale, turned by 90 degrees, mirrored, cropped by some percent or compressed again is a
copy.

A copy differs at its edges, where pixels are resampled, and by noise elsewhere. So the difference of a window is how far the
picture would have to move for as much, as a part of the window's side. `near_duplicates` in params.yaml is the largest
difference of copies.

The difference is that of two photos alone: no third one changes it. Which pairs are measured, neighbours.py chooses.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from training.data.alignment import align, luma, moved_by, tone_curve, toned
from training.data.neighbours import Pairs, neighbours, turned
from training.data.thumbnail import SIZE, halved, is_grey, pictures_of, smooth

WINDOW = 4
TEXTURE = 10.0  # levels by which a pixel's parts differ where it has no edge
CHUNK = 64  # pairs that are measured at a time: some 50 MB
NOISE = 8.0  # levels that count as an edge in every pixel: of 0.3 of it is the noise of JPEG
CONTRAST = 4.0  # standard deviation in levels, below which a photo is taken for empty: nothing is like it
BLURS = 2  # times that a photo is blurred to be as a copy that was small once
HOPELESS = {16: 2.0, 32: 0.7}  # largest differences at smaller sides: most pairs are done with there
NOTHING_ALIKE = 9.0
GREY_CURVE = np.array([12, 0.1, 0.15, 9])  # how far the curve of a greyscale copy may be from none


def near_duplicate_pairs(thumbnails: np.ndarray, limit: float, first_new: int = 0) -> np.ndarray:
    """Pairs (P, 2) of near-duplicates among thumbnails uint8 (N, PIXELS): their difference is `limit` at most; 0: none are.

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
    one, other = pictures_of(thumbnails[pairs[:, 0]]), pictures_of(thumbnails[pairs[:, 1]])
    return difference(turned(one, pairs[:, 2]), other)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference (P,) of the photos in two stacks of RGB pictures float32 (P, 3, 64, 64), that of the worst window.

    Of a photo and a part of it, the whole explains the part, but not the part the whole: the better of the two counts.
    """
    small = _at_side(one, 16), _at_side(other, 16)
    grey = np.stack([is_grey(pictures) for pictures in small])
    if grey.any():  # of a greyscale copy, brightness alone counts
        either, one, other = grey.any(0), one.copy(), other.copy()
        one[either], other[either] = luma(one[either])[:, None], luma(other[either])[:, None]
    near = np.flatnonzero(np.minimum(*(pictures.std((1, 2, 3)) for pictures in small)) >= CONTRAST)
    differences = np.full(len(one), NOTHING_ALIKE)
    one, other, grey = one[near], other[near], grey[:, near]
    differences[near] = np.minimum(_explained_by(one, other, grey), _explained_by(other, one, grey[::-1]))
    return differences


def _explained_by(one: np.ndarray, other: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """What is left (P,) of the other photos where one is moved onto them, its tones made equal, from coarse to fine."""
    differences, near = np.full(len(one), NOTHING_ALIKE), np.arange(len(one))
    move = np.zeros((len(near), 4))
    for side in (8, 16, 32):  # most pairs are done with at a smaller side
        coarse, onto = (_at_side(pictures[near], side) for pictures in (one, other))
        move = align(coarse, onto, move)
        if side in HOPELESS:
            left = unexplained(coarse, onto, move, grey[:, near])
            near, move = near[left <= HOPELESS[side]], move[left <= HOPELESS[side]]
    sharp = one[near]
    for _ in range(BLURS + 1):  # a copy that was small once is blurred, and a photo can be blurred, not sharpened
        differences[near] = np.minimum(differences[near], unexplained(sharp, other[near], move, grey[:, near]))
        sharp = smooth(sharp)
    return differences


def _at_side(pictures: np.ndarray, side: int) -> np.ndarray:
    while pictures.shape[-1] > side:
        pictures = halved(pictures)
    return pictures


def unexplained(one: np.ndarray, other: np.ndarray, move: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """What one photo, moved (P, 4) and its tones made equal, differs from the other by in the worst window (P,), in pixels.

    `grey` (2, P) is which of them are greyscale.
    """
    moved = moved_by(one, move)
    # the curve is that of the whole photo: half the size is enough
    curve = tone_curve(*((halved(moved), halved(other)) if one.shape[-1] > 32 else (moved, other)))
    wanted = toned(moved, curve)
    left = wanted.clip(0, 255) - other
    edges = np.minimum(_edges(moved), _edges(other))
    blown = _cut_off(moved, wanted, _edges(moved))
    windows = np.sqrt((_sums((left * left).mean(1)) / _sums(edges + blown + NOISE**2)).max((1, 2))) * SIZE / one.shape[-1] / WINDOW
    # a greyscale copy keeps its tones: a grey mug is none of a red one
    bent = (grey[0] ^ grey[1]) & (np.abs(curve) > GREY_CURVE).any(1)
    return np.where(bent, NOTHING_ALIKE, windows)


def _cut_off(before: np.ndarray, after: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """By how much, squared, pixels (P, n, n) may be off where a part of each is cut off at white or at black."""
    reach = 2 * np.sqrt(edges)[:, None] + TEXTURE
    white = np.minimum((after - before).clip(0), (reach - np.abs(after - 255)).clip(0))
    black = np.minimum((before - after).clip(0), (reach - np.abs(after)).clip(0))
    return np.asarray((white**2 + black**2).mean(1))


def _edges(pictures: np.ndarray) -> np.ndarray:
    """By how much, squared, a move by a pixel changes RGB pictures (P, 3, n, n), at each pixel: (P, n, n)."""
    squares = np.zeros((len(pictures), *pictures.shape[2:]), np.float32)
    for plane in range(3):
        down, right = np.diff(pictures[:, plane], axis=1), np.diff(pictures[:, plane], axis=2)
        squares[:, :-1] += down * down / 3
        squares[:, :, :-1] += right * right / 3
    return squares


def _sums(pictures: np.ndarray) -> np.ndarray:
    """The sums over windows of pictures (P, n, n), without the edge: what lies beyond it has a part in its pixels."""
    side, edge = WINDOW, 1 + pictures.shape[-1] // 64
    pictures = pictures[:, edge:-edge, edge:-edge]
    sums = np.pad(pictures, [(0, 0), (1, 0), (1, 0)]).astype(np.float64).cumsum(-2).cumsum(-1)
    windows = sums[..., side:, side:] - sums[..., :-side, side:]
    windows += sums[..., :-side, :-side] - sums[..., side:, :-side]
    return np.asarray(windows.clip(1))
