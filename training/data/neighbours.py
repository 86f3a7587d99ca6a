"""Which pairs of photos are worth measuring: to measure all pairs of 100,000 photos would take days.

Each photo becomes a point with 32 coordinates: the directions in which the photos of this data set differ most, beyond what a
crop or a change of tones adds to any photo. So what they have in common, such as one background, has no part in it. For each
photo, turned and mirrored in all eight ways, the nearest points are its neighbours, NEIGHBOURS at most. They are looked for in
the cells around it: N points are in sqrt(N) cells, and PROBED of those are searched, so the work grows with N * sqrt(N), however
alike the photos are.
"""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh

from training.data.alignment import moved_by
from training.data.thumbnail import CHROMA, LUMA, SIZE, centred, halved, is_grey

SIDE = 8  # of the pictures that points are made from
DIRECTIONS = 32
TURNS = 8
NEIGHBOURS = 8
PROBED = 16
# distance of two points, in standard deviations of what a crop, tones and noise change
RADIUS = 48.0
CUT = 0.12  # of the side, at most, that a crop takes from it
BEND, COLOUR = 0.3, 0.2  # of gamma, and of the strength of colours
PIXEL_NOISE = 0.02  # of a point's length, which is 1
SAMPLE = 1000  # photos that the directions are found from
CHUNK = 2048

# rows (P, 3): one photo's number, another one's, and how the first is to be turned (see turned)
Pairs = np.ndarray
INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7])  # turns that undo a turn


def neighbours(thumbnails: np.ndarray, first_new: int) -> Pairs:
    """The pairs to measure, each once, of thumbnails uint8 (N, PIXELS): those with a photo from `first_new` on."""
    small = np.concatenate([np.zeros((0, 3, SIDE, SIDE), np.float32), *(_small(part, SIDE) for part in _chunks(thumbnails))])
    grey = is_grey(small)
    new = np.arange(len(thumbnails)) >= first_new
    found = [_search(thumbnails, small, np.flatnonzero(new & ~grey), colours=True)]
    if grey.any():  # a greyscale photo is looked for by brightness alone, among photos in colour, too
        found.append(_search(thumbnails, small, np.flatnonzero(grey), colours=False))
    pairs = np.concatenate(found)
    swapped = pairs[:, 0] > pairs[:, 1]
    pairs[swapped] = np.column_stack([pairs[swapped, 1], pairs[swapped, 0], INVERSE[pairs[swapped, 2]]])
    return np.unique(pairs[new[pairs[:, 1]]], axis=0)


