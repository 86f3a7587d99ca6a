"""In which order photos are looked at: those from which the next model learns most come first.

A photo counts by how unsure its answer is (one minus the margin between its two best classes) and by whether two versions disagree,
times its distance from what was looked at before: k-centre greedy (arXiv:1708.00489), weighted, so that a hundred photos of one
confusion do not come in a row.
"""

import numpy as np

DISAGREEMENT = 1.0  # what it adds to an unsureness from 0 to 1
SPREAD = 1000  # photos that are kept apart; the rest goes by weight alone: nobody looks at more at a sitting
DIMENSIONS = 64  # of the features, by a random projection, which keeps distances within some percent


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Unsureness, (N,) from 0 to 1, of probabilities (N, num_classes) or of each answer's best few (N, k), k > 1."""
    best = -np.sort(-probabilities, axis=1)
    return np.asarray(1 - (best[:, 0] - best[:, 1]))


def in_order(unsure: np.ndarray, differs: np.ndarray, features: np.ndarray | None, known: np.ndarray | None = None) -> np.ndarray:
    """Indices (N,), the first first.

    unsure (N,): from 0 to 1; differs (N,): whether versions disagree; features (N, D), None if there are none; known (M, D): those
    of photos that are labelled already.
    """
    weights = unsure + DISAGREEMENT * differs
    by_weight = np.argsort(-weights, kind="stable")
    if features is None or len(features) < 2:
        return by_weight
    both = features if known is None else np.concatenate([features, known])
    both = _projected(both)
    spread = _spread(weights, both[: len(features)], both[len(features) :])
    rest = by_weight[~np.isin(by_weight, spread)]
    return np.concatenate([spread, rest])


def _spread(weights: np.ndarray, features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The first SPREAD, each the one with the most weight times distance from all before it."""
    nearest = np.full(len(features), np.inf, np.float32)
    for one in known:
        np.minimum(nearest, _distances(features, one), out=nearest)
    chosen: list[int] = []
    left = np.ones(len(features), bool)
    for _ in range(min(SPREAD, len(features))):
        scores = weights * np.where(np.isinf(nearest), 1, nearest)
        index = int(np.argmax(np.where(left, scores, -1)))
        chosen.append(index)
        left[index] = False
        np.minimum(nearest, _distances(features, features[index]), out=nearest)
    return np.array(chosen)


def _distances(features: np.ndarray, one: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(0, 2 - 2 * features @ one)))  # of vectors of length 1


def _projected(features: np.ndarray) -> np.ndarray:
    """Centred, in fewer dimensions, of length 1: float32."""
    features = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    if features.shape[1] > DIMENSIONS:
        directions = np.random.default_rng(0).standard_normal((features.shape[1], DIMENSIONS), np.float32)
        features = features @ directions
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))
