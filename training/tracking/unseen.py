"""Which held-out photos two models may be compared on, and which of them a model has right."""

from dataclasses import replace

import torch
from torch import Tensor

from training.data.loader import eval_loader
from training.data.sets import Data
from training.evaluation.metrics import predict
from training.model import Checkpoint
from training.params import Params


def check_labels(challenger: Checkpoint, champion: Checkpoint | None, start_over: str) -> None:
    """ValueError, with `start_over` as the way out, if the two have different classes, or in another order."""
    if champion is not None and champion.labels != challenger.labels:
        differing = sorted(set(challenger.labels) ^ set(champion.labels))[:10] or "their order"
        raise ValueError(
            f"challenger and champion have different label maps ({differing}) and cannot be compared; to start over with the "
            f"challenger's, {start_over}"
        )


def without_trained_on(data: Data, champion: Checkpoint | None, others: str) -> Data:
    """`data` without held-out photos that the champion was trained on. ValueError, which ends in `others`, if none is left."""
    seen = set(champion.trained_on) if champion is not None else set()
    left = tuple(photo for photo in data.held_out if photo.sha256 not in seen)
    if not left:
        raise ValueError(f"the champion was trained on every held-out photo of {data.source}{others}")
    return replace(data, held_out=left)


def correct_answers(checkpoint: Checkpoint, data: Data) -> tuple[Tensor, Tensor]:
    """Whether the model names each held-out photo's class, bool (N,), and which these N of them are, as some cannot be read."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier, spec = checkpoint.classifier()
    with eval_loader(data.held_out, Params(**checkpoint.params), spec) as loader:
        logits, targets, read = predict(classifier.to(device), loader, device)
    return logits.argmax(1) == targets, read
