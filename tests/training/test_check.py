"""What `make check-data` finds in a data set: wrong labels, near-duplicates, bad photos, small classes."""

import csv
import re
import shutil
import sys

import pytest
import torch
from PIL import Image, ImageFilter

from scripts.command import run
from tests.conftest import ROOT, SHARED, needs_photos
from tests.training.dishes import dishes
from training.check import check, features
from training.check.check import main
from training.check.features import chosen_features
from training.check.labels import Judged, fold_of, judge, most_suspicious, out_of_fold, scaled
from training.check.photos import distances, far_above, measure, oddities
from training.data.ingest import main as ingest
from training.params import read_params


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def blobs(per_class=40, classes=4, size=20):
    """Features (N, F) of classes that lie apart, and their labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(classes).repeat_interleave(per_class)
    return 2 * torch.eye(classes, size)[targets] + 0.3 * torch.randn(len(targets), size, generator=generator), targets


def test_flipped_labels_come_first_with_the_right_class_as_suggestion():
    points, true = blobs()
    given = true.clone()
    given[::20] = (given[::20] + 1) % 4
    judged = judge(out_of_fold(scaled(points), given, torch.arange(len(given)), 4), given)
    flipped = set(range(0, len(given), 20))
    assert set(most_suspicious(judged)[: len(flipped)]) == flipped
    likely = set(judged.likely_wrong.nonzero()[:, 0].tolist())
    assert likely <= flipped
    assert len(likely) >= 0.8 * len(flipped)
    assert (judged.suggested == true)[sorted(flipped)].all()


def test_class_of_few_photos_is_not_judged():
    points, targets = blobs()
    few = torch.cat([targets[:-38] == 3, torch.zeros(0, dtype=torch.bool)])
    points, targets = points[:-38], targets[:-38]  # two of the last class are left
    judged = judge(out_of_fold(scaled(points), targets, torch.arange(len(targets)), 4), targets)
    assert not judged.likely_wrong[few].any()
    assert (judged.probability[few] == 1).all()


def test_near_duplicates_share_a_fold_and_folds_are_even():
    targets, groups = torch.arange(4).repeat_interleave(25), torch.arange(100) // 2
    folds = fold_of(targets, groups)
    assert all(len(folds[groups == group].unique()) == 1 for group in groups.unique())
    assert torch.bincount(folds).min() >= 14


def test_label_that_no_class_is_sure_of_is_not_called_wrong():
    probabilities = torch.tensor([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5 + [[0.45, 0.55]])
    judged = judge(probabilities, torch.tensor([0] * 5 + [1] * 5 + [0]))
    assert isinstance(judged, Judged)
    assert not judged.likely_wrong.any()
    assert most_suspicious(judged)[0] == 10


def picture(path, size=(256, 200), level=None, blur=0.0, number=0):
    noise = Image.effect_noise((size[0] // 4 + 1, size[1] // 4 + 1), 120).resize(size)
    image = Image.new("L", size, level) if level is not None else noise.filter(ImageFilter.GaussianBlur(blur))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").rotate(90 * number, expand=False).save(path, quality=95)
    return path


def test_photos_are_measured_and_odd_ones_named(tmp_path):
    paths = [picture(tmp_path / f"{number}.jpg") for number in range(10)]
    odd = {"dark": {"level": 10}, "bright": {"level": 250}, "tiny": {"size": (120, 60)}, "odd shape": {"size": (400, 120)}}
    odd |= {"blurred": {"blur": 8.0}}
    paths += [picture(tmp_path / f"{kind}.jpg", **options) for kind, options in odd.items()]
    found = oddities([measure(path) for path in paths])
    assert found[:10] == [{}] * 10
    for kind, kinds in zip(odd, found[10:], strict=True):
        assert kind in kinds, (kind, kinds)
    (tmp_path / "text.jpg").write_text("no photo")
    assert isinstance(measure(tmp_path / "text.jpg"), str)
    assert not far_above(torch.ones(10)).any()


def few_of(generated, root, count):
    """A copy of the first `count` pictures of each class."""
    for path in generated.rglob("*.jpg"):
        if int(path.stem) < count:
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.parent.name)


@pytest.fixture
def dirty(tmp_path, generated, monkeypatch):
    """A copy of generated pictures with faults of each kind, and a command that checks it by features that tell true classes."""
    root = tmp_path / "photos"
    few_of(generated, root, 12)
    shutil.move(root / "class_0/000.jpg", root / "class_1/wrong.jpg")
    shutil.copy(root / "class_2/001.jpg", root / "class_3/copy.jpg")
    (root / "class_2/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    picture(root / "class_2/dark.jpg", level=3)
    (root / "class_4").mkdir()
    shutil.copy(generated / "class_1/007.jpg", root / "class_4/lonely.jpg")
    (root / "via.json").write_text('{"_via_settings": {}}')
    monkeypatch.chdir(tmp_path)

    def command(*options):
        monkeypatch.setattr(sys, "argv", ["check", "--data", "photos", "--params", str(ROOT / "params.yaml"), *options])
        return run(main)

    return command


def truth(params):
    """Stand-in for a network's features, which would take most of the test's time: the colours of pictures tell their class."""
    return lambda paths: torch.stack([colour(path) for path in paths]), "their colours"


def colour(path):
    pixels = Image.open(path).convert("RGB").resize((4, 4))
    return torch.tensor(list(pixels.tobytes()), dtype=torch.float32)


def test_command_lists_and_shows_what_is_wrong_and_changes_nothing(dirty, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check, "chosen_features", truth)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "photos").rglob("*"))
    assert dirty() == 0
    out = tmp_path / "build/check-data"
    labels, problems = rows(out / "labels.csv"), rows(out / "problems.csv")
    assert len(labels) == len(list((tmp_path / "photos").rglob("*.jpg"))) - 1
    assert [float(row["probability"]) for row in labels] == sorted(float(row["probability"]) for row in labels)
    kinds = {(row["problem"], (row["path"] or row["label"]).rpartition("/")[2]) for row in problems}
    assert ("unreadable", "broken.jpg") in kinds
    assert ("dark", "dark.jpg") in kinds
    assert ("class too small to hold out a photo", "class_4") in kinds
    pairs = [row for row in problems if row["problem"] == "near-duplicate under another label"]
    assert {(row["label"], row["other_label"], row["detail"]) for row in pairs} >= {("class_2", "class_3", "the same bytes")}
    page = (out / "page.html").read_text()
    assert {"VIA", "class_4", "Near-duplicate"} <= set(re.findall(r"VIA|class_4|Near-duplicate", page))
    assert page.count("data:image/jpeg") > 4
    assert not re.search(r"<script|https?://", page)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "photos").rglob("*")) == before
    assert re.search(r"1 unreadable\n", capsys.readouterr().out)


def test_weights_that_do_not_fit_are_an_error_before_any_photo_is_read(dirty, monkeypatch, tmp_path, capsys):
    read = []
    monkeypatch.setattr(check, "find_photos", lambda *arguments: read.append(arguments))
    torch.save({"classifier.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    assert dirty("--weights", str(tmp_path / "other.pth")) == 1
    assert "other.pth" in capsys.readouterr().err
    assert not read


def test_corrected_rows_are_taken_by_ingest(generated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few_of(generated, tmp_path / "photos", 8)
    shutil.move("photos/class_0/000.jpg", "photos/class_1/wrong.jpg")
    content = f"path,label,given,likely_wrong,probability\n{tmp_path}/photos/class_1/wrong.jpg,class_0,class_1,1,0.01\n"
    content += f"{tmp_path}/photos/class_2/001.jpg,class_2,class_2,0,0.99\n"
    (tmp_path / "labels.csv").write_text(content)
    options = ["--data", "photos", "--params", str(ROOT / "params.yaml"), "--reviewed", "labels.csv"]
    monkeypatch.setattr(sys, "argv", ["ingest", *options])
    assert run(ingest) == 0
    assert "1 corrected" in capsys.readouterr().out
    counts = {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "photos").iterdir()}
    assert counts == dict.fromkeys(counts, 8)
    assert not (tmp_path / "photos/class_1/wrong.jpg").exists()


def test_without_weights_the_starter_is_used_or_missed(generated, tmp_path, monkeypatch):
    params = read_params(ROOT / "params.yaml").model_copy(update={"weights": "none"})
    features_of, by = chosen_features(params)
    assert features_of(sorted(generated.rglob("*.jpg"))[:2]).shape == (2, 1280)
    assert "the starter's network" in by
    monkeypatch.setattr(features, "STARTER", tmp_path)
    with pytest.raises(ValueError, match="no weights to compare photos by: .*random weights.*no starter in .*give WEIGHTS=file"):
        chosen_features(params)


@pytest.mark.slow
@needs_photos
def test_most_flipped_labels_of_real_dishes_are_in_the_first_tenth_of_the_list(once, capsys):
    photos, found, _ = dishes(once)
    true, points = torch.tensor([photo.index for photo in photos]), scaled(found)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        flipped = torch.randperm(len(true), generator=generator)[: round(0.05 * len(true))]
        given = true.clone()
        given[flipped] = (given[flipped] + torch.randint(1, 10, (len(flipped),), generator=generator)) % 10
        judged = judge(out_of_fold(points, given, torch.arange(len(given)), 10), given)
        first = set(most_suspicious(judged)[: len(given) // 10])
        share = len(first & set(flipped.tolist())) / len(flipped)
        with capsys.disabled():
            print(f"\nseed {seed}: {share:.1%} of {len(flipped)} flipped labels are in the first tenth of the list", end="")
        assert share >= 0.8


@pytest.mark.slow
@needs_photos
def test_photos_of_other_things_are_outliers_among_dishes(once):
    _, of_dishes, params = dishes(once)
    others = sorted(path for path in (SHARED / "data/not_food").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    found = far_above(distances(torch.cat([of_dishes, chosen_features(params)[0](others[:30])])))
    assert found[-30:].sum() >= 24
    assert found[:-30].sum() <= 0.02 * len(of_dishes)
