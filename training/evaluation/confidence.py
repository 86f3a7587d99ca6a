"""Confidence scores: high for photos of the known classes, low for out-of-distribution photos.

`Confidence` is the one that is exported and served: the cosine between a photo's features (the last layer's input) and the
nearest class mean. `make evaluate UNKNOWN=folder` compares it with the others. Leaves out training with out-of-distribution
photos (outlier exposure), which would teach the network to reject only photos like those.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from handler.preprocess import PhotoError, Spec, ids_of, preprocess
from scripts.phrases import counted
from training.data.split import Photo
from training.model import Classifier

FALSE_POSITIVE_RATE = 0.05  # share of photos of known classes that get low confidence
# the class means of all 3,163 training photos of food10 gave no better AUROC than those of 10 a class
PHOTOS_A_CLASS = 100
SHRINKAGE = 0.1  # of a covariance towards a sphere: there may be fewer photos than features
NEIGHBOURS = 10
BATCH = 32

Score = Callable[[Tensor, Tensor], Tensor]
"""(features float32 (N, F), logits float32 (N, C)) -> (N,), larger is more confident."""


def top_probability(logits: Tensor) -> Tensor:
    """Probability (N,) of the predicted class (arXiv:1610.02136)."""
    return logits.softmax(1).amax(1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Negative entropy (N,) of the probabilities, in nats."""
    return (logits.softmax(1) * logits.log_softmax(1)).sum(1)


def negative_energy(logits: Tensor) -> Tensor:
    """logsumexp (N,) of the logits (arXiv:2010.03759)."""
    return logits.logsumexp(1)


def max_logit(logits: Tensor) -> Tensor:
    """The largest logit (N,) (arXiv:1911.11132)."""
    return logits.amax(1)


