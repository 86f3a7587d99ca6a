"""Which side of a photo with a text training leaves out, so that the model learns to answer by either alone."""

import hashlib
from typing import NamedTuple

import numpy as np

from handler.text import ReadsText, text_ids


class Side(NamedTuple):
    """What training shows of a text, ids int64 (L,), and whether its photo counts: float32, 1 or 0."""

    ids: np.ndarray
    seen: np.float32


def shown(text: str, spec: ReadsText, dropout: float, seed: int, epoch: int, position: int) -> Side:
    """A photo's text, or without it, or without the photo: each for half of the share `dropout`, drawn by seed, epoch, position.

    A photo without a text, or one without words, is never left out.
    """
    ids = np.array(text_ids(text, spec), np.int64)
    # by itself: the crop's draw, of the same three numbers, is that of a model without text
    drawn = int.from_bytes(hashlib.sha256(f"side {seed} {epoch} {position}".encode()).digest()[:7]) / 2**56
    if drawn >= dropout or not ids.any():
        return Side(ids, np.float32(1))
    return Side(ids, np.float32(0)) if drawn < dropout / 2 else Side(np.zeros_like(ids), np.float32(1))
