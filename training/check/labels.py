"""Which labels are likely wrong: confident learning (arXiv:1911.00068) over probabilities that each photo had no part in.

A linear classifier on fixed features, learnt on four fifths of the photos, says what the last fifth shows. A wrong label among
those that it learns from is one of many, and moves it little; on its own photo it has no say. Of our own and not cleanlab's: the
rule takes a few lines, and the package brings scikit-learn and pandas.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

FOLDS = 5
DIRECTIONS = 256  # of features, those in which photos differ most: the others cost time, and overfit
PENALTY = 0.1  # of squared weights; of 0.01, 0.1 and 0.3 the one that found most of 5 % flipped labels of ten dishes
MIN_OF_CLASS = FOLDS  # of fewer photos of a class there is nothing to learn


@dataclass(frozen=True)
class Judged:
    """Of N photos: the probability of the label, float (N,), the likeliest other class, int64 (N,), and whether the label is
    likely wrong, bool (N,)."""

    probability: Tensor
    suggested: Tensor
    likely_wrong: Tensor


def scaled(features: Tensor) -> Tensor:
    """Features (N, F) without their mean, in DIRECTIONS at most: (N, D), each row of length sqrt(D)."""
    rows = normalize(features.float() - features.float().mean(0))
    _, directions = torch.linalg.eigh(rows.T @ rows)  # by ascending eigenvalue
    rows = rows @ directions[:, -DIRECTIONS:]
    scale: float = rows.shape[1] ** 0.5
    return normalize(rows) * scale


def out_of_fold(rows: Tensor, targets: Tensor, groups: Tensor, num_classes: int) -> Tensor:
    """Probabilities (N, C) of photos by classifiers that were learnt without them and without their near-duplicates.

    `rows` (N, D) are scaled(); `groups` int64 (N,) numbers photos that are near-duplicates of each other alike.
    """
    folds = fold_of(targets, groups)
    probabilities = torch.zeros(len(targets), num_classes)
    for fold in range(FOLDS):
        inside = folds == fold
        weight, bias = fit(rows[~inside], targets[~inside], num_classes)
        probabilities[inside] = (rows[inside] @ weight + bias).softmax(1)
    return probabilities


def fold_of(targets: Tensor, groups: Tensor) -> Tensor:
    """The fold (N,) of each photo: a group is in one, and of each class about as many are in each."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    folds, taken = {}, [0] * (int(targets.max()) + 1)
    for i in order.tolist():
        group, index = int(groups[i]), int(targets[i])
        if group not in folds:
            folds[group] = taken[index] % FOLDS
            taken[index] += 1
    return torch.tensor([folds[group] for group in groups.tolist()])


def fit(rows: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight (D, C) and bias (C,) of logistic regression with a penalty on weights."""
    weight = torch.zeros(rows.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(rows @ weight + bias, targets) + PENALTY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def judge(probabilities: Tensor, targets: Tensor) -> Judged:
    """What probabilities (N, C) say of labels (N,).

    A label is likely wrong if the photo is confidently of another class: its probability there is at least the mean of that
    class's own photos. Labels of classes with fewer than MIN_OF_CLASS photos are not judged.
    """
    own = probabilities.gather(1, targets[:, None])[:, 0]
    suggested = probabilities.scatter(1, targets[:, None], -1.0).argmax(1)
    sizes = torch.bincount(targets, minlength=probabilities.shape[1])
    # of an empty or small class no mean is known: nothing is confidently of it
    means = torch.full((probabilities.shape[1],), torch.inf).scatter_reduce(0, targets, own, "mean", include_self=False)
    means[sizes < MIN_OF_CLASS] = torch.inf
    confident = torch.where(probabilities >= means, probabilities, -1.0)
    is_judged = sizes[targets] >= MIN_OF_CLASS
    likely_wrong = (confident.amax(1) >= 0) & (confident.argmax(1) != targets) & is_judged
    return Judged(torch.where(is_judged, own, 1.0), suggested, likely_wrong)


def most_suspicious(judged: Judged) -> list[int]:
    """The numbers of all photos, those first whose labels are the least probable.

    Not those first that are likely wrong: of flipped labels of ten dishes more are found in this order.
    """
    return judged.probability.argsort(stable=True).tolist()
