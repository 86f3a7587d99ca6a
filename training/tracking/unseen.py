"""Which held-out photos two models may be compared on, and which of them a model has right."""

from dataclasses import replace

from torch import Tensor

from training.data.sets import Data
from training.evaluation.predictions import predict_held_out
from training.model import Checkpoint


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
    classifier, _ = checkpoint.classifier()
    logits, targets, read = predict_held_out(checkpoint, classifier, data)
    return logits.argmax(1) == targets, read
