"""What a network answers for photos, with its features: the input of its last layer, and those of its middle."""

import copy
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from handler.preprocess import PhotoError, Spec, ids_of, preprocess
from scripts.phrases import counted
from training.data.split import Photo
from training.model import Classifier

# the class means of all 3,163 training photos of food10 gave no better AUROC than those of 10 a class
PHOTOS_A_CLASS = 100
BATCH = 32
SMALL = 0.3  # of a crop's side: as many pixels as a copy of a training photo has


class Outputs(NamedTuple):
    """Of N photos, float32: features (N, F), logits (N, C), and mean features (N, M) of the network's last stage but one.

    M is 0 for a network whose stages timm cannot return.
    """

    features: Tensor
    logits: Tensor
    middle: Tensor


class WithFeatures(nn.Module):
    """timm's network, which returns Outputs."""

    def __init__(self, network: nn.Module, size: int) -> None:
        """`size` is that of a crop in pixels."""
        super().__init__()
        self.network: Any = network
        self.by_stages = returns_stages(network, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised crops (B, 3, H, W) -> Outputs, as a plain tuple, which exporters know."""
        if self.by_stages:
            maps, (stage,) = self.network.forward_intermediates(x, indices=[-2], stop_early=False)  # (B, M, h, w)
            middle = stage.mean((2, 3))
        else:
            maps, middle = self.network.forward_features(x), x.new_zeros(len(x), 0)
        # forward_head twice, as it returns one or the other; pooling and the last layer cost little
        return self.network.forward_head(maps, pre_logits=True), self.network.forward_head(maps), middle


@torch.no_grad()
def returns_stages(network: nn.Module, size: int) -> bool:
    """Whether timm returns the network's last stage but one beside the same maps that forward_features gives."""
    network = copy.deepcopy(network).eval()  # neither batch statistics nor caches of the network itself are touched
    some = next(network.parameters())
    crops = torch.linspace(-2, 2, 3 * size * size, device=some.device, dtype=some.dtype).view(1, 3, size, size)
    try:
        maps, (stage,) = network.forward_intermediates(crops, indices=[-2], stop_early=False)  # type: ignore[operator]
        expected = network.forward_features(crops)  # type: ignore[operator]
    except Exception:  # what older networks of timm, small ones and those of others raise is of many kinds
        return False
    return stage.ndim == 4 and maps.shape == expected.shape and torch.allclose(maps, expected, rtol=1e-3, atol=1e-4)


def training_photos(photos: Iterable[Photo], trained_on: Iterable[str]) -> list[Photo]:
    """The photos with a sha256 in `trained_on`, at most PHOTOS_A_CLASS of each class, chosen by content."""
    seen, chosen, count = set(trained_on), [], Counter[int]()
    # by sha256: a random choice that is the same wherever the photos lie
    for photo in sorted(photos, key=lambda p: p.sha256):
        if photo.sha256 in seen and count[photo.index] < PHOTOS_A_CLASS:
            count[photo.index] += 1
            chosen.append(photo)
    return chosen


@torch.no_grad()
def extract_features(
    classifier: Classifier, spec: Spec, paths: Sequence[Path], device: torch.device, texts: Sequence[str] = (), small: bool = False
) -> tuple[Outputs, list[Path]]:
    """(outputs, left out) of photos preprocessed as in the worker; on the CPU.

    `texts`, one for each path, count where the model reads them; without, it answers by the photos alone.
    With `small`, of crops that have lost all but SMALL of their pixels a side. Photos that cannot be read are named on stderr and
    left out. ValueError if none is left.
    """
    model = Classifier(WithFeatures(classifier.network, spec.input_size[-1]), spec, tower=classifier.tower).eval().to(device)

    def read(path: Path) -> np.ndarray | None:
        try:
            crop = preprocess(path.read_bytes(), spec)
            return made_small(crop) if small else crop
        except (PhotoError, OSError) as error:
            print(f"left out {path}: {error}", file=sys.stderr)
            return None

    parts: list[list[Tensor]] = []
    left_out: list[Path] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            crops = list(pool.map(read, batch))
            left_out += [path for path, crop in zip(batch, crops, strict=True) if crop is None]
            # stacked here and not by a DataLoader: an unreadable photo is left out of its batch
            read_ones = [number for number, crop in enumerate(crops) if crop is not None]
            if readable := [torch.from_numpy(crop) for crop in crops if crop is not None]:
                ids = ids_of([texts[start + number] if texts else "" for number in read_ones], spec)
                given = (torch.stack(readable), *([] if ids is None else [torch.from_numpy(ids)]))
                parts.append([one.float().cpu() for one in model(*(one.to(device) for one in given))])
    if not parts:
        raise ValueError(f"of {counted(len(paths), 'photo')} none can be read")
    return Outputs(*(torch.cat(column) for column in zip(*parts, strict=True))), left_out


def made_small(crop: np.ndarray) -> np.ndarray:
    """A crop (S, S, 3) as one of a photo with few pixels would be."""
    picture, side = Image.fromarray(crop), max(1, round(SMALL * len(crop)))
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.array(small.resize(picture.size, Image.Resampling.BICUBIC))


def training_outputs(classifier: Classifier, spec: Spec, photos: Sequence[Photo], device: torch.device) -> tuple[Outputs, Tensor]:
    """(outputs, classes int64 (N,)) of photos that were trained on. ValueError as extract_features.

    The middle features, (N + K, M), are also those of K copies with few pixels: to the middle of a network a known dish that is
    blurred would else be as strange as no dish.
    """
    outputs, left_out = extract_features(
        classifier, spec, [photo.path for photo in photos], device, [photo.text for photo in photos]
    )
    read = [photo for photo in photos if photo.path not in left_out]
    copies, _ = extract_features(classifier, spec, [photo.path for photo in read[::2]], device, small=True)
    return outputs._replace(middle=torch.cat([outputs.middle, copies.middle])), torch.tensor([photo.index for photo in read])
