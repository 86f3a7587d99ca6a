"""The pairs of near-duplicates in a data set, looked for once: of 10,000 photos that takes minutes.

They are kept beside the hashes, for the very thumbnails, limit and code that found them.
"""

import hashlib
from pathlib import Path

import numpy as np

from scripts.atomic import aside
from training.data import alignment, duplicates, neighbours, thumbnail
from training.data.duplicates import near_duplicate_pairs

CODE = (alignment, duplicates, neighbours, thumbnail)


def known_pairs(thumbnails: np.ndarray, limit: float, path: Path | None) -> np.ndarray:
    """Pairs (P, 2) as near_duplicate_pairs finds them; `path` is the .npz that keeps them, None: nothing is kept."""
    if path is None:
        return near_duplicate_pairs(thumbnails, limit)
    key = _key(thumbnails, limit)
    pairs = _read(path, key)
    if pairs is None:
        pairs = near_duplicate_pairs(thumbnails, limit)
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as part, part.open("wb") as file:
            np.savez(file, key=np.array(key), pairs=pairs)
    return pairs


def _key(thumbnails: np.ndarray, limit: float) -> str:
    digest = hashlib.sha256(repr((thumbnails.shape, limit)).encode())
    digest.update(thumbnails.tobytes())
    for module in CODE:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> np.ndarray | None:
    """The pairs, if the file has them for this key and can be read."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return np.asarray(file["pairs"], np.intp) if str(file["key"]) == key else None
    except Exception:  # missing, cut off, of another program: they are looked for again
        return None
