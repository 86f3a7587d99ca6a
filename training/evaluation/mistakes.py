"""The wrong answers that are shown: those of the highest probability."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from handler.preprocess import Spec, preprocess
from training.data.sets import Data

MAX_MISTAKES = 24  # on the contact sheet: four rows of six, as many as are legible on a page


class Mistake(NamedTuple):
    """A wrong answer: crop uint8 (H, W, 3), labels, probability of the predicted one, numbers of the two classes."""

    crop: np.ndarray
    true: str
    predicted: str
    probability: float
    numbers: tuple[int, int] = (0, 0)


def most_confident_mistakes(data: Data, probabilities: Tensor, spec: Spec) -> list[Mistake]:
    """The wrong answers of the highest probability, highest first, at most MAX_MISTAKES."""
    best, predicted = probabilities.max(1)
    mistakes: list[Mistake] = []
    for position in best.argsort(descending=True).tolist():
        photo, index = data.held_out[position], int(predicted[position])
        if index != photo.index and len(mistakes) < MAX_MISTAKES:
            # the crop and not the whole photo: a class that was cut away explains the mistake
            crop, numbers = preprocess(photo.path.read_bytes(), spec), (photo.index, index)
            mistakes.append(Mistake(crop, data.labels[photo.index], data.labels[index], float(best[position]), numbers))
    return mistakes