def class_means(features: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Mean features (C, F) of each class. ValueError if a class has no photo."""
    count = torch.bincount(targets, minlength=num_classes)
    if not count.all():
        raise ValueError(f"class {int(count.argmin())} of {num_classes} has no photo among the {len(targets)} given")
    sums = torch.zeros(num_classes, features.shape[1], dtype=features.dtype).index_add_(0, targets, features)
    return sums / count[:, None]


def squared_distances(features: Tensor, centres: Tensor, deviations: Tensor) -> Tensor:
    """Mahalanobis distances (N, K), squared, to centres (K, F), with the shrunken covariance of `deviations` (M, F)."""
    deviations = deviations.double()  # whitening divides by small eigenvalues, of which float32 has few digits
    covariance = deviations.T @ deviations / len(deviations)
    sphere = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    factor = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere)
    whitened, targets = (torch.linalg.solve_triangular(factor, x.double().T, upper=False).T for x in (features, centres))
    return torch.cdist(whitened, targets).square()


class Confidence(nn.Module):
    """The cosine of a photo's features to the nearest class mean; takes 4 * C * F bytes for `means` (C, F)."""

    directions: Tensor

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", normalize(means.double()).float().T.contiguous())  # (F, C)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Features float32 (B, F), logits float32 (B, C), not used by this score -> (B,) in -1..1, larger is more confident."""
        nearest: Tensor = (features @ self.directions).amax(1)
        length: Tensor = torch.linalg.vector_norm(features, dim=1)
        return nearest / length.clamp(min=1e-6)  # clamp: features that are all zero get 0, not NaN


class ConfidenceOfSides(nn.Module):
    """The mean of the cosines of a photo's and of a text's features to their class means, for the class where it is highest.

    Features are (B, F + D), the text's D last; a side of zeros is not given. Where the sides point to two classes it is lower than
    either alone.
    """

    def __init__(self, photo: Confidence, text: Confidence) -> None:
        super().__init__()
        self.sides = nn.ModuleList([photo, text])
        self.sizes = [len(photo.directions), len(text.directions)]

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """As Confidence; 0 where no side is given."""
        sums, given = torch.zeros_like(logits), torch.zeros_like(logits[:, 0])
        for side, part in zip(self.sides, features.split(self.sizes, 1), strict=True):
            length = torch.linalg.vector_norm(part, dim=1)
            sums = sums + part @ side.directions / length.clamp(min=1e-6)[:, None]
            given = given + (length > 0).to(given.dtype)
        nearest: Tensor = sums.amax(1) / given.clamp(min=1)
        return nearest


def fit_confidence(features: Tensor, logits: Tensor, targets: Tensor, of_text: int = 0) -> nn.Module:
    """Confidence by training photos: features float32 (N, F), logits (N, C), targets int64 (N,). ValueError as class_means.

    The last `of_text` features are those of a text, zeros where there is none.
    """
    means = class_means(features, targets, logits.shape[1])
    if not of_text:
        return Confidence(means)
    photo, text = means[:, :-of_text], means[:, -of_text:]  # a direction does not change with the number of photos without a text
    return ConfidenceOfSides(Confidence(photo), Confidence(text))


def all_scores(features: Tensor, logits: Tensor, targets: Tensor, temperature: float) -> dict[str, Score]:
    """Each score by name, fitted as fit_confidence; the first is the one that is served. ValueError as class_means."""
    confidence, means = fit_confidence(features, logits, targets), class_means(features, targets, logits.shape[1])
    within, mean, unit = features - means[targets], features.mean(0, keepdim=True), normalize(features)

    def mahalanobis(f: Tensor, z: Tensor) -> Tensor:
        return -squared_distances(f, means, within).amin(1)

    def relative_mahalanobis(f: Tensor, z: Tensor) -> Tensor:
        return mahalanobis(f, z) + squared_distances(f, mean, features - mean)[:, 0]

    def neighbour(f: Tensor, z: Tensor) -> Tensor:
        return (normalize(f) @ unit.T).topk(min(NEIGHBOURS, len(unit)), 1).values[:, -1]

    return {
        "cosine to the nearest class mean": confidence,
        f"cosine to the {NEIGHBOURS}th nearest photo": neighbour,  # arXiv:2204.06507
        "relative Mahalanobis distance": relative_mahalanobis,  # arXiv:2106.09022
        "Mahalanobis distance": mahalanobis,  # arXiv:1807.03888
        "entropy": lambda f, z: negative_entropy(z / temperature),
        "energy": lambda f, z: negative_energy(z),
        "energy, with temperature": lambda f, z: negative_energy(z / temperature),
        "largest logit": lambda f, z: max_logit(z),
        "top probability": lambda f, z: top_probability(z / temperature),
    }


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Share of all pairs of a known (N,) and an unknown (M,) photo in which the known one scores higher; a tie counts half."""
    order = unknown.sort().values
    below, not_above = (torch.searchsorted(order, known.contiguous(), right=right).sum() for right in (False, True))
    return int(below + not_above) / (2 * len(known) * len(unknown))


def fit_threshold(scores: Tensor, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float:
    """Scores below this are low confidence: the k-th lowest of validation scores (N,), k = floor(rate * (N + 1)).

    Guaranteed for any N and any distribution (split conformal prediction, arXiv:2107.07511): of new photos like those, on
    average over draws of the N, at most `rate` get low confidence; and fewer than `rate * (N + 1)` of the N themselves. This
    is an average over classes, not a guarantee for each. It holds for the program whose scores these are: fit it for each
    export format. Where N is too small for the rate (N + 1 < 1 / rate), it is the lowest float32: no photo is below it.
    ValueError for a rate outside 0..1 or scores that are not finite.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate is {false_positive_rate}, expected more than 0 and less than 1")
    if not scores.isfinite().all():
        raise ValueError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite")
    # + 1e-9, as 0.07 * 100 is 7.000000000000001 but 0.29 * 100 is 28.999999999999996
    k = int(false_positive_rate * (len(scores) + 1) + 1e-9)
    return float(scores.sort().values[k - 1]) if k else torch.finfo(torch.float32).min


class FeaturesAndLogits(nn.Module):
    """timm's network, which also returns the input of its last layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised crops (B, 3, H, W) -> features (B, F), logits (B, C)."""
        # forward_head twice, as it returns one or the other; pooling and the last layer cost little
        maps = self.network.forward_features(x)
        return self.network.forward_head(maps, pre_logits=True), self.network.forward_head(maps)


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
    classifier: Classifier, spec: Spec, paths: Sequence[Path], device: torch.device, texts: Sequence[str] = ()
) -> tuple[Tensor, Tensor, list[Path]]:
    """(features float32 (N, F), logits float32 (N, C), left out) of photos preprocessed as in the worker; on the CPU.

    `texts`, one for each path, count where the model reads them; without, it answers by the photos alone.
    Photos that cannot be read are named on stderr and left out. ValueError if none is left.
    """
    model = Classifier(FeaturesAndLogits(classifier.network), spec, tower=classifier.tower).eval().to(device)

    def read(path: Path) -> np.ndarray | None:
        try:
            return preprocess(path.read_bytes(), spec)
        except (PhotoError, OSError) as error:
            print(f"left out {path}: {error}", file=sys.stderr)
            return None

    parts: list[tuple[Tensor, Tensor]] = []
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
                features, logits = model(*(one.to(device) for one in given))
                parts.append((features.float().cpu(), logits.float().cpu()))
    if not parts:
        raise ValueError(f"of {counted(len(paths), 'photo')} none can be read")
    features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return features, logits, left_out
