"""Which photos an epoch draws and how much each counts: by class_balance, class_weights and the weights of a list."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from training.data.balance import draw, expected_draws, imbalance, logit_shift, loss_weights
from training.data.loader import Batches, TrainPhotos
from training.data.sets import Data
from training.data.split import Photo
from training.params import read_params
from training.resume import OtherRunError, check_same_run

SIZES = (200, 40, 4)


def photos_of(sizes, **more):
    return [Photo(Path(f"{index}-{number}.jpg"), index, **more) for index, size in enumerate(sizes) for number in range(size)]


def drawn(photos, class_balance, epoch):
    return draw(expected_draws(photos, class_balance), torch.Generator().manual_seed(epoch))


@pytest.mark.parametrize("class_balance", [0.0, 0.3, 0.5, 1.0])
def test_classes_are_drawn_by_a_power_of_their_frequency(class_balance):
    photos, shares = photos_of(SIZES), torch.tensor(SIZES, dtype=torch.float64) ** (1 - class_balance)
    epochs = [drawn(photos, class_balance, epoch) for epoch in range(20)]
    assert all(len(order) == len(order.unique()) == len(photos) for order in epochs)
    counts = Counter(photos[i % len(photos)].index for order in epochs for i in order.tolist())
    for index, share in enumerate((shares / shares.sum()).tolist()):
        assert counts[index] == pytest.approx(20 * len(photos) * share, rel=0.05, abs=20)
    # a photo is drawn as often as any other of its class, rounded up or down
    times = Counter(i % len(photos) for i in epochs[0].tolist())
    for index in range(3):
        of_class = [times[number] for number, photo in enumerate(photos) if photo.index == index]
        assert max(of_class) - min(of_class) <= 1
    assert sorted(epochs[0].tolist()) == list(range(len(photos))) or class_balance


def test_every_rank_and_every_resumed_run_draws_the_same(tiny_params):
    expected = expected_draws(photos_of(SIZES), 0.7)
    whole = list(Batches(244, tiny_params, 0, 1, expected=expected))
    params = tiny_params.model_copy(update={"accumulate": 2})
    ranks = [list(Batches(244, params, rank, 2, expected=expected)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert [key for part in range(2) for rank in ranks for key in rank[2 * step + part]] == batch
    assert list(Batches(244, tiny_params, 0, 1, 23, expected=expected)) == whole[23:]
    assert {epoch for batch in whole for epoch, _ in batch} == set(range(tiny_params.epochs))


def test_photo_that_is_drawn_twice_has_two_crops(generated, tiny_params):
    paths = sorted(generated.rglob("*.jpg"))[:5]
    photos = TrainPhotos([Photo(path, number) for number, path in enumerate(paths)], tiny_params)
    (first, index, skipped), (second, again, _), (same, _, _) = photos[0, 3], photos[0, 8], photos[0, 8]
    assert (index, again, skipped) == (3, 3, -1)
    assert (second == same).all()
    assert (first != second).any()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_weights_of_all_ranks_and_parts_are_those_of_a_weighted_mean(tiny_params, world_size):
    params = tiny_params.model_copy(update={"accumulate": 2})
    weights = 0.5 + torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = torch.rand(50, dtype=torch.float64)
    for step in (0, 3, 7):
        batches = [Batches(50, params, rank, world_size) for rank in range(world_size)]
        photos = batches[0].positions(step)
        keys = [list(one)[2 * step : 2 * step + 2] for one in batches]
        parts = [
            (one.weights(step, part, weights) * losses[[i for _, i in keys[rank][part]]]).mean()
            for rank, one in enumerate(batches)
            for part in range(2)
        ]
        expected = (weights[photos] * losses[photos]).sum() / weights[photos].sum()
        assert torch.stack(parts).mean().item() == pytest.approx(expected.item(), rel=1e-6)


def test_logits_are_shifted_by_the_classes_shares():
    shift = logit_shift(photos_of((6, 3, 1)), 3, 0.5)
    assert torch.allclose(shift.exp() ** 2, torch.tensor([0.6, 0.3, 0.1]))
    assert logit_shift(photos_of((6, 3, 1)), 3, 0.0).tolist() == [0.0, 0.0, 0.0]


def test_weight_is_that_of_the_photo_times_that_of_its_class():
    photos = [*photos_of((1, 1)), *photos_of((1,), weight=3.0)]
    assert loss_weights(photos, ("pie", "soup"), {"soup": 2.0}).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="class_weights: the data set has no class 'Soop'; the nearest is 'soup'"):
        loss_weights(photos, ("pie", "soup"), {"Soop": 2.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_balance": 1.5}, "class_balance: Input should be less than or equal to 1"),
        ({"class_balance": -0.1}, "class_balance: Input should be greater than or equal to 0"),
        ({"logit_adjustment": 2}, "logit_adjustment: Input should be less than or equal to 1"),
        ({"class_weights": {"pie": 0}}, "class_weights.pie: Input should be greater than 0"),
        ({"class_weights": {"pie": ".inf"}}, "class_weights.pie: Input should be a valid number"),
    ],
)
def test_wrong_value_is_refused_by_name(tmp_path, values, message):
    path = tmp_path / "params.yaml"
    text = re.sub(r"^(class_\w+|logit_adjustment):.*\n", "", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE)
    path.write_text(text)
    assert (read_params(path).class_balance, read_params(path).class_weights) == (0.0, {})  # a file of before
    path.write_text(text + "".join(f"{name}: {value}\n" for name, value in values.items()))
    with pytest.raises(ValueError, match=message):
        read_params(path)


def test_run_of_before_these_parameters_goes_on(tiny_params):
    data = Data(("pie", "soup"), (), (), "print", "photos")
    old = {name: value for name, value in tiny_params.model_dump().items() if not name.startswith(("class_", "logit_"))}
    state = {"name": "food", "params": old, "labels": data.labels, "fingerprint": "print"}
    check_same_run(state, "food", tiny_params, data, [], Path("run"))
    with pytest.raises(OtherRunError, match=r"class_balance 0.0 -> 0.5"):
        check_same_run(state, "food", tiny_params.model_copy(update={"class_balance": 0.5}), data, [], Path("run"))


@pytest.mark.parametrize(("sizes", "said"), [((100, 10), False), ((101, 10), True), ((5000, 900, 400), True)])
def test_uneven_classes_are_a_warning_that_names_the_parameter(sizes, said):
    labels = ("pie", "soup", "tea")
    warning = imbalance(photos_of(sizes), labels, 0.0)
    assert ("class_balance" in warning) == said
    assert (f"'pie' has {sizes[0]} training photos, {labels[len(sizes) - 1]!r} {sizes[-1]}" in warning) == said
    assert not imbalance(photos_of(sizes), labels, 0.5)