def turned(pictures: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Pictures (P, ..., n, n), each turned by 0 to 3 times 90 degrees, and mirrored before where 4 is added: turns (P,)."""
    pictures = pictures.copy()
    for turn in np.unique(turns[turns > 0]):
        chosen = turns == turn
        part = pictures[chosen]
        pictures[chosen] = np.rot90(part[..., ::-1] if turn >= 4 else part, turn % 4, (-2, -1))
    return pictures


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _small(thumbnails: np.ndarray, side: int) -> np.ndarray:
    """RGB pictures float32 (N, 3, side, side) of thumbnails."""
    n = SIZE // side
    pixels = thumbnails.reshape(len(thumbnails), side, n, side, n, 3).transpose(0, 5, 1, 3, 2, 4)
    return np.asarray(pixels.mean((4, 5), dtype=np.float32))


def _search(thumbnails: np.ndarray, small: np.ndarray, asked: np.ndarray, colours: bool) -> Pairs:
    """The neighbours of the photos `asked`, in every turn."""
    if not len(asked):
        return np.zeros((0, 3), np.intp)
    directions = _directions(thumbnails[:: 1 + len(small) // SAMPLE], colours)
    points = np.concatenate([_features(part, colours) @ directions for part in _chunks(small)])
    turns = np.arange(TURNS).repeat(len(asked))
    queries = np.concatenate(
        [_features(turned(small[asked], np.full(len(asked), turn)), colours) @ directions for turn in range(TURNS)]
    )
    which, distances = _nearest(points, queries)  # (8 * A, K)
    distances[which == np.tile(asked, TURNS)[:, None]] = np.inf  # a photo is no neighbour of its own
    # of all turns of a photo, the nearest
    distances, which = (a.reshape(TURNS, len(asked), -1).swapaxes(0, 1).reshape(len(asked), -1) for a in (distances, which))
    turns = np.arange(TURNS).repeat(which.shape[1] // TURNS)
    chosen = distances.argsort(1, kind="stable")[:, :NEIGHBOURS]
    rows, columns = np.nonzero(np.take_along_axis(distances, chosen, 1) <= RADIUS**2)
    columns = chosen[rows, columns]
    return np.column_stack([asked[rows], which[rows, columns], turns[columns]])


def _planes(small: np.ndarray, colours: bool) -> np.ndarray:
    """Brightness, and two colours if wanted, of RGB pictures: (N, 1 or 3, 8, 8), each of mean 0."""
    matrix = np.vstack([LUMA, CHROMA]) if colours else LUMA[None]
    return centred(np.einsum("kc,ncyx->nkyx", matrix, small, optimize=True))


def _length(planes: np.ndarray) -> np.ndarray:
    # one grey level a pixel is added, so that noise alone is no picture
    return np.asarray(np.linalg.norm(planes[:, 0], axis=(1, 2))[:, None] + SIDE)


def _features(small: np.ndarray, colours: bool) -> np.ndarray:
    """RGB pictures as rows (N, 64 or 192), the brightness of length 1."""
    planes = _planes(small, colours)
    return np.asarray(planes.reshape(len(planes), -1) / _length(planes))


def _directions(thumbnails: np.ndarray, colours: bool) -> np.ndarray:
    """Directions (64 or 192, 32) in which photos differ most, as multiples of what crops, tones and noise change.

    Fisher's linear discriminant, where one photo and its copies are a class.
    """
    photos = np.concatenate([_small(part, 2 * SIDE) for part in _chunks(thumbnails)])
    photos = np.concatenate([turned(photos, np.full(len(photos), turn)) for turn in range(TURNS)])  # so that all turns count alike
    planes = _planes(halved(photos), colours)
    rows, length, size = _features(halved(photos), colours), _length(planes), planes[0].size
    cuts = np.random.default_rng(0).uniform(0, CUT, (len(photos), 2, 2))  # of both sides in x and in y
    crops = moved_by(
        photos, np.concatenate([cuts[..., :1] - cuts[..., 1:], -cuts.sum(2, keepdims=True)], axis=2).reshape(-1, 4) / 2
    )
    bent, coloured = np.zeros_like(planes), planes.copy()
    bent[:, 0], coloured[:, 0] = BEND / 64 * centred(planes[:, 0] ** 2), 0
    changes = [
        _features(halved(crops), colours) - rows,
        bent.reshape(-1, size) / length,
        COLOUR * coloured.reshape(-1, size) / length,
    ]
    within = sum((change.T @ change / len(rows) for change in changes), PIXEL_NOISE**2 * np.eye(size))
    differing = rows - rows.mean(0)
    _, found = eigh(differing.T @ differing / len(rows), within, subset_by_index=(size - DIRECTIONS, size - 1))
    return np.asarray(found, np.float32)


def _nearest(points: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points nearest to each query, one and NEIGHBOURS at most, and their squared distances, both (Q, K); inf: fewer."""
    count = min(len(points), NEIGHBOURS + 1)
    which, least = np.zeros((len(queries), count), np.int32), np.full((len(queries), count), np.inf, np.float32)
    centres = points[np.random.default_rng(0).choice(len(points), int(np.ceil(np.sqrt(len(points)))), replace=False)]
    cell_of, home_of = _nearest_centre(points, centres), _nearest_centre(queries, centres)
    members = [np.flatnonzero(cell_of == cell) for cell in range(len(centres))]
    for cell, nearest_cells in enumerate(_squared_distances(centres, centres).argsort(1, kind="stable")[:, :PROBED]):
        near = np.concatenate([members[k] for k in nearest_cells])
        for asked in _chunks(np.flatnonzero(home_of == cell)):
            distances = _squared_distances(queries[asked], points[near])
            chosen = distances.argpartition(min(count, len(near)) - 1, 1)[:, :count]
            which[asked, : chosen.shape[1]] = near[chosen]
            least[asked, : chosen.shape[1]] = np.take_along_axis(distances, chosen, 1)
    return which, least


def _nearest_centre(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate([_squared_distances(part, centres).argmin(1) for part in _chunks(points)])


def _squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances (N, M) between two sets of points."""
    return np.asarray((one * one).sum(1)[:, None] + (other * other).sum(1) - 2 * one @ other.T)
