"""Lists that people go on with: labels that were corrected, classes that are none, lists without a row (make ingest --reviewed)."""

import csv
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.training.test_ingest import content, give, ingest, project, refused  # noqa: F401
from tests.training.test_sets import food101
from training.data.pictures import draw

CLASSES = ("pad_thai", "ramen", "soup")


@pytest.fixture
def food():
    """data/food as class folders of three classes, of four small pictures each."""
    for number, label in enumerate(CLASSES):
        (Path("data/food") / label).mkdir(parents=True)
        for photo in range(4):
            draw(number, random.Random(100 * number + photo), (96, 64)).save(f"data/food/{label}/{photo}.jpg")
    return Path("data/food")


def listed(*rows, path="collected/labels.csv"):
    """A list with these rows of (photo, label)."""
    Path(path).parent.mkdir(exist_ok=True)
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((Path("..") / photo, label) for photo, label in rows)])
    return Path(path)


def where(root=Path("data/food")):
    """{file name: classes} of all photos."""
    found = {}
    for path in sorted(root.rglob("*.jpg")):
        found.setdefault(path.name, []).append(path.parent.name)
    return found


def test_a_label_that_was_changed_after_the_ingest_moves_its_photo(monkeypatch, capsys, food):
    photos = [give("x", number, "inbox") for number in (1000, 1001)]
    reviewed = ("--data", food, "--reviewed")
    assert ingest(monkeypatch, capsys, listed((photos[0], "ramen"), (photos[1], "soup")), *reviewed)[0] == 0
    before = where()
    (name,) = (path.name for path in (food / "ramen").iterdir() if len(path.stem) == 16)
    status, output, _ = ingest(monkeypatch, capsys, listed((photos[0], "soup"), (photos[1], "soup")), *reviewed)
    assert status == 0
    assert f"corrected {listed().parent / '../inbox/x/1000.jpg'}: ramen -> soup" in output or "1000.jpg: ramen -> soup" in output
    assert "0 photos added, 1 corrected, 1 present already, 0 refused" in output
    assert where() == before | {name: ["soup"]}
    unchanged = content(food)
    listed((photos[0], "soup"), (photos[1], "soup"))
    status, output, _ = ingest(monkeypatch, capsys, "collected/labels.csv", *reviewed)
    assert (status, content(food)) == (0, unchanged)
    assert "0 photos added, 2 present already, 0 refused" in output


def test_a_photo_that_has_no_label_any_more_goes_out_again_and_one_of_the_first_data_set_stays(monkeypatch, capsys, food):
    photos = [give("x", number, "inbox") for number in (1000, 1001)]
    first = Path("inbox/x/first.jpg")
    shutil.copyfile(food / "soup/1.jpg", first)
    reviewed = ("--data", food, "--reviewed")
    before = where()
    assert ingest(monkeypatch, capsys, listed((photos[0], "ramen"), (photos[1], "soup")), *reviewed)[0] == 0
    table = listed((photos[1], "soup"), (first, ""), (photos[0], ""))
    status, output, errors = ingest(monkeypatch, capsys, table, *reviewed)
    assert status == 0
    assert re.search(r"removed .*1000\.jpg: no longer ramen\n", output)
    assert "0 photos added, 1 removed, 1 present already, 0 refused" in output
    assert "no label" not in errors
    now = where()
    assert len(now) == len(before) + 1
    assert before.items() <= now.items()
    status, output, _ = ingest(monkeypatch, capsys, table, *reviewed)
    assert (status, where()) == (0, now)
    assert "removed" not in output
    assert ingest(monkeypatch, capsys, listed((photos[0], ""), (photos[0], "pad_thai")), *reviewed)[0] == 0  # the last counts
    assert len(where()) == len(before) + 2
    status, _, errors = ingest(monkeypatch, capsys, listed((photos[0], ""), (photos[1], "soup")), "--data", food)
    assert "line 2: no label" in errors  # without --reviewed it is a gap
    assert len(where()) == len(before) + 2


def test_the_last_of_several_labels_counts(monkeypatch, capsys, food):
    first = give("x", 1000, "inbox")
    copy = Path("inbox/x/again.jpg")  # the photo came again, with other feedback
    shutil.copyfile(first, copy)
    there = Path("inbox/x/there.jpg")
    shutil.copyfile(food / "soup/1.jpg", there)
    table = listed((first, "ramen"), (there, "ramen"), (copy, "soup"), (there, "pad_thai"), (first, "ramen"), (copy, "pad_thai"))
    status, output, _ = ingest(monkeypatch, capsys, table, "--data", food, "--reviewed")
    assert status == 0
    assert "1 photo added, 1 corrected, 0 present already, 0 refused" in output
    new = {name: labels for name, labels in where().items() if len(name) == 20}
    assert list(new.values()) == [["pad_thai"]] * 2
    assert len(list(food.rglob("*.jpg"))) == 13


