"""profile.npz: what held-out photos look like to the worker, beside which it is seen whether those of today are like them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, ids_of, reduction, resized_side
from handler.program import inputs
from handler.signals import Profile, components
from training.data.split import Photo
from training.export.gate import BATCH, Measured
from training.export.program import Prepared, torch_answers


def crop_and_size(photo_bytes: bytes, spec: Spec) -> tuple[np.ndarray, tuple[int, int]]:
    """The crop and the photo's (width, height), as handler/decoder.py gives them to the worker. PhotoError."""
    image = open_photo(photo_bytes)
    photo = decode(image, reduction(image, resized_side(spec)))
    return crop(photo, spec), photo.size


def reference_profiles(passed: Sequence[Measured], prepared: Prepared) -> dict[str, Profile]:
    """A profile by held-out photos for each program that passed the gate, by its name, in the order of `passed`.

    The features' components are those of float32 torch, whichever programs passed, and fitted on the calibration's photos: on the
    held-out ones themselves the residual would be smaller than on new ones.
    """
    seen = torch_answers(prepared.program, prepared.calibration, prepared.calibration_ids)
    fitted = components(seen.features)
    profiles = {one.name: Profile(np.empty((0, 0), np.float32), *fitted, one.metrics["confidence_threshold"]) for one in passed}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in profiles}
    for crops, sizes, given in _decoded(prepared.held_out, prepared.spec):
        for one in passed:
            rows[one.name].append(profiles[one.name].measure(crops, sizes, one.program(*given)))
    return {name: replace(profile, rows=np.concatenate(rows[name])) for name, profile in profiles.items()}


def _decoded(
    photos: Sequence[Photo], spec: Spec
) -> Iterator[tuple[Sequence[np.ndarray], Sequence[tuple[int, int]], tuple[np.ndarray, ...]]]:
    """(crops, the photos' sizes, what a program takes) of each batch."""
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        crops, sizes = zip(*(crop_and_size(photo.path.read_bytes(), spec) for photo in batch), strict=True)
        yield crops, sizes, inputs(np.stack(crops), ids_of([photo.text for photo in batch], spec))
