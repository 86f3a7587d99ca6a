"""profile.npz: what held-out photos look like to the worker, beside which it is seen whether those of today are like them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, reduction, resized_side
from handler.program import Answers, Program
from handler.signals import Profile, components
from training.export.gate import BATCH, in_batches


def crop_and_size(photo_bytes: bytes, spec: Spec) -> tuple[np.ndarray, tuple[int, int]]:
    """The crop and the photo's (width, height), as handler/decoder.py gives them to the worker. PhotoError."""
    image = open_photo(photo_bytes)
    photo = decode(image, reduction(image, resized_side(spec)))
    return crop(photo, spec), photo.size


def reference_profile(program: Program, seen: np.ndarray, held_out: Sequence[Path], spec: Spec, threshold: float) -> Profile:
    """The profile by held-out photos that can be read.

    `seen` are crops uint8 (N, H, W, 3) of other photos, such as the calibration's: the features' components are fitted on them, as
    on the held-out photos themselves the residual would be smaller than on new ones.
    """
    mean, basis, variances = components(in_batches(program, seen).features)
    profile = Profile(np.empty((0, 0), np.float32), mean, basis, variances, threshold)
    rows = np.concatenate([profile.measure(*batch) for batch in _answered(program, held_out, spec)])
    return Profile(rows, mean, basis, variances, threshold)


def _answered(
    program: Program, photos: Sequence[Path], spec: Spec
) -> Iterator[tuple[Sequence[np.ndarray], Sequence[tuple[int, int]], Answers]]:
    for start in range(0, len(photos), BATCH):
        crops, sizes = zip(*(crop_and_size(path.read_bytes(), spec) for path in photos[start : start + BATCH]), strict=True)
        yield crops, sizes, program(np.stack(crops))
