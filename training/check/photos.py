"""What is measured of each photo by itself: size, brightness, sharpness; and which of them are unlike the rest."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from handler.preprocess import PhotoError, read_photo

DARK, BRIGHT = 40.0, 235.0  # mean levels of brightness
TINY = 96  # pixels of the short side: less than half of what most networks take
LONG = 2.5  # of the long side to the short one: the crop sees less than half of such a photo
SIDE = 384  # of the picture whose sharpness is measured
FAR = 3.5  # robust standard deviations beyond which a photo is unlike the rest
NEIGHBOURS = 10
CHUNK = 1024


@dataclass(frozen=True)
class Measures:
    """Of one photo: pixels, mean brightness in 0..255, and sharpness, the variance of the Laplacian."""

    width: int
    height: int
    brightness: float
    sharpness: float


def measure(path: Path) -> Measures | str:
    """The measures of a photo; why it cannot be read."""
    try:
        image = read_photo(path.read_bytes())
    except (PhotoError, OSError) as error:
        return str(error)
    width, height = image.size
    image = image.convert("L")
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    levels = np.asarray(image, np.float32)
    if min(levels.shape) < 3:
        return Measures(width, height, float(levels.mean()), 0.0)
    laplacian = levels[1:-1, :-2] + levels[1:-1, 2:] + levels[:-2, 1:-1] + levels[2:, 1:-1] - 4 * levels[1:-1, 1:-1]
    return Measures(width, height, float(levels.mean()), float(laplacian.var()))


def measure_all(paths: Sequence[Path]) -> list[Measures | str]:
    """measure() of each photo, on all cores."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(measure, paths), "measuring photos", len(paths), delay=3, leave=False))


def oddities(measures: Sequence[Measures]) -> list[dict[str, str]]:
    """What is odd about each photo, and by how much, for people."""
    sharpness = torch.tensor([np.log1p(one.sharpness) for one in measures])
    blurred = far_above(-sharpness)
    found = []
    for one, is_blurred in zip(measures, blurred.tolist(), strict=True):
        size, short, long = f"{one.width} x {one.height} pixels", min(one.width, one.height), max(one.width, one.height)
        level = f"mean brightness {one.brightness:.0f} of 255"
        odd = {"dark": level if one.brightness < DARK else "", "bright": level if one.brightness > BRIGHT else ""}
        odd |= {"tiny": size if short < TINY else "", "odd shape": size if long > LONG * short else ""}
        odd["blurred"] = f"sharpness {one.sharpness:.0f}" if is_blurred else ""
        found.append({kind: detail for kind, detail in odd.items() if detail})
    return found


def far_above(values: Tensor) -> Tensor:
    """Which values (N,) are over FAR robust standard deviations above the median, bool (N,)."""
    deviations = values - values.median()
    spread = 1.4826 * deviations.abs().median()
    return deviations > FAR * spread.clamp(min=1e-6)


def distances(features: Tensor) -> Tensor:
    """The mean cosine distance (N,) of each photo to its nearest NEIGHBOURS, by features (N, F)."""
    # as they are: without their mean, photos of other things were no farther away than those of dishes
    unit = torch.nn.functional.normalize(features)
    count = min(NEIGHBOURS, len(unit) - 1)
    nearest = [(part @ unit.T).topk(count + 1, 1).values[:, 1:].mean(1) for part in unit.split(CHUNK)]
    return 1 - torch.cat(nearest)
