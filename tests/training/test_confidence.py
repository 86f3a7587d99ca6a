"""Confidence: scores, threshold, the exported score, and what make evaluate UNKNOWN=folder writes."""

import io
import json
import random
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from handler.openvino_models import openvino_core
from handler.preprocess import preprocess
from scripts.command import run
from training.data.pictures import draw, generate
from training.data.sets import read_data
from training.evaluation import evaluate, report
from training.evaluation.confidence import (
    Confidence,
    all_scores,
    auroc,
    class_means,
    fit_confidence,
    fit_threshold,
    squared_distances,
)
from training.evaluation.features import (
    PHOTOS_A_CLASS,
    Outputs,
    WithFeatures,
    extract_features,
    made_small,
    training_outputs,
    training_photos,
)
from training.model import Checkpoint
from training.params import Params


def test_auroc_counts_every_pair_and_a_tie_half():
    generator = torch.Generator().manual_seed(0)
    for values in (3, 50):  # many ties, few ties
        known = torch.randint(1, values + 1, (37,), generator=generator).float()
        unknown = torch.randint(0, values, (53,), generator=generator).float()
        pairs = [1.0 if k > u else 0.5 if k == u else 0.0 for k in known.tolist() for u in unknown.tolist()]
        assert auroc(known, unknown) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert auroc(torch.tensor([2.0]), torch.tensor([1.0])) == 1
    assert auroc(torch.tensor([1.0]), torch.tensor([2.0])) == 0


@pytest.mark.parametrize(("photos", "rate"), [(19, 0.05), (40, 0.05), (99, 0.29), (583, 0.05), (50, 0.01)])
def test_threshold_keeps_its_false_positive_rate(photos, rate):
    generator = torch.Generator().manual_seed(photos)
    scores = torch.rand(2000, photos, generator=generator).square()  # validation photos of 2000 trials
    thresholds = torch.tensor([fit_threshold(row, rate) for row in scores])
    low_confidence = (scores < thresholds[:, None]).float().mean(1)
    assert (low_confidence <= rate).all()
    # a score in 0..1 whose distribution function is its root: the rate of new photos is known exactly
    new = thresholds.clamp(min=0).sqrt()
    expected = int(rate * (photos + 1) + 1e-9) / (photos + 1)
    assert expected <= rate
    assert new.mean() == pytest.approx(expected, abs=4 * float(new.std()) / 2000**0.5 + 1e-9)


def test_threshold_with_ties_and_with_too_few_photos_gives_none_too_many_low_confidence():
    tied = torch.tensor([0.2] * 30 + [0.9] * 70)
    assert (tied < fit_threshold(tied, 0.1)).sum() == 0
    few = torch.tensor([0.1, 0.5, 0.9])
    threshold = fit_threshold(few, 0.05)
    assert (few < threshold).sum() == 0
    assert json.loads(json.dumps(threshold, allow_nan=False)) < -1  # and no program.json with -Infinity in it


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [([0.5], 0.0, "false_positive_rate is 0.0, expected more than 0"), ([0.5, float("nan")], 0.1, "1 of 2 scores are not finite")],
)
def test_threshold_of_bad_values_is_refused(scores, rate, message):
    with pytest.raises(ValueError, match=message):
        fit_threshold(torch.tensor(scores), rate)


def test_confidence_is_the_cosine_to_the_nearest_class_mean():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    confidence = fit_confidence(Outputs(features, torch.zeros(3, 2), torch.zeros(3, 0)), torch.tensor([0, 0, 1]))
    asked = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, -2.0], [0.0, 0.0]])
    assert confidence(asked, torch.zeros(4, 2)).tolist() == pytest.approx([1, 0.5**0.5, 0, 0])


def test_a_photo_that_is_strange_in_the_middle_of_the_network_gets_less_confidence_and_no_other_does():
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(2000, 3, generator=generator) * torch.tensor([4.0, 1.0, 0.5]) + 7
    outputs = Outputs(torch.tensor([[1.0, 0.0], [0.0, 2.0]]).repeat(1000, 1), torch.zeros(2000, 2), middle)
    confidence = fit_confidence(outputs, torch.arange(2000) % 2)
    assert confidence.distance(middle).square().mean() == pytest.approx(1, rel=1e-4)
    near, far, twice_as_far = (
        middle.mean(0),
        middle.mean(0) + torch.tensor([0.0, 9.0, 0]),
        middle.mean(0) + torch.tensor([0, 18.0, 0]),
    )
    asked = torch.tensor([[3.0, 0.0]]).repeat(3, 1)
    one, less, least = confidence(asked, torch.zeros(3, 2), torch.stack([near, far, twice_as_far])).tolist()
    assert one == pytest.approx(1)
    assert 0 < less < 0.5
    assert least == pytest.approx(less / 2, rel=1e-3)


def test_middle_features_that_never_vary_are_no_error():
    outputs = Outputs(torch.eye(2), torch.zeros(2, 2), torch.zeros(2, 4))
    confidence = fit_confidence(outputs, torch.arange(2))
    assert confidence(*outputs).tolist() == pytest.approx([1, 1])


