"""A checkpoint as one program in float32 torch, crops in and answers out, and the photos that judge its export formats."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from handler.preprocess import PhotoError, Spec, preprocess
from training.data.sets import read_data
from training.data.split import Photo, check_unreadable
from training.evaluation.confidence import Confidence, FeaturesAndLogits, extract_features, fit_confidence, training_photos
from training.evaluation.held_out import held_out_photos
from training.export.formats import CALIBRATION_PHOTOS
from training.export.gate import Reference, in_batches
from training.model import Checkpoint, Classifier
from training.params import Params

GATE_PHOTOS = 2000  # at most so many held-out photos judge a format: 0.5 points of top-1 are 10 of them


class ExportedProgram(nn.Module):
    """uint8 crops (B, H, W, 3) -> probabilities (B, C), by network, temperature and softmax; confidence (B,); features (B, D)."""

    def __init__(self, classifier: Classifier, spec: Spec, temperature: float, confidence: Confidence) -> None:
        super().__init__()
        self.classifier = Classifier(FeaturesAndLogits(classifier.network), spec, channels_last=False)
        self.temperature, self.confidence = temperature, confidence

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        features, logits = self.classifier(crops)
        return (logits / self.temperature).softmax(1), self.confidence(features, logits), features


@dataclass(frozen=True)
class Prepared:
    """A checkpoint's program in float32 torch and the photos that its formats need.

    `calibration` is uint8 (N, H, W, 3), of photos that it was trained on; `reference` is of `held_out`, at most GATE_PHOTOS photos.
    `data_set` is all of both.
    """

    program: ExportedProgram
    spec: Spec
    calibration: np.ndarray
    reference: Reference
    held_out: list[Path]
    data_set: tuple[Photo, ...]


def prepare(checkpoint: Checkpoint, root: Path | None) -> Prepared:
    """The program and its photos, from the folder `root`, by default that of the data set that it was trained on.

    ValueError as read_data, held_out_photos and load_program, or if none of the photos that it was trained on is there.
    """
    params = Params(**checkpoint.params)
    data = read_data(root or checkpoint.data_root, params.val_fraction, params.seed, params.near_duplicates)
    data_set = data.train + data.held_out + data.test
    data = held_out_photos(checkpoint, data)
    seen = training_photos(data.train + data.held_out, checkpoint.trained_on)
    if not seen:
        raise ValueError(
            f"no photo in {data.source} is one that the checkpoint was trained on: give their folder: DATA=folder (--data)"
        )
    program, spec = load_program(checkpoint, seen)
    # fixed seeds: the same checkpoint and photos give the same export
    chosen = random.Random(0).sample(data.held_out, min(len(data.held_out), GATE_PHOTOS))
    held_out, crops = crops_of(chosen, spec, "held-out photos")
    targets = np.array([photo.index for photo in held_out])
    _, calibration = crops_of(random.Random(0).sample(seen, min(len(seen), CALIBRATION_PHOTOS)), spec, "photos for calibration")
    with torch.inference_mode():
        # also because LeViT fills its cache of attention biases in the first call, which torch.export must not trace
        expected, _, _ = in_batches(lambda batch: tuple(t.numpy() for t in program(torch.from_numpy(batch))), crops)
    paths = [photo.path for photo in held_out]
    return Prepared(program, spec, calibration, Reference(crops, targets, expected), paths, data_set)


def load_program(checkpoint: Checkpoint, seen: Sequence[Photo]) -> tuple[ExportedProgram, Spec]:
    """The program in float32 torch, its confidence fitted on `seen`, photos that it was trained on.

    ValueError if none of them can be read.
    """
    classifier, spec = checkpoint.classifier()
    features, logits, left_out = extract_features(classifier, spec, [photo.path for photo in seen], torch.device("cpu"))
    targets = torch.tensor([photo.index for photo in seen if photo.path not in left_out])
    return ExportedProgram(classifier, spec, checkpoint.temperature, fit_confidence(features, logits, targets)).eval(), spec


def crops_of(photos: Sequence[Photo], spec: Spec, where: str) -> tuple[list[Photo], np.ndarray]:
    """The photos that can be read, and their crops uint8 (N, H, W, 3), made as in serving.

    The others are left out, as evaluation does. ValueError if they are too many: see check_unreadable.
    """

    def crop_of(photo: Photo) -> np.ndarray | None:
        try:
            return preprocess(photo.path.read_bytes(), spec)
        except (PhotoError, OSError):
            return None

    with ThreadPoolExecutor() as pool:
        crops = list(pool.map(crop_of, photos))
    check_unreadable(sum(crop is None for crop in crops), len(crops), where)
    read = [(photo, crop) for photo, crop in zip(photos, crops, strict=True) if crop is not None]
    return [photo for photo, _ in read], np.stack([crop for _, crop in read])
