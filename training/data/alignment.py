"""How one photo is brought onto another before the two are compared: a shift and a zoom, and the tones of one for the other.

Only what is done to a whole photo is made equal: cropped by up to a tenth a side, brightness, contrast, gamma, strength of colour.
The same curve holds for red, green and blue, so it does not make a green mug of a red one.
"""

import numpy as np

from training.data.thumbnail import LUMA, places, smooth, tangents

STEPS = 2  # of least squares: each is right for a part of a pixel only
LARGEST_STEP = 0.8  # pixels
LARGEST_MOVE = 0.12  # of the side
# the curve: what is added at level 0, contrast - 1, bend in the middle (of 64 levels), strength of colour - 1
LEAST = np.array([-80, -0.4, -0.7, -0.5])
MOST = np.array([80, 0.5, 0.7, 0.6])
STIFF = np.array([1e-3, 1.0, 100.0, 20.0])  # of so many levels squared, per unit: what bends least is right
CENSORED = 3  # passes of the fit: what is cut off at white or black, only a fit shows
CUT_OFF = 3.0  # levels beyond black or white that are no noise
WHITE, BLACK = 235, 8  # levels from which on a part of a pixel may be cut off


def luma(pictures: np.ndarray) -> np.ndarray:
    """The brightness (P, n, n) of RGB pictures (P, 3, n, n)."""
    return np.asarray(np.tensordot(pictures, LUMA, (1, 0)))


def align(one: np.ndarray, onto: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Shift and zoom (P, 4), parts of the side in x and y, that bring RGB pictures (P, 3, n, n) onto others.

    `move` is where the search begins: pictures of half the size come first.
    """
    side, wanted = one.shape[-1], smooth(luma(onto))
    best, least = move, np.full(len(move), np.inf)
    for step in range(STEPS + 1):
        moved = moved_by(one, move)
        if step == 0:
            curve = tone_curve(moved, onto)
        brightness = smooth(luma(toned(moved, curve).clip(0, 255)))
        left = ((brightness - wanted) ** 2).mean((1, 2))
        best, least = np.where((left < least)[:, None], move, best), np.minimum(left, least)
        if step < STEPS:
            move = (move + _step(brightness, wanted) / side).clip(-LARGEST_MOVE, LARGEST_MOVE)
    return best


def _step(one: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Shift and zoom in pixels (P, 4), x and y, that bring each picture (P, n, n) onto another, by least squares.

    Linear (Lucas and Kanade, 1981): the other is this one times a gain, plus what a small shift and a small zoom add to it.
    """
    n = one.shape[-1]
    basis = np.concatenate([one[:, None], tangents(one)], axis=1).reshape(len(one), 5, n * n)
    basis -= basis.mean(axis=2, keepdims=True)
    squares = (basis @ basis.transpose(0, 2, 1)).astype(np.float64)
    squares[:, range(5), range(5)] += n * n  # one grey level a pixel: a flat picture does not move
    weights = np.linalg.solve(squares, (basis @ onto.reshape(len(onto), n * n, 1)).astype(np.float64))[..., 0]
    return np.asarray(weights[:, 1:] / np.maximum(weights[:, :1], 0.2)).clip(-LARGEST_STEP, LARGEST_STEP)


def moved_by(pictures: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Pictures (P, ..., n, n) after a shift and zoom (P, 4), in parts of the side."""
    rows, columns = _weights(move[:, 2:], pictures.shape[-1]), _weights(move[:, :2], pictures.shape[-1])
    if pictures.ndim == 4:
        rows, columns = rows[:, None], columns[:, None]
    return np.asarray(rows @ pictures @ columns.swapaxes(-1, -2))


def _weights(move: np.ndarray, n: int) -> np.ndarray:
    """Weights (P, n, n) that move the n pixels of a line by a shift and a zoom (P, 2): Keys' cubic, which does not blur."""
    move = move * n
    at = (np.arange(n) + move[:, :1] + move[:, 1:] * places(n)).clip(0, n - 1)  # (P, n)
    before = at.astype(int)
    t = (at - before).astype(np.float32)
    cubic = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    weights = np.zeros((len(move), n, n), np.float32)
    each, line = np.ogrid[: len(move), :n]
    for offset, weight in zip(range(-1, 3), cubic, strict=True):
        weights[each, line, (before + offset).clip(0, n - 1)] += weight / 2
    return weights


def _tones(pictures: np.ndarray) -> np.ndarray:
    """What a curve is made of (P, 4, 3, n, n), of RGB pictures (P, 3, n, n)."""
    bend = pictures * (255 - pictures) / 255
    return np.stack([np.ones_like(pictures), pictures, bend, pictures - luma(pictures)[:, None]], axis=1)


def tone_curve(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The weights (P, 4) of _tones by which RGB pictures (P, 3, n, n) come nearest to others."""
    count = one.shape[1] * one.shape[2] * one.shape[3]
    basis = _tones(one).reshape(len(one), 4, count)
    flat, target = one.reshape(len(one), count), other.reshape(len(one), count)
    weights = np.zeros((len(one), 4))
    fitted = np.where(target >= WHITE, 255 + 2 * CUT_OFF, np.where(target <= BLACK, -2 * CUT_OFF, target))
    for _ in range(CENSORED):
        # what is white and would be lighter, or black and would be darker, is right as it is
        counts = ~(((target >= WHITE) & (fitted >= target)) | ((target <= BLACK) & (fitted <= target)))
        counts &= ~_beside_cut_off(fitted.reshape(one.shape)).reshape(counts.shape)
        weighted = basis * counts[:, None]
        squares = (weighted @ basis.transpose(0, 2, 1)).astype(np.float64)
        squares[:, range(4), range(4)] += STIFF * count
        right = (weighted @ (target - flat)[..., None]).astype(np.float64)
        weights = np.linalg.solve(squares, right)[..., 0].clip(LEAST, MOST)
        fitted = flat + (weights[:, None].astype(np.float32) @ basis)[:, 0]
    return weights


def _beside_cut_off(fitted: np.ndarray) -> np.ndarray:
    """Which pixels of pictures (P, 3, n, n) are cut off at white or black, or beside one that is: a part of each is."""
    beside = (fitted > 255 + CUT_OFF) | (fitted < -CUT_OFF)
    for _ in range(2):  # rows, then columns
        grown = beside.copy()
        grown[..., 1:, :] |= beside[..., :-1, :]
        grown[..., :-1, :] |= beside[..., 1:, :]
        beside = grown.swapaxes(-1, -2)
    return beside


def toned(pictures: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """RGB pictures (P, 3, n, n) after a curve (P, 4), not cut off at black and white."""
    start, contrast, bend, colour = (weight[:, None, None, None].astype(np.float32) for weight in weights.T)
    bent = pictures * (1 + contrast + colour + bend * (1 - pictures / 255)) + start
    return np.asarray(bent - colour * luma(pictures)[:, None])