class Other(torch.nn.Module):
    """A network whose stages timm returns beside other maps than those that it classifies by, or not at all."""

    def __init__(self, stages):
        super().__init__()
        self.inner = timm.create_model("resnet18", num_classes=2).eval()
        self.forward_features, self.forward_head = self.inner.forward_features, self.inner.forward_head
        if stages:
            self.forward_intermediates = lambda x, **_: (2 * self.forward_features(x), [x])


@pytest.mark.parametrize("stages", [True, False])
def test_a_network_whose_stages_timm_cannot_return_is_judged_by_its_features_alone(stages):
    network = Other(stages)
    outputs = Outputs(*WithFeatures(network, 64)(torch.zeros(2, 3, 64, 64)))
    assert outputs.middle.shape == (2, 0)
    torch.testing.assert_close(outputs.logits, network.inner(torch.zeros(2, 3, 64, 64)))
    assert fit_confidence(outputs, torch.tensor([0, 1])).distance is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["levit_128s", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv4_conv_small", "repvit_m1_0", "hiera_tiny_224"]
)
def test_the_middle_of_networks_of_many_kinds_is_seen_and_changes_no_answer(name):
    torch.manual_seed(0)
    network, crops = timm.create_model(name, num_classes=3).eval(), torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        outputs = Outputs(*WithFeatures(network, 224)(crops))
        torch.testing.assert_close(outputs.logits, network(crops), rtol=1e-3, atol=1e-4)
    assert outputs.middle.shape[1] > 0


def test_class_without_a_training_photo_is_refused():
    with pytest.raises(ValueError, match="class 1 of 3 has no photo among the 2 given"):
        fit_confidence(Outputs(torch.ones(2, 4), torch.zeros(2, 3), torch.zeros(2, 0)), torch.tensor([0, 2]))


def test_mahalanobis_distance_is_shorter_along_what_varies():
    generator = torch.Generator().manual_seed(0)
    deviations = torch.randn(5000, 2, generator=generator) * torch.tensor([3.0, 1.0])
    near, far = squared_distances(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.zeros(1, 2), deviations)[:, 0].tolist()
    # a tenth of the sphere's variance of 5 is mixed in: 0.9 * 9 + 0.5 and 0.9 * 1 + 0.5
    assert near == pytest.approx(9 / 8.6, rel=0.1)
    assert far == pytest.approx(9 / 1.4, rel=0.1)


def test_every_score_is_lower_for_what_lies_nowhere_near_a_class():
    generator = torch.Generator().manual_seed(0)
    means = torch.eye(4, 16) * 6
    targets = torch.arange(200) % 4
    features = means[targets] + torch.randn(200, 16, generator=generator) * 0.5
    other = torch.randn(200, 16, generator=generator) * 0.5 + torch.eye(16)[8] * 6
    for name, score in all_scores(Outputs(features, features @ means.T, features), targets, 1.5).items():
        known, unknown = (score(x, x @ means.T, x) for x in (features, other))
        assert known.shape == unknown.shape == (200,)
        assert auroc(known, unknown) > 0.9, name


class LastLayer(torch.nn.Module):
    """The end of an exported program: features in, confidence out. The first of them stand for the middle of the network."""

    def __init__(self, head, confidence):
        super().__init__()
        self.head, self.confidence = head, confidence

    def forward(self, features):
        return self.confidence(features, self.head(features), features[:, :64])


