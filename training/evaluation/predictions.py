"""What a checkpoint's network answers for held-out photos."""

import torch
from torch import Tensor

from training.data.loader import eval_loader
from training.data.sets import Data
from training.evaluation.metrics import predict
from training.model import Checkpoint, Classifier
from training.params import Params


def predict_held_out(
    checkpoint: Checkpoint, classifier: Classifier, data: Data, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """metrics.predict of a checkpoint's own `classifier` for the held-out photos of `data`, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with eval_loader(data.held_out, Params(**checkpoint.params), checkpoint.read_spec()) as loader:
        return predict(classifier.to(device), loader, device, mirrored)
