"""A run on photos and texts is the same on one process and on two: its figures, its weights, and which side a step leaves out."""

import pytest
import torch

from tests.training.encoders import write_encoder
from tests.training.test_exact import LOSS_TOLERANCE, WEIGHT_TOLERANCE, assert_trained_alike, finish, history, run_train
from training.data.loader import Batches, train_loader
from training.data.sets import read_data
from training.loop import train
from training.model import Checkpoint
from training.text.tower import text_spec


@pytest.fixture(scope="module")
def params(tiny_params):
    """A network without batch statistics, photos and texts mixed, and most of those with a text shown without one side."""
    changes = {"model": "test_vit", "model_args": {"img_size": 64}, "spec": {"input_size": [3, 64, 64]}, "lr": 0.001}
    changes |= {"mixup": 0.2, "epochs": 3, "side_dropout": 0.6, "text_lr": 0.05, "clip_norm": 1.0}
    return tiny_params.model_copy(update=changes)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_together_are_shown_what_one_is(titled, params, accumulate):
    photos = read_data(titled, params.val_fraction, params.seed).train
    params = params.model_copy(update={"epochs": 1, "accumulate": accumulate})

    def shown(rank, processes):
        batches = Batches(len(photos), params, rank, processes)
        with train_loader(photos, params, batches, text_spec(params.text_buckets)) as loader:
            return list(loader)

    one, (first, second) = shown(0, 1), (shown(rank, 2) for rank in range(2))
    assert len(one) == len(first) == len(second) == accumulate * (len(photos) // params.global_batch_size)
    for whole, *halves in zip(one, first, second, strict=True):
        for value, *parts in zip(whole, *halves, strict=True):
            assert torch.equal(value, torch.cat(parts))
    ids, seen = (torch.cat([batch[number] for batch in one]) for number in (3, 4))
    assert {(bool(row.any()), bool(count)) for row, count in zip(ids, seen, strict=True)} == {
        (True, True),
        (True, False),
        (False, True),
    }


@pytest.mark.slow
@pytest.mark.parametrize("by", ["n-grams", "encoder"])
def test_two_processes_train_as_one(titled, params, once, tmp_path, by):
    if by == "encoder":
        pytest.importorskip("transformers", reason="the extra encoder is not installed")
        params = params.model_copy(update={"text_encoder": str(once("encoder", write_encoder))})
    two = run_train(params, titled, tmp_path / "two", processes=2)
    torch.set_num_threads(1)
    one = Checkpoint.load(train("food", titled, params, tmp_path / "one"))
    finish(two)
    assert_trained_alike(tmp_path / "one", tmp_path / "two")
    rows = history(tmp_path / "one")
    # not for want of training, nor of texts
    assert rows[-1]["loss"] < rows[0]["loss"] - 100 * LOSS_TOLERANCE
    assert one.tower["classes.weight"].abs().max() > 100 * WEIGHT_TOLERANCE