@pytest.mark.slow
def test_exported_confidence_gives_the_same_numbers_in_openvino(tmp_path):
    generator = torch.Generator().manual_seed(0)
    features, head = torch.rand(300, 1280, generator=generator), torch.nn.Linear(1280, 10)
    program = LastLayer(head, fit_confidence(Outputs(features, head(features), features[:, :64]), torch.arange(300) % 10)).eval()
    path, shapes = tmp_path / "confidence.onnx", {"features": {0: torch.export.Dim("batch", min=1, max=1024)}}
    torch.onnx.export(program, (features[:2],), path, dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False)
    # the head gives nothing to the answer and is left out: class means, middle of the network, and few bytes more
    assert 4 * (1280 * 10 + 64 * 65) < path.stat().st_size < 4 * (1280 * 10 + 64 * 65) + 20_000
    compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 7):
        np.testing.assert_allclose(compiled(features[:count].numpy())[0], program(features[:count]).detach(), rtol=1e-4)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Pictures of no known class: noise, and pieces of another colour; one file that is not a picture, one that is cut off."""
    folder = tmp_path_factory.mktemp("others") / "nothing_known"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(folder / f"noise_{number}.png")
        draw(6, random.Random(number), (90, 70)).save(folder / "deeper" / f"plate_{number}.jpg")
    (folder / "broken.jpg").write_bytes((folder / "deeper" / "plate_0.jpg").read_bytes()[:600])
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_features_and_logits_are_the_classifiers_own(tiny_run, generated, others):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    classifier, spec = checkpoint.classifier()
    paths = sorted((generated / "class_1").iterdir())[:5]
    (features, logits, middle), left_out = extract_features(classifier, spec, [*paths, others / "notes.txt"], torch.device("cpu"))
    assert left_out == [others / "notes.txt"]
    last = classifier.network.get_classifier()
    torch.testing.assert_close(last(features), logits)
    assert middle.shape == (5, classifier.network.feature_info[-2]["num_chs"])
    torch.testing.assert_close(logits, classifier(torch.stack([torch.from_numpy(preprocess(p.read_bytes(), spec)) for p in paths])))
    with pytest.raises(ValueError, match="of 1 photo none can be read"):
        extract_features(classifier, spec, [others / "notes.txt"], torch.device("cpu"))


def test_the_middle_is_known_of_training_photos_and_of_copies_with_few_pixels(tiny_run, generated):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    classifier, spec = checkpoint.classifier()
    data = read_data(generated, 0.2, 0)
    photos = training_photos(data.train, checkpoint.trained_on)[:7]
    outputs, targets = training_outputs(classifier, spec, photos, torch.device("cpu"))
    assert targets.tolist() == [photo.index for photo in photos]
    assert (len(outputs.features), len(outputs.logits), len(outputs.middle)) == (7, 7, 7 + 4)
    crop = preprocess(photos[0].path.read_bytes(), spec)
    small = made_small(crop)
    assert small.shape == crop.shape
    assert np.abs(np.diff(small.astype(int), axis=1)).mean() < np.abs(np.diff(crop.astype(int), axis=1)).mean()


def test_class_means_are_of_training_photos_and_of_no_more_than_enough(tiny_run, generated):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    params = Params(**checkpoint.params)
    data = read_data(generated, params.val_fraction, params.seed)
    photos = training_photos(data.train + data.held_out, checkpoint.trained_on)
    assert {photo.sha256 for photo in photos} == set(checkpoint.trained_on)
    many = [photo for photo in photos for _ in range(PHOTOS_A_CLASS)]
    assert len(training_photos(many, checkpoint.trained_on)) == 4 * PHOTOS_A_CLASS
    assert class_means(torch.ones(4, 3), torch.arange(4), 4).shape == (4, 3)


def run_main(main, *arguments):
    """(exit status, output) of a command line's main."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
        return run(main), output.getvalue()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_run, others):
    """(folder, output): a copy of the tiny run, evaluated with out-of-distribution photos, with its page."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, folder)
    status, output = run_main(evaluate.main, "--checkpoint", folder / "checkpoint.pt", "--out", folder, "--unknown", others)
    assert status == 0, output
    assert run_main(report.main, folder)[0] == 0
    return folder, output


@pytest.mark.slow
def test_evaluation_with_out_of_distribution_photos_writes_table_and_picture(evaluated):
    folder, output = evaluated
    found = json.loads((folder / "metrics.json").read_text())["out_of_distribution"]
    assert (found["unknown"], found["photos"], found["left_out"]) == ("nothing_known", 16, 2)
    assert next(iter(found["scores"])) == found["score"]
    assert {"entropy", "energy", "top probability", "Mahalanobis distance"} <= found["scores"].keys()
    for score in found["scores"].values():
        assert 0 <= score["auroc"] <= 1
        assert 0 <= score["detected_at_5_percent_fpr"] <= 1
    with Image.open(folder / "confidence.png") as image:
        assert image.width > 800
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert f"<td>{found['score']}</td><td>{found['scores'][found['score']]['auroc']:.4f}</td>" in page
    assert "16 photos of nothing_known (2 could not be read)" in page
    assert found["score"] in output


def test_unreadable_files_among_the_others_are_named(evaluated, others):
    _, output = evaluated
    assert f"left out {others / 'notes.txt'}: not an image" in output
    assert f"left out {others / 'broken.jpg'}: " in output


@pytest.mark.slow
def test_evaluation_without_out_of_distribution_photos_does_not_mention_them(evaluated, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(evaluated[0], folder)
    assert run_main(evaluate.main, "--checkpoint", folder / "checkpoint.pt", "--out", folder)[0] == 0
    assert "out_of_distribution" not in json.loads((folder / "metrics.json").read_text())
    assert not (folder / "confidence.png").exists()  # the picture would be an earlier evaluation's


def test_evaluation_is_refused_without_out_of_distribution_or_training_photos(tiny_run, generated, others, tmp_path):
    arguments = ["--checkpoint", tiny_run / "checkpoint.pt", "--out", tmp_path / "out"]
    status, output = run_main(evaluate.main, *arguments, "--unknown", tmp_path / "gone")
    assert (status, output) == (
        1,
        f"error: no out-of-distribution photos in {tmp_path / 'gone'}: the folder is empty or does not exist\n",
    )
    foreign = generate(tmp_path / "foreign", num_classes=4, per_class=10, seed=7)
    status, output = run_main(evaluate.main, *arguments, "--data", foreign, "--unknown", others)
    assert status == 1
    assert "has no training photo of class_0" in output


def test_class_means_of_a_hundred_and_one_classes_stay_below_a_megabyte():
    held = sum(buffer.numel() * buffer.element_size() for buffer in Confidence(torch.ones(101, 1280)).buffers())
    assert held == 4 * 101 * 1280 < 1_000_000
