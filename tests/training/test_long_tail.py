"""What class_balance and logit_adjustment do for a long tail of real photos: of ten dishes one has 50 times another's photos."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import needs_photos
from tests.training.dishes import dishes
from training.data.balance import expected_draws, logit_shift
from training.data.loader import Batches
from training.data.split import Photo
from training.evaluation.metrics import fit_temperature
from training.params import Params
from training.recipe import Average, lr_factor

LARGEST, RATIO = 250, 50


@dataclass
class Measured:
    """Of the photos that were not trained on, in their own distribution; in percent."""

    top1: float
    macro_f1: float
    calibration_error: float


def long_tail(photos: list[Photo], seed: int) -> tuple[list[int], list[int]]:
    """(numbers to train on, the others): of LARGEST photos of one class to 1 / RATIO of them of another, by chance which."""
    generator = torch.Generator().manual_seed(seed)
    train: list[int] = []
    for place, index in enumerate(torch.randperm(10, generator=generator).tolist()):
        numbers = [number for number, photo in enumerate(photos) if photo.index == index]
        shuffled = torch.randperm(len(numbers), generator=generator)[: round(LARGEST * RATIO ** (-place / 9))]
        train += [numbers[i] for i in shuffled.tolist()]
    return train, sorted(set(range(len(photos))) - set(train))


def learn(photos: list[Photo], features: Tensor, params: Params) -> nn.Module:
    """A head on these features, trained by the steps of loop.py."""
    torch.manual_seed(params.seed)
    linear = nn.Linear(features.shape[1], 10)
    nn.init.zeros_(linear.weight)  # as a new head starts
    head = nn.Sequential(nn.Dropout(params.model_args["drop_rate"]), linear)
    averaged = copy.deepcopy(head)
    average = Average(averaged, head, params.ema_decay)
    groups = [{"params": [linear.weight], "weight_decay": params.weight_decay}, {"params": [linear.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    batches = Batches(len(photos), params, 0, 1, expected=expected_draws(photos, params.class_balance))
    shift, targets = logit_shift(photos, 10, params.logit_adjustment), torch.tensor([photo.index for photo in photos])
    criterion, steps = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing), batches.steps_per_epoch
    for step in range(params.epochs * steps):
        for group in optimizer.param_groups:
            group["lr"] = params.head_lr * lr_factor(step, int(params.warmup_epochs * steps), params.epochs * steps)
        chosen = batches.positions(step) % len(photos)
        criterion(head(features[chosen]) + shift, targets[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
    return averaged


def measure(logits: Tensor, photos: list[Photo], sizes: Tensor) -> Measured:
    """By photos (N,) of logits (N, 10), each weighed so that classes have the shares of `sizes` (10,): those of training."""
    targets = torch.tensor([photo.index for photo in photos])
    shares = sizes / sizes.sum()
    weights = (shares / torch.bincount(targets, minlength=10))[targets]
    predicted = logits.argmax(1)
    confusion = torch.zeros(10, 10).index_put_((targets, predicted), weights, accumulate=True)
    f1 = 2 * confusion.diag() / (confusion.sum(0) + confusion.sum(1))
    # the temperature, too, is fitted on photos in that distribution
    drawn = torch.multinomial(weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    probability = (logits / fit_temperature(logits[drawn], targets[drawn])).softmax(1).amax(1)
    bins = (probability * 15).long().clamp(max=14)
    gaps = torch.zeros(15).index_add_(0, bins, weights * ((predicted == targets).float() - probability))
    return Measured(100 * float(confusion.diag().sum()), 100 * float(f1.mean()), 100 * float(gaps.abs().sum()))


@pytest.mark.slow
@needs_photos
def test_small_classes_are_found_at_little_cost_for_large_ones(once, capsys):
    photos, features, params = dishes(once)
    gains = []
    for seed in range(3):
        train, rest = long_tail(photos, seed)
        of_train, of_rest = [photos[i] for i in train], [photos[i] for i in rest]
        sizes = torch.bincount(torch.tensor([photo.index for photo in of_train]), minlength=10).float()
        found = []
        for balance, adjustment in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.3)):
            values = {"seed": seed, "class_balance": balance, "logit_adjustment": adjustment, "mixup": 0.0, "cutmix": 0.0}
            head = learn(of_train, features[train], params.model_copy(update=values))
            found.append(measure(head(features[rest]).detach(), of_rest, sizes))
            with capsys.disabled():
                print(f"\nseed {seed}, class_balance {balance}, logit_adjustment {adjustment}: {found[-1]}", end="")
        gains.append((found[2].top1 - found[0].top1, found[2].macro_f1 - found[0].macro_f1))
    top1, macro_f1 = (sum(column) / 3 for column in zip(*gains, strict=True))
    assert top1 >= -2, gains
    assert macro_f1 >= 5, gains
