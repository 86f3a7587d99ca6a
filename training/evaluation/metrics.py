"""Exact metrics over held-out photos, on any number of ranks: top-1, top-5, F1, calibration, confusion."""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.data.split import UNREADABLE, check_unreadable

CALIBRATION_BINS = 15  # as in arXiv:1706.04599


@torch.no_grad()
def predict(
    model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], device: torch.device, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(logits float32 (N, C), targets int64 (N,), positions int64 (N,)) of N photos in their order, over all ranks; on the CPU.

    With `mirrored`, the mean of the logits of each photo and of its mirror image.

    Photos that cannot be read are left out, and named on stderr. ValueError if they are too many: see check_unreadable.
    """
    model.eval()

    def logits_of(crops: Tensor, *ids: Tensor) -> Tensor:
        logits: Tensor = model(*(given.to(device) for given in (crops, *ids))).float().cpu()
        return logits

    parts = []
    for crops, targets, positions, *ids in loader:
        logits = logits_of(crops, *ids)
        if mirrored:
            logits = (logits + logits_of(crops.flip(2), *ids)) / 2  # (B, H, W, 3)
        parts.append((logits, targets, positions))
    if dist.is_initialized():
        # objects and not tensors: ranks have different numbers of photos, as none is counted twice to even them out
        gathered: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, parts)
        parts = [part for rank_parts in gathered for part in rank_parts]
    logits, targets, positions = (torch.cat(column) for column in zip(*parts, strict=True))
    order = positions.argsort()
    assert torch.equal(positions[order], torch.arange(len(order))), "a photo was counted twice or not at all"
    logits, targets = logits[order], targets[order]
    unreadable = targets == UNREADABLE
    if unreadable.any():
        photos = loader.dataset.photos  # type: ignore[attr-defined] # of EvalPhotos
        paths = [photos[position].path for position in unreadable.nonzero()[:, 0].tolist()]
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"skipped held-out photos that cannot be read: {', '.join(map(str, paths))}", file=sys.stderr)
        check_unreadable(len(paths), len(targets), "held-out photos")
    return logits[~unreadable], targets[~unreadable], (~unreadable).nonzero()[:, 0]


def confusion_matrix(logits: Tensor, targets: Tensor) -> Tensor:
    """Counts int64 (C, C): row is the true class, column the predicted one."""
    num_classes = logits.shape[1]
    return torch.bincount(targets * num_classes + logits.argmax(1), minlength=num_classes**2).view(num_classes, num_classes)


def f1_scores(confusion: Tensor) -> Tensor:
    """F1 (C,) of each class, 0 for a class without photos and predictions."""
    hits = confusion.diag().float()
    return 2 * hits / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)


def calibration_bins(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(photos, sum of top-1 probabilities, correct answers), float (CALIBRATION_BINS,) each, in equal-width bins of probability."""
    probability, predicted = logits.softmax(1).max(1)
    bins = (probability * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)  # a probability of 1 is in the last bin
    count, probabilities, hits = (
        torch.zeros(CALIBRATION_BINS).index_add_(0, bins, values)
        for values in (torch.ones_like(probability), probability, (predicted == targets).float())
    )
    return count, probabilities, hits


def calibration_error(logits: Tensor, targets: Tensor) -> float:
    """Expected calibration error in 0..1 (arXiv:1706.04599)."""
    _, probabilities, hits = calibration_bins(logits, targets)
    return float((hits - probabilities).abs().sum() / len(targets))


def calibration_error_by_chance(logits: Tensor, draws: int = 500) -> float:
    """The calibration error that a calibrated model shows on average, on as many photos and with these probabilities.

    Of few photos even its bins are off by chance. Answers are drawn right as often as their probabilities say, by a fixed seed.
    """
    probability = logits.softmax(1).max(1).values.double()
    bins = (probability * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(draws):
        hits = torch.rand(len(bins), generator=generator, dtype=torch.float64) < probability
        off = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add_(0, bins, hits.double() - probability)
        total += float(off.abs().sum())
    return total / draws / len(bins)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature, a divisor of the logits, that minimises their cross entropy (arXiv:1706.04599)."""
    # the logarithm, as a step could make the temperature itself negative
    log_temperature = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits / log_temperature.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    # a model that is always correct, or never, has no best temperature: it would go to 0 or infinity
    return float(log_temperature.detach().clamp(-2, 2).exp())


def summarise(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """top1, top5, f1 (macro, of the classes that have photos), calibration_error, loss, each over all photos, and their number."""
    # fewer than five classes: top-5 is 1
    top5 = logits.topk(min(5, logits.shape[1])).indices
    return {
        "top1": float((logits.argmax(1) == targets).float().mean()),
        "top5": float((top5 == targets[:, None]).any(1).float().mean()),
        "f1": float(f1_scores(confusion_matrix(logits, targets))[targets.unique()].mean()),
        "calibration_error": calibration_error(logits, targets),
        "loss": float(nn.functional.cross_entropy(logits, targets)),
        "photos": len(targets),
    }
