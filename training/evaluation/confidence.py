"""Confidence scores: high for photos of the known classes, low for out-of-distribution photos.

`Confidence` is the one that is exported and served: the cosine between a photo's features (the last layer's input) and the
nearest class mean, less where the middle of the network sees what it has not seen in training. `make evaluate UNKNOWN=folder`
compares it with the others. Leaves out training with out-of-distribution photos (outlier exposure), which would teach the network
to reject only photos like those.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.evaluation.features import Outputs

FALSE_POSITIVE_RATE = 0.05  # share of photos of known classes that get low confidence
# of a covariance towards a sphere: there may be fewer photos than features
SHRINKAGE, SHRINKAGE_MIDDLE = 0.1, 0.3
NEIGHBOURS = 10

SCORE = "cosine of the features to the nearest class mean, over the distance of the middle features where that is above 1"


Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Outputs -> (N,), larger is more confident."""


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


def cholesky(deviations: Tensor, shrinkage: float) -> Tensor:
    """The lower factor (F, F) of the covariance of `deviations` float64 (M, F), shrunken by so much towards a sphere."""
    # float64: whitening divides by small eigenvalues, of which float32 has few digits
    covariance = deviations.T @ deviations / len(deviations)
    size = covariance.diagonal().mean().clamp(min=1e-12)  # features that never vary are whitened, too
    sphere = size * torch.eye(len(covariance), dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * sphere)
    return factor


def squared_distances(features: Tensor, centres: Tensor, deviations: Tensor) -> Tensor:
    """Mahalanobis distances (N, K), squared, to centres (K, F), with the shrunken covariance of `deviations` (M, F)."""
    factor = cholesky(deviations.double(), SHRINKAGE)
    whitened, targets = (torch.linalg.solve_triangular(factor, x.double().T, upper=False).T for x in (features, centres))
    return torch.cdist(whitened, targets).square()


class Distance(nn.Module):
    """Mahalanobis distance of middle features to the mean of training photos' (N, M), which are at 1 in root mean square.

    As in arXiv:1807.03888, which takes all layers and each class's mean; takes 4 * M * (M + 1) bytes.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, middle: Tensor) -> None:
        super().__init__()
        mean = middle.double().mean(0, keepdim=True)
        factor = cholesky(middle.double() - mean, SHRINKAGE_MIDDLE)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.float64), upper=False)
        typical = torch.linalg.vector_norm((middle.double() - mean) @ inverse.T, dim=1).square().mean().sqrt().clamp(min=1e-6)
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", (inverse.T / typical).float())

    def forward(self, middle: Tensor) -> Tensor:
        """(B, M) -> (B,)."""
        distance: Tensor = torch.linalg.vector_norm((middle - self.mean) @ self.whitening, dim=1)
        return distance


class Confidence(nn.Module):
    """The cosine of a photo's features to the nearest class mean, divided by the Distance of its middle features if above 1.

    Takes 4 * C * F bytes for `means` (C, F), and those of Distance, which `middle` (N, M) of training photos fit; without, the
    cosine alone counts.
    """

    directions: Tensor

    def __init__(self, means: Tensor, middle: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("directions", normalize(means.double()).float().T.contiguous())  # (F, C)
        self.distance = None if middle is None or not middle.shape[1] else Distance(middle)

    def forward(self, features: Tensor, logits: Tensor, middle: Tensor | None = None) -> Tensor:
        """Outputs; logits (B, C) are not used by this score -> (B,) in -1..1, larger is more confident."""
        nearest: Tensor = (features @ self.directions).amax(1)
        length: Tensor = torch.linalg.vector_norm(features, dim=1)
        cosine = nearest / length.clamp(min=1e-6)  # clamp: features that are all zero get 0, not NaN
        if self.distance is None or middle is None:
            return cosine
        away: Tensor = self.distance(middle)
        return cosine / away.clamp(min=1)


class ConfidenceOfSides(nn.Module):
    """The mean of the cosines of a photo's and of a text's features to their class means, for the class where it is highest.

    Features are (B, F + D), the text's D last; a side of zeros is not given. Where the sides point to two classes it is lower than
    either alone.
    """

    def __init__(self, photo: Confidence, text: Confidence) -> None:
        super().__init__()
        self.sides = nn.ModuleList([photo, text])
        self.sizes = [len(photo.directions), len(text.directions)]

    def forward(self, features: Tensor, logits: Tensor, middle: Tensor | None = None) -> Tensor:
        """As Confidence, without the middle, as there may be no photo; 0 where no side is given."""
        sums, given = torch.zeros_like(logits), torch.zeros_like(logits[:, 0])
        for side, part in zip(self.sides, features.split(self.sizes, 1), strict=True):
            length = torch.linalg.vector_norm(part, dim=1)
            sums = sums + part @ side.directions / length.clamp(min=1e-6)[:, None]
            given = given + (length > 0).to(given.dtype)
        nearest: Tensor = sums.amax(1) / given.clamp(min=1)
        return nearest


def fit_confidence(outputs: Outputs, targets: Tensor, of_text: int = 0) -> nn.Module:
    """Confidence by outputs for N training photos of classes `targets` int64 (N,). ValueError as class_means.

    The last `of_text` features are those of a text, zeros where there is none.
    """
    means = class_means(outputs.features, targets, outputs.logits.shape[1])
    if not of_text:
        return Confidence(means, outputs.middle)
    photo, text = means[:, :-of_text], means[:, -of_text:]  # a direction does not change with the number of photos without a text
    return ConfidenceOfSides(Confidence(photo), Confidence(text))


def all_scores(outputs: Outputs, targets: Tensor, temperature: float, of_text: int = 0) -> dict[str, Score]:
    """Each score by name, fitted as fit_confidence; the first is the one that is served. ValueError as class_means."""
    features = outputs.features
    means = class_means(features, targets, outputs.logits.shape[1])
    within, mean, unit = features - means[targets], features.mean(0, keepdim=True), normalize(features)

    def mahalanobis(f: Tensor, z: Tensor, m: Tensor) -> Tensor:
        return -squared_distances(f, means, within).amin(1)

    def relative_mahalanobis(f: Tensor, z: Tensor, m: Tensor) -> Tensor:
        return mahalanobis(f, z, m) + squared_distances(f, mean, features - mean)[:, 0]

    def neighbour(f: Tensor, z: Tensor, m: Tensor) -> Tensor:
        return (normalize(f) @ unit.T).topk(min(NEIGHBOURS, len(unit)), 1).values[:, -1]

    scores: dict[str, Score] = {
        "confidence, as served": fit_confidence(outputs, targets),
        "cosine to the nearest class mean": Confidence(means),
    }
    if outputs.middle.shape[1]:
        distance = Distance(outputs.middle)
        scores["distance of the middle features"] = lambda f, z, m: -distance(m)
    return scores | {
        f"cosine to the {NEIGHBOURS}th nearest photo": neighbour,  # arXiv:2204.06507
        "relative Mahalanobis distance": relative_mahalanobis,  # arXiv:2106.09022
        "Mahalanobis distance": mahalanobis,  # arXiv:1807.03888
        "entropy": lambda f, z, m: negative_entropy(z / temperature),
        "energy": lambda f, z, m: negative_energy(z),
        "energy, with temperature": lambda f, z, m: negative_energy(z / temperature),
        "largest logit": lambda f, z, m: max_logit(z),
        "top probability": lambda f, z, m: top_probability(z / temperature),
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
