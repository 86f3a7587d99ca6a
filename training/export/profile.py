"""profile.npz: what held-out photos look like to the worker, beside which it is seen whether those of today are like them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, ids_of, reduction, resized_side
from handler.program import Answers, Program, inputs
from handler.signals import Profile, components
from training.data.split import Photo
from training.export.gate import BATCH, Measured, in_batches
from training.export.program import Prepared


def crop_and_size(photo_bytes: bytes, spec: Spec) -> tuple[np.ndarray, tuple[int, int]]:
    """The crop and the photo's (width, height), as handler/decoder.py gives them to the worker. PhotoError."""
    image = open_photo(photo_bytes)
    photo = decode(image, reduction(image, resized_side(spec)))
    return crop(photo, spec), photo.size


def reference_profiles(passed: Sequence[Measured], prepared: Prepared) -> dict[str, Profile]:
    """A profile by held-out photos for each precision that passed the gate, fastest first.

    The features' components are fitted on the calibration's photos: on the held-out ones themselves the residual would be smaller
    than on new ones.
    """
    seen = in_batches(passed[0].program, prepared.calibration, prepared.calibration_ids)
    mean, basis, variances = components(seen.features)
    profiles = {}
    for program, metrics in ((measured.program, measured.metrics) for measured in passed):
        profile = Profile(np.empty((0, 0), np.float32), mean, basis, variances, metrics["confidence_threshold"])
        rows = np.concatenate([profile.measure(*batch) for batch in _answered(program, prepared.held_out, prepared.spec)])
        profiles[program.precision] = replace(profile, rows=rows)
    return profiles


def _answered(
    program: Program, photos: Sequence[Photo], spec: Spec
) -> Iterator[tuple[Sequence[np.ndarray], Sequence[tuple[int, int]], Answers]]:
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        crops, sizes = zip(*(crop_and_size(photo.path.read_bytes(), spec) for photo in batch), strict=True)
        yield crops, sizes, program(*inputs(np.stack(crops), ids_of([photo.text for photo in batch], spec)))
