"""A list with texts trains one model on photos and texts: fusion, dropout of either side, exactness, starting weights, export."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from handler.preprocess import Spec, ids_of
from handler.text import TextSpec
from tests.training.texts import assert_resumed_run_ends_in_the_same_bits
from training.data.loader import Batches, train_loader
from training.data.sets import read_data
from training.evaluation.confidence import Confidence, ConfidenceOfSides, fit_confidence
from training.evaluation.features import Outputs
from training.model import Checkpoint, Classifier, build
from training.recipe import Mix, mix_sides
from training.text.dropout import shown
from training.text.tower import TextTower, fuse, not_black

SPEC = TextSpec(16, 512, 3, 5)


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = TextTower(SPEC, 8, 4)
    with torch.no_grad():
        tower.classes.weight.normal_()
        tower.classes.bias.normal_()
    return tower.eval()


def ids(*texts):
    return torch.from_numpy(ids_of(texts, Spec((3, 8, 8), "bicubic", (0,) * 3, (1,) * 3, 1.0, "center", SPEC)))


def test_no_text_adds_nothing_whatever_the_tower_has_learnt(tower):
    features, logits = tower(ids("", "pizza"))
    assert not features[0].any()
    assert not logits[0].any()
    assert features[1].any()
    assert logits[1].any()


def test_text_answers_alike_beside_others_and_by_itself(tower):
    batch = tower(ids("pizza", "", "a long title of a bowl of soup"))[1]
    assert torch.allclose(batch[0], tower(ids("pizza"))[1][0], atol=1e-6)
    assert torch.allclose(batch[2], tower(ids("a long title of a bowl of soup"))[1][0], atol=1e-6)


def test_fusion_adds_logits_and_leaves_out_a_photo_that_does_not_count():
    photo, text, seen = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 3)), torch.tensor([1.0, 0.0])
    logits = fuse(photo, text, seen)
    assert torch.equal(logits, torch.stack([photo[0] + text[1][0], text[1][1]]))
    features, both = fuse((torch.ones(2, 5), photo), text, seen)
    assert torch.equal(both, logits)
    assert features.shape == (2, 9)
    assert features[:, :5].sum(1).tolist() == [5, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_only_a_crop_that_is_black_all_over_stands_for_no_photo(dtype):
    crops = torch.zeros(3, 8, 8, 3, dtype=dtype)
    crops[1, 7, 7, 2], crops[2] = 1, 255
    assert not_black(crops).tolist() == [0, 1, 1]


def test_training_leaves_out_each_side_as_often_and_never_both():
    drawn = [shown("pizza", SPEC, 0.4, 0, 0, position) for position in range(2000)]
    without_text = sum(not side.ids.any() for side in drawn)
    without_photo = sum(side.seen == 0 for side in drawn)
    assert without_text == pytest.approx(400, abs=60)
    assert without_photo == pytest.approx(400, abs=60)
    assert all(side.ids.any() or side.seen for side in drawn)
    # nothing is left to learn from where a photo without words is left out
    assert all(shown(" ?! ", SPEC, 0.9, 0, 0, position).seen for position in range(100))


def test_what_is_left_out_depends_on_seed_epoch_and_photo_alone():
    def pattern(seed, epoch):
        return [float(shown("pizza", SPEC, 0.5, seed, epoch, position).seen) for position in range(60)]

    assert pattern(0, 0) == pattern(0, 0)
    assert len({tuple(pattern(*numbers)) for numbers in ((0, 0), (0, 1), (1, 0))}) == 3


def test_mixed_photos_have_the_text_of_the_larger_share():
    sides = [torch.tensor([[1], [2], [3], [4]]), torch.tensor([1.0, 0.0, 1.0, 1.0])]
    assert mix_sides(sides, Mix(0.7)) == sides
    ids, seen = mix_sides(sides, Mix(0.3))
    assert ids[:, 0].tolist() == [2, 1, 4, 3]
    assert seen.tolist() == [0, 1, 1, 1]


def test_confidence_falls_where_the_sides_disagree_and_is_zero_without_either():
    photo, text = torch.eye(3), torch.eye(3)
    score = ConfidenceOfSides(Confidence(photo), Confidence(text))
    rows = [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0] * 6]
    found = score(torch.tensor(rows, dtype=torch.float32), torch.zeros(5, 3))
    assert found.tolist() == pytest.approx([1, 0.5, 1, 1, 0])


def test_confidence_is_fitted_where_no_photo_of_a_class_has_a_text():
    features = torch.tensor([[1.0, 0.0, 0.5], [1.0, 0.1, 0.4], [0.0, 1.0, 0.0]])
    score = fit_confidence(Outputs(features, torch.zeros(3, 2), torch.ones(3, 4)), torch.tensor([0, 0, 1]), of_text=1)
    assert score(features, torch.zeros(3, 2)).isfinite().all()


def test_data_without_texts_makes_the_network_and_spec_that_it_made(tiny_params):
    torch.manual_seed(0)
    plain, spec = build(tiny_params, 4)
    torch.manual_seed(0)
    both, with_text = build(tiny_params, 4, with_text=True)
    assert plain.tower is None
    assert "text" not in spec.to_dict()
    assert replace(with_text, text=None) == spec
    assert Spec.from_dict(with_text.to_dict()) == with_text
    # the photo's side begins as it would without a text
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), both.network.parameters(), strict=True))
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(plain.eval()(crops), both.eval()(crops))


def test_text_in_a_runs_spec_is_refused(tiny_params):
    with pytest.raises(ValueError, match=r"spec\.text is .* expected none: text_buckets"):
        build(tiny_params.model_copy(update={"spec": {"text": {"length": 3}}}), 4)


def test_loader_gives_each_photos_own_text(titled, tiny_params):
    data = read_data(titled, tiny_params.val_fraction, tiny_params.seed)
    params = tiny_params.model_copy(update={"side_dropout": 0.0, "epochs": 1})
    batches = Batches(len(data.train), params, 0, 1)
    with_side = train_loader(data.train, params, batches, SPEC)
    without = list(train_loader(data.train, params, batches))
    order = [position for batch in batches for _, position in batch]
    for (crops, targets, skipped, ids, seen), plain, start in zip(with_side, without, range(0, len(order), 16), strict=True):
        # the crop's random numbers are those of a run without texts
        assert all(torch.equal(a, b) for a, b in zip((crops, targets, skipped), plain, strict=True))
        photos = [data.train[position] for position in order[start : start + len(targets)]]
        assert ids.tolist() == ids_of([photo.text for photo in photos], spec_with(SPEC)).tolist()
        assert seen.tolist() == [1] * len(targets)


def spec_with(text):
    return Spec((3, 8, 8), "bicubic", (0,) * 3, (1,) * 3, 1.0, "center", text)


def test_run_reads_photos_and_texts_and_its_checkpoint_answers_by_either(text_run, titled, tiny_params):
    checkpoint = Checkpoint.load(text_run / "checkpoint.pt")
    assert checkpoint.spec["text"] == {"length": 512, "buckets": 65_536, "shortest": 3, "longest": 5}
    classifier, spec = checkpoint.classifier()
    photos = [photo for photo in read_data(titled, tiny_params.val_fraction, 0).held_out if photo.text]
    targets = np.array([photo.index for photo in photos])
    ids = torch.from_numpy(ids_of([photo.text for photo in photos], spec))
    with torch.no_grad():
        by_text = classifier(torch.zeros(len(photos), 64, 64, 3, dtype=torch.uint8), ids)
        none = classifier(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.zeros_like(ids[:1]))
    assert (by_text.argmax(1).numpy() == targets).mean() > 0.5
    assert not none.any()


def test_run_starts_from_the_text_tower_of_another_and_keeps_the_classes_that_both_have(text_run, tiny_params):
    checkpoint = Checkpoint.load(text_run / "checkpoint.pt")
    params = tiny_params.model_copy(update={"weights": str(text_run), "spec": {}})
    labels = (*reversed(checkpoint.labels[1:]), "new")
    classifier, spec = build(params, len(labels), labels=labels, with_text=True)
    assert spec.text is not None
    assert "the text tower with the rows of 3 classes" in classifier.start
    assert torch.equal(classifier.tower.table.weight, checkpoint.tower["table.weight"])
    assert torch.equal(classifier.tower.classes.weight[0], checkpoint.tower["classes.weight"][-1])
    assert not classifier.tower.classes.weight[-1].any()
    # without texts it goes on as a model of photos
    plain, spec = build(params, len(labels), labels=labels)
    assert spec.text is None
    assert plain.tower is None
    other, _ = build(params.model_copy(update={"text_buckets": 64}), len(labels), labels=labels, with_text=True)
    assert "the text tower starts anew, as that one has 65536 x 32 embeddings" in other.start


def test_run_without_texts_gives_its_weights_to_one_with_them(tiny_run, tiny_params):
    classifier, _ = build(tiny_params.model_copy(update={"weights": str(tiny_run), "spec": {}}), 4, with_text=True)
    assert "the text tower starts anew" in classifier.start


@pytest.mark.slow
def test_stopped_and_resumed_run_ends_in_the_bits_of_one_that_was_not(titled, tiny_params, tmp_path):
    params = tiny_params.model_copy(update={"epochs": 2, "mixup": 0.2, "workers": 1})
    assert_resumed_run_ends_in_the_same_bits(titled, params, tmp_path, lambda: None)


def test_classifier_of_photos_alone_takes_no_notice_of_texts(tiny_params):
    classifier, spec = build(tiny_params, 4)
    assert isinstance(classifier, Classifier)
    assert ids_of(["pizza"], spec) is None
