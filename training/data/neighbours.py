"""Which pairs of photos are worth measuring: to measure all pairs of 100,000 photos would take days.

Each photo becomes a point with 32 coordinates: the directions in which the photos of this data set differ most, beyond what a
crop changes in any photo. So what they have in common, such as one background, has no part in it. For each photo, and for it
mirrored, the nearest points are its neighbours, NEIGHBOURS at most. They are looked for in the cells around it: N points are in
sqrt(N) cells, and PROBED of those are searched, so the work grows with N * sqrt(N), however alike the photos are.
"""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from training.data.thumbnail import halved, is_grey, planes, smooth, tangents

DIRECTIONS = 32
ITERATIONS = 4
NEIGHBOURS = 16
PROBED = 16
# distance of two points, in standard deviations of what a crop and noise change
RADIUS = 12.0
CROP_SHIFT = 0.5  # in pixels of 16: 3 % of the side
PIXEL_NOISE = 0.02  # of a point's length, which is 1
SAMPLE = 4000  # photos that the directions are found from
CHUNK = 2048

# rows (P, 3): one photo's number, a larger one, and 1 where one of the two is to be mirrored, else 0
Pairs = np.ndarray


def neighbours(thumbnails: np.ndarray, first_new: int) -> Pairs:
    """The pairs to measure, each once, of thumbnails uint8 (N, 32 * 32 * 3): those with a photo from `first_new` on."""
    grey = np.concatenate([np.zeros(0, bool), *(is_grey(planes(part)) for part in _chunks(thumbnails))])
    new = np.arange(len(thumbnails)) >= first_new
    found = [np.zeros((0, 3), np.intp), _search(thumbnails, np.flatnonzero(new & ~grey), colours=True)]
    if grey.any():  # a greyscale photo is looked for by brightness alone, among photos in colour, too
        found.append(_search(thumbnails, np.flatnonzero(grey), colours=False))
    pairs = np.concatenate(found)
    pairs = np.column_stack([pairs[:, :2].min(1), pairs[:, :2].max(1), pairs[:, 2]])
    return np.unique(pairs[(pairs[:, 0] != pairs[:, 1]) & new[pairs[:, 1]]], axis=0)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _search(thumbnails: np.ndarray, asked: np.ndarray, colours: bool) -> Pairs:
    """The neighbours of the photos `asked`, as they are and mirrored."""
    if not len(asked):
        return np.zeros((0, 3), np.intp)
    directions = _directions(thumbnails[:: 1 + len(thumbnails) // SAMPLE], colours)
    points = np.concatenate([_features(planes(part), colours) @ directions for part in _chunks(thumbnails)])
    mirrored = [_features(planes(thumbnails[part])[..., ::-1], colours) @ directions for part in _chunks(asked)]
    found = _nearest(points, np.concatenate([points[asked], *mirrored]))
    return np.column_stack([asked[found[:, 0] % len(asked)], found[:, 1], found[:, 0] >= len(asked)])


def _features(stack: np.ndarray, colours: bool) -> np.ndarray:
    """Planes as rows (N, 256 or 768) of 16 x 16 pixels, the brightness of length 1."""
    coarse = smooth(halved(stack if colours else stack[:, :1]))
    return np.asarray(coarse.reshape(len(coarse), -1) / _length(coarse))


def _length(coarse: np.ndarray) -> np.ndarray:
    # one grey level a pixel is added, so that noise alone is no picture
    return np.asarray(np.linalg.norm(coarse[:, 0], axis=(1, 2))[:, None] + coarse.shape[-1])


def _directions(sample: np.ndarray, colours: bool) -> np.ndarray:
    """Directions (256 or 768, 32) in which photos differ most, as multiples of what crops and noise change.

    Fisher's linear discriminant, where one photo and its crops are a class.
    """
    rows, crops = [], []
    for part in _chunks(sample):
        for stack in (planes(part), planes(part)[..., ::-1]):  # both, so that a photo and its mirrored copy count alike
            coarse = smooth(halved(stack if colours else stack[:, :1]))
            moves = np.concatenate([tangents(plane).reshape(len(stack), 4, -1) for plane in coarse.swapaxes(0, 1)], axis=2)
            rows.append(_features(stack, colours))
            crops.append((moves / _length(coarse)[:, None]).reshape(-1, moves.shape[2]))
    differing = np.concatenate(rows) - np.concatenate(rows).mean(0)
    size = differing.shape[1]
    within = sum((CROP_SHIFT**2 * part.T @ part for part in crops), PIXEL_NOISE**2 * len(differing) * np.eye(size))
    to_noise = cholesky(within / len(differing), lower=True)
    differing = solve_triangular(to_noise, differing.T, lower=True)  # (size, N), in multiples of what crops and noise change
    # the directions of the largest variance, by subspace iteration: near enough, and faster than all eigenvectors
    found = np.random.default_rng(0).normal(size=(size, DIRECTIONS))
    for _ in range(ITERATIONS):
        # beside the variance 1 that noise has in each direction: of two photos, the others have none
        found = differing @ (differing.T @ found) + differing.shape[1] * found
        # made orthonormal by way of a small matrix (Cholesky QR): np.linalg.qr takes long while other processes take the cores
        found = solve_triangular(cholesky(found.T @ found, lower=True), found.T, lower=True).T
    return np.asarray(solve_triangular(to_noise, found, lower=True, trans="T"), np.float32)


def _nearest(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows (query, point) of the points nearest to each query, NEIGHBOURS and one at most, within RADIUS."""
    centres = points[np.random.default_rng(0).choice(len(points), int(np.ceil(np.sqrt(len(points)))), replace=False)]
    cell_of, home_of = _nearest_centre(points, centres), _nearest_centre(queries, centres)
    members = [np.flatnonzero(cell_of == cell) for cell in range(len(centres))]
    found = [np.zeros((0, 2), np.intp)]
    for cell, nearest_cells in enumerate(_squared_distances(centres, centres).argsort(1, kind="stable")[:, :PROBED]):
        near = np.concatenate([members[k] for k in nearest_cells])
        for asked in _chunks(np.flatnonzero(home_of == cell)):
            distances = _squared_distances(queries[asked], points[near])
            if distances.shape[1] > NEIGHBOURS + 1:  # and one: a photo is its own nearest
                chosen = distances.argpartition(NEIGHBOURS, 1)[:, : NEIGHBOURS + 1]
            else:
                chosen = np.arange(distances.shape[1])[None].repeat(len(asked), 0)
            rows, columns = np.nonzero(np.take_along_axis(distances, chosen, 1) <= RADIUS**2)
            found.append(np.column_stack([asked[rows], near[chosen[rows, columns]]]))
    return np.concatenate(found)


def _nearest_centre(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate([_squared_distances(part, centres).argmin(1) for part in _chunks(points)])


def _squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances (N, M) between two sets of points."""
    return np.asarray((one * one).sum(1)[:, None] + (other * other).sum(1) - 2 * one @ other.T)
