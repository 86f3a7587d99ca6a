"""Which part of a photo, and which words beside it, an answer rests on: by occlusion, which works with every export format.

Part after part of the crop is covered, and the program run again. Sliding patches were measured beside RISE
(arXiv:1806.07421) by that paper's deletion and insertion metrics: as good as its random masks at a third of their cost.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from handler.preprocess import Spec, resized_side
from handler.program import Answers

# for each crop: 10 x 10 patches, each a fifth of the side, so that each pixel is covered by about four
POSITIONS = 10
PATCH = 0.2
HEAT_MAP_CROPS = POSITIONS**2 + 1  # that the program answers for one heat map
GRID = 14
# of a text, the first words that are left out in turn: the network runs once for each
MAX_WORDS = 24
HEAT_MAP_BATCH = 8
# a map of differences below this is not stretched to full colour: it would show noise
FULL_COLOUR_FROM = 0.002
# matplotlib's plasma (CC0) at equal steps. Photos may show anything, so no colour is free of meaning: this map is perceptually
# uniform, its lightness rises all the way, and people with the common kinds of colour blindness can read it
# (Smith and van der Walt, https://bids.github.io/colormap/)
COLOURS = np.array(
    [[13, 8, 135], [84, 2, 163], [139, 10, 165], [185, 50, 137], [219, 92, 104], [244, 136, 73], [254, 188, 43], [240, 249, 33]]
)


def heat_map(program: Callable[[np.ndarray], Answers], crop: np.ndarray, index: int) -> np.ndarray:
    """How much covering each part of a crop uint8 (H, W, 3) lowers the probability of class `index`: float32 (GRID, GRID).

    In probability, mean over the patches that lie on a part; below 0 where covering it makes the class more probable.
    HEAT_MAP_CROPS crops go through the program, HEAT_MAP_BATCH at a time; the same crop and program give the same bits.
    """
    rows, columns = _patches(crop.shape[0]), _patches(crop.shape[1])
    # the crop's own mean colour: black or grey would be a shape of its own in many photos
    cover = crop.mean(axis=(0, 1)).round().astype(np.uint8)
    places = [(row, column) for row in rows for column in columns]
    probabilities = np.empty((len(places) + 1,), np.float32)
    for start in range(0, len(probabilities), HEAT_MAP_BATCH):
        numbers = range(start, min(start + HEAT_MAP_BATCH, len(probabilities)))
        crops = np.repeat(crop[None], len(numbers), axis=0)  # (B, H, W, 3)
        for covered, number in zip(crops, numbers, strict=True):
            if number < len(places):  # the last one is the crop as it is
                (top, bottom), (left, right) = places[number]
                covered[top:bottom, left:right] = cover
        probabilities[start : start + len(numbers)] = program(crops).probabilities[:, index]
    falls = (probabilities[-1] - probabilities[:-1]).reshape(len(rows), len(columns))
    down, across = _overlaps(rows, crop.shape[0]), _overlaps(columns, crop.shape[1])  # (POSITIONS, GRID)
    heat = (down.T @ falls @ across) / np.outer(down.sum(axis=0), across.sum(axis=0))
    return np.asarray(heat, np.float32)


def word_falls(program: Callable[..., Answers], crop: np.ndarray, text: str, index: int) -> list[dict[str, Any]]:
    """How much leaving out each of a text's first MAX_WORDS words lowers the probability of class `index`, the most first.

    `program` takes crops (B, H, W, 3) and B texts. Below 0 where the class is more probable without the word. Words as they were
    written, parted by white space.
    """
    words = text.split()
    texts = [" ".join(words[:left_out] + words[left_out + 1 :]) for left_out in range(min(len(words), MAX_WORDS))]
    probabilities: list[float] = []
    for start in range(0, len(texts) + 1, HEAT_MAP_BATCH):
        batch = [text, *texts][start : start + HEAT_MAP_BATCH]
        probabilities += program(np.repeat(crop[None], len(batch), axis=0), batch).probabilities[:, index].tolist()
    falls = [
        {"word": word, "fall": round(probabilities[0] - probability, 4) + 0.0}
        for word, probability in zip(words, probabilities[1:], strict=False)
    ]
    return sorted(falls, key=lambda one: -one["fall"])


def _patches(side: int) -> list[tuple[int, int]]:
    """(first pixel, pixel after the last) of each patch along a side: centres from edge to edge, cut off at the edges."""
    centres = np.linspace(0, side, POSITIONS)
    half = PATCH * side / 2
    return [(max(round(centre - half), 0), min(round(centre + half), side)) for centre in centres.tolist()]


def _overlaps(patches: list[tuple[int, int]], side: int) -> np.ndarray:
    """How much of each cell of the grid each patch covers, along one side: (POSITIONS, GRID)."""
    edges = np.linspace(0, side, GRID + 1)
    begin, end = np.array(patches, np.float64).T[:, :, None]
    return np.asarray(np.maximum(np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1]), 0))


def overlay(crop: np.ndarray, heat: np.ndarray) -> bytes:
    """PNG of the crop's size: the photo in grey, and over it the heat in colour, from violet (none) to yellow (most)."""
    height, width = crop.shape[:2]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth) / max(float(heat.max()), FULL_COLOUR_FROM), 0, 1)  # (H, W)
    steps = np.arange(len(COLOURS)) / (len(COLOURS) - 1)
    colour = np.stack([np.interp(level, steps, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float32)[..., None]
    opacity = 0.25 + 0.4 * level[..., None]  # the photo stays clearest where it did not matter
    mixed = (1 - opacity) * grey + opacity * colour
    buffer = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def covers(size: tuple[int, int], spec: Spec) -> dict[str, float]:
    """The part that the network sees of an upright photo of that (width, height), in shares of its width and height."""
    width, height = (1, 1) if spec.crop_mode == "squash" else size
    short_side = spec.input_size[1] / resized_side(spec) * min(width, height)
    share_x, share_y = short_side / width, short_side / height
    box = {"left": 0.5 - share_x / 2, "top": 0.5 - share_y / 2, "right": 0.5 + share_x / 2, "bottom": 0.5 + share_y / 2}
    return {name: round(value, 4) for name, value in box.items()}


def explanation(label: str, index: int, probability: float, heat: np.ndarray, size: tuple[int, int], spec: Spec) -> dict[str, Any]:
    """The answer in JSON: the class, its probability, the heat's rows from top to bottom, and the part of the photo they cover.

    `size` is the upright photo's (width, height), in whatever scale it was decoded.
    """
    return {
        "label": label,
        "index": index,
        "probability": probability,
        "grid": [[round(value, 4) + 0.0 for value in row] for row in heat.tolist()],  # + 0.0: no -0.0
        "grid_size": list(heat.shape),
        "covers": covers(size, spec),
    }
