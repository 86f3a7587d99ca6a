"""profile.npz: what held-out photos look like to the worker, beside which it is seen whether those of today are like them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, reduction, resized_side
from handler.program import Answers, Program
from handler.signals import Profile, components
from training.export.gate import BATCH, Measured, in_batches


def crop_and_size(photo_bytes: bytes, spec: Spec) -> tuple[np.ndarray, tuple[int, int]]:
    """The crop and the photo's (width, height), as handler/decoder.py gives them to the worker. PhotoError."""
    image = open_photo(photo_bytes)
    photo = decode(image, reduction(image, resized_side(spec)))
    return crop(photo, spec), photo.size


def reference_profiles(passed: Sequence[Measured], seen: np.ndarray, held_out: Sequence[Path], spec: Spec) -> dict[str, Profile]:
    """A profile by held-out photos for each precision that passed the gate, fastest first.

    `seen` are crops uint8 (N, H, W, 3) of other photos, such as the calibration's: the features' components are fitted on them, as
    on the held-out photos themselves the residual would be smaller than on new ones.
    """
    mean, basis, variances = components(in_batches(passed[0].program, seen).features)
    profiles = {}
    for program, metrics in ((measured.program, measured.metrics) for measured in passed):
        profile = Profile(np.empty((0, 0), np.float32), mean, basis, variances, metrics["confidence_threshold"])
        rows = np.concatenate([profile.measure(*batch) for batch in _answered(program, held_out, spec)])
        profiles[program.precision] = replace(profile, rows=rows)
    return profiles


def _answered(
    program: Program, photos: Sequence[Path], spec: Spec
) -> Iterator[tuple[Sequence[np.ndarray], Sequence[tuple[int, int]], Answers]]:
    for start in range(0, len(photos), BATCH):
        crops, sizes = zip(*(crop_and_size(path.read_bytes(), spec) for path in photos[start : start + BATCH]), strict=True)
        yield crops, sizes, program(np.stack(crops))
