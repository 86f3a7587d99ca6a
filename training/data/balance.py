"""How often each photo is drawn in an epoch, and how much it counts in the loss: by its class, and by its own weight.

Photos of small classes are drawn more often, and are not weighed instead: a step of a few heavy photos is a noisy one.
Held-out photos are neither drawn more often nor weighed: they keep the data's own distribution, and so do the accuracy, the
temperature and the thresholds that are measured on them.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.data.split import Photo

IMBALANCED = 10.0  # so many times the smallest class: people are told of class_balance


def expected_draws(photos: Sequence[Photo], class_balance: float) -> Tensor:
    """How often an epoch draws each photo on average, float64 (N,), in sum N: by its class's frequency to -class_balance.

    0: once each. 1: each class as often as any other. Between them the shares of classes are nearer to each other, as
    arXiv:1805.00932 has it (0.5: the square root).
    """
    sizes = Counter(photo.index for photo in photos)
    relative = torch.tensor([sizes[photo.index] ** -class_balance for photo in photos], dtype=torch.float64)
    return relative * len(photos) / relative.sum()


def draw(expected: Tensor, generator: torch.Generator) -> Tensor:
    """An epoch's photos in their order, int64 (N,): photo i, drawn for the k-th time (from 0), is i + k * N.

    Each is drawn as often as `expected` (N,) says, rounded up or down by chance.
    """
    count = len(expected)
    shuffled = torch.randperm(count, generator=generator)
    # systematic sampling: of a line cut into pieces as long as expected, every whole number after a random start is drawn
    ends = expected[shuffled].cumsum(0) * (count / expected.sum()) + torch.rand(1, generator=generator, dtype=torch.float64)
    times = ends.floor().clamp(max=count).diff(prepend=torch.zeros(1, dtype=torch.float64)).long()
    photos = shuffled.repeat_interleave(times)
    nth = torch.arange(len(photos)) - (times.cumsum(0) - times).repeat_interleave(times)
    return (photos + nth * count)[torch.randperm(len(photos), generator=generator)]


def logit_shift(photos: Sequence[Photo], num_classes: int, adjustment: float) -> Tensor:
    """What is added to the logits in the loss alone, float32 (C,): the logarithm of each class's share, times `adjustment`.

    A network that learns beside it needs no bias for frequent classes: logit adjustment, arXiv:2007.07314.
    """
    sizes = torch.bincount(torch.tensor([photo.index for photo in photos]), minlength=num_classes)
    return adjustment * (sizes / sizes.sum()).log()


def loss_weights(photos: Sequence[Photo], labels: Sequence[str], class_weights: Mapping[str, float]) -> Tensor:
    """How much each photo counts in the loss, float64 (N,): its own weight times its class's, 1 for a class that has none.

    ValueError names a class that does not exist, and the nearest one.
    """
    for name in class_weights:
        if name not in labels:
            close = difflib.get_close_matches(name, labels, n=1, cutoff=0.0)
            raise ValueError(f"class_weights: the data set has no class {name!r}; the nearest is {close[0]!r}")
    return torch.tensor([photo.weight * class_weights.get(labels[photo.index], 1.0) for photo in photos], dtype=torch.float64)


def imbalance(photos: Sequence[Photo], labels: Sequence[str], class_balance: float) -> str:
    """What to tell people if one class has over IMBALANCED times the photos of another, and nothing is done; "" else."""
    sizes = Counter(photo.index for photo in photos)
    (largest, most), (smallest, least) = (sizes.most_common()[i] for i in (0, -1))
    if class_balance or most <= IMBALANCED * least:
        return ""
    return (
        f"class {labels[largest]!r} has {most} training photos, {labels[smallest]!r} {least}: small classes may be missed; "
        "class_balance: 0.5 in the parameters draws their photos more often, logit_adjustment: 0.3 makes up for more"
    )