def test_copies_under_two_labels_become_one(monkeypatch, capsys, food):
    photo = give("x", 1000, "inbox")
    assert ingest(monkeypatch, capsys, listed((photo, "ramen")), "--data", food)[0] == 0
    (known,) = (path for path in (food / "ramen").iterdir() if len(path.stem) == 16)
    shutil.copyfile(known, food / "soup" / known.name)
    assert ingest(monkeypatch, capsys, listed((photo, "soup")), "--data", food, "--reviewed")[0] == 0
    assert where()[known.name] == ["soup"]


def test_a_held_out_photo_stays_as_its_split_has_it(monkeypatch, capsys, food):
    Path("data/split/train").parent.mkdir()
    food.rename("data/split/train")
    shutil.copytree("data/split/train", "data/split/test")
    for path in Path("data/split/test").rglob("*.jpg"):
        draw(3, random.Random(str(path)), (96, 64)).save(path)
    photo = Path("inbox/a.jpg")
    photo.parent.mkdir()
    shutil.copyfile("data/split/test/soup/1.jpg", photo)
    status, *_ = ingest(monkeypatch, capsys, listed((photo, "ramen")), "--data", "data/split", "--reviewed")
    assert status == 0
    assert [reason for reason, _ in refused().values()] == ["in the held-out test split"]
    assert Path("data/split/test/soup/1.jpg").exists()


def test_a_corrected_photo_is_listed_once_in_food_101(monkeypatch, capsys, generated):
    food101(Path("data/food"), generated)
    photo = give("x", 1000, "inbox")
    labels = sorted(path.name for path in Path("data/food/images").iterdir())
    for label in labels[:2]:
        assert ingest(monkeypatch, capsys, listed((photo, label)), "--data", "data/food", "--reviewed")[0] == 0
    (path,) = (path for path in Path("data/food/images").rglob("*.jpg") if len(path.stem) == 16)
    assert path.parent.name == labels[1]
    train = json.loads(Path("data/food/meta/train.json").read_text())
    assert [name for names in train.values() for name in names if path.stem in name] == [f"{labels[1]}/{path.stem}"]


def test_a_class_without_a_photo_leaves_no_folder(monkeypatch, capsys, food):
    photo = give("x", 1000, "inbox")
    new = ("--data", food, "--reviewed", "--new-classes")
    assert ingest(monkeypatch, capsys, listed((photo, "sooop")), *new)[0] == 0
    assert ingest(monkeypatch, capsys, listed((photo, "soup")), *new)[0] == 0
    assert sorted(path.name for path in food.iterdir()) == list(CLASSES)


@pytest.mark.parametrize(
    ("typed", "close"),
    [("soop", "soup"), ("Pad Thai", "pad_thai"), ("RAMEN", "ramen"), ("PAD-THAI", "pad_thai"), ("tiramisu", None)],
)
def test_a_class_that_is_none_is_named_with_its_line_and_the_closest(monkeypatch, capsys, food, typed, close):
    before = content(food)
    table = listed((give("x", 1000, "inbox"), "soup"), (give("x", 1001, "inbox"), typed))
    status, _, errors = ingest(monkeypatch, capsys, table, "--data", food, "--reviewed")
    assert status == 1
    expected = rf"'{typed}' \(collected/labels.csv, line 3" + (rf"; close: {close}" if close else r"\);")
    assert re.search(expected, errors), errors
    assert "if they are new, add --new-classes (NEW_CLASSES=1), else correct them" in errors
    assert content(food) == before


@pytest.mark.parametrize("text", ["path,label\n", "path,label", "\ufeffpath,label\r\n\r\n", '"path","label"\n'])
def test_a_list_without_a_row_adds_nothing_and_is_no_error(monkeypatch, capsys, food, text):
    before = content(food)
    Path("labels.csv").write_text(text, newline="")
    status, output, errors = ingest(monkeypatch, capsys, "labels.csv", "--data", food, "--reviewed")
    assert (status, errors, content(food)) == (0, "", before)
    assert "labels.csv has no row yet: nothing is added" in output


def test_a_list_of_which_every_photo_is_refused_is_no_error(monkeypatch, capsys, food):
    copy = Path("inbox/copy.png")
    copy.parent.mkdir()
    draw(0, random.Random(0), (96, 64)).resize((120, 80)).save(copy)
    table = listed((copy, "pad_thai"), (Path("inbox/gone.jpg"), "soup"))
    status, output, _ = ingest(monkeypatch, capsys, table, "--data", food, "--reviewed")
    assert status == 0
    assert "0 photos added, 0 present already, 2 refused" in output


def test_a_list_whose_photos_have_expired_is_no_error(monkeypatch, capsys, food):
    before = content(food)
    table = listed((Path("inbox/a.jpg"), "pad_thai"), (Path("inbox/b.jpg"), "soup"))
    assert ingest(monkeypatch, capsys, table, "--data", food, "--reviewed")[0] == 0
    assert content(food) == before
