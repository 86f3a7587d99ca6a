"""A checkpoint as one program in float32 torch, crops in and answers out, and the photos that judge its export formats."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.models import reparameterize_model
from torch import Tensor, nn

from handler.preprocess import PhotoError, Spec, ids_of, preprocess
from handler.program import Answers
from training.data.sets import read_data
from training.data.split import Photo, check_unreadable
from training.evaluation.confidence import fit_confidence
from training.evaluation.features import WithFeatures, training_outputs, training_photos
from training.evaluation.held_out import held_out_photos
from training.export.formats import CALIBRATION_PHOTOS
from training.export.gate import Reference, in_batches
from training.model import Checkpoint, Classifier
from training.params import Params

FOLDED_OFF = 1e-3  # of the largest value: what float32 may round otherwise in a network of many layers
GATE_PHOTOS = 2000  # at most so many held-out photos judge a format: 0.5 points of top-1 are 10 of them


class ExportedProgram(nn.Module):
    """uint8 crops (B, H, W, 3) -> probabilities (B, C), by network, temperature and softmax; confidence (B,); features (B, D).

    With a text tower also int64 ids (B, L) of texts; a black crop stands for no photo.
    """

    def __init__(self, classifier: Classifier, spec: Spec, temperature: float, confidence: nn.Module) -> None:
        super().__init__()
        self.classifier = Classifier(WithFeatures(classifier.network, spec.input_size[-1]), spec, False, classifier.tower)
        self.temperature, self.confidence = temperature, confidence

    def forward(self, crops: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        features, logits, middle = self.classifier(crops, ids)
        return (logits / self.temperature).softmax(1), self.confidence(features, logits, middle), features


@dataclass(frozen=True)
class Prepared:
    """A checkpoint's program in float32 torch and the photos that its formats need.

    `calibration` is uint8 (N, H, W, 3), of photos that it was trained on; `reference` is of `held_out`, at most GATE_PHOTOS photos.
    `data_set` is all of both. `calibration_ids`, int64 (N, L), are of their texts, None where the model reads none.
    """

    program: ExportedProgram
    spec: Spec
    calibration: np.ndarray
    reference: Reference
    held_out: list[Photo]
    data_set: tuple[Photo, ...]
    calibration_ids: np.ndarray | None = None


def prepare(checkpoint: Checkpoint, root: Path | None) -> Prepared:
    """The program and its photos, from the folder `root`, by default that of the data set that it was trained on.

    ValueError as read_data, held_out_photos and load_program, or if none of the photos that it was trained on is there.
    """
    params = Params(**checkpoint.params)
    checkpoint.classifier()  # before the photos, which may take minutes: a network that cannot be built is an error at once
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
    targets, ids = np.array([photo.index for photo in held_out]), ids_of([photo.text for photo in held_out], spec)
    calibrating = random.Random(0).sample(seen, min(len(seen), CALIBRATION_PHOTOS))
    calibrating, calibration = crops_of(calibrating, spec, "photos for calibration")

    # also because LeViT fills its cache of attention biases in the first call, which torch.export must not trace
    reference = Reference(crops, targets, torch_answers(program, crops, ids).probabilities, ids)
    calibration_ids = ids_of([photo.text for photo in calibrating], spec)
    return Prepared(program, spec, calibration, reference, held_out, data_set, calibration_ids)


def torch_answers(program: nn.Module, crops: np.ndarray, ids: np.ndarray | None) -> Answers:
    """float32 torch's answers to N crops, uint8 (N, H, W, 3), and to ids of their texts, int64 (N, L), where it takes them."""

    def by_torch(*batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(t.numpy() for t in program(*map(torch.from_numpy, batch)))

    with torch.inference_mode():
        return in_batches(by_torch, crops, ids)


def load_program(checkpoint: Checkpoint, seen: Sequence[Photo]) -> tuple[ExportedProgram, Spec]:
    """The program in float32 torch, its confidence fitted on `seen`, photos that it was trained on.

    ValueError if none of them can be read.
    """
    classifier, spec = checkpoint.classifier()
    outputs, targets = training_outputs(classifier, spec, seen, torch.device("cpu"))
    classifier.network = folded(classifier.network, spec.input_size[-1])
    confidence = fit_confidence(outputs, targets, classifier.tower.width if classifier.tower else 0)
    return ExportedProgram(classifier, spec, checkpoint.temperature, confidence).eval(), spec


@torch.no_grad()
def folded(network: nn.Module, size: int) -> nn.Module:
    """The network for crops of `size` pixels, in eval mode, with its batch norms in the weights beside them where timm can do that.

    The same answers and features, within float32's rounding; else the network as it is. OpenVINO does so after convolutions, but
    leaves those after LeViT's linear layers, each between two reshapes.
    """
    network = network.eval()
    crops = torch.linspace(-2, 2, 2 * 3 * size * size).view(2, 3, size, size)
    try:
        smaller = reparameterize_model(network).eval()
        pairs = list(zip(WithFeatures(smaller, size)(crops), WithFeatures(network, size)(crops), strict=True))
        same = all(found.shape == expected.shape for found, expected in pairs)
        off = [float((found - expected).abs().max() / expected.abs().max()) for found, expected in pairs if expected.numel()]
    except Exception:  # a network's own way to do it may fail in as many ways as there are networks
        return network
    return smaller if same and all(one < FOLDED_OFF for one in off) else network


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
