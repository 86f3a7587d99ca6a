"""Data sets as they come: what is read of each layout, and what is said about the rest."""

import json
import os
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from scripts.class_names import split_name
from tests.conftest import bytes_of
from tests.heif_files import seeds as heif_seeds
from tests.training.test_sets import read
from training.data.sets import write_prepared

# enough for where content is not looked at: the first bytes of a photo
JPEG = b"\xff\xd8\xff\xe0"
NFC, NFD = (unicodedata.normalize(form, "crème brûlée") for form in ("NFC", "NFD"))


@pytest.fixture
def lay(tmp_path, generated):
    """A function that makes a data set of {folder: number of photos} and {file: its text or bytes}; `photo`: bytes of each."""
    pictures = iter(sorted(generated.rglob("*.jpg"), key=lambda path: path.stem))

    def make(content, photo=None):
        root = tmp_path / "data"
        for name, what in content.items():
            path = root / name
            folder = path if isinstance(what, int) else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(what, int):
                for number in range(what):
                    (folder / f"{number}.jpg").write_bytes(photo or next(pictures).read_bytes())
            elif isinstance(what, str):
                path.write_text(what)
            else:
                path.write_bytes(what)
        return root

    return make


def both(*folders, **more):
    """Two classes in each folder, six photos a class."""
    return {f"{folder}/{label}".lstrip("/"): 6 for folder in folders for label in ("pie", "soup")} | more


# what lies there; photos read of train, held out and test, None: refused; a part of what is said
LAYOUTS = {
    "class folders": (both(""), (12, 0), ""),
    "one folder inside another, as unpacked": (both("archive/food"), (12, 0), ""),
    "train and test": (both("train", "test"), (12, 12, 0), ""),
    "train and val": (both("train", "val"), (12, 12, 0), ""),
    "ImageNet, Kaggle: train, val, test": (both("train", "val", "test"), (12, 12, 12), ""),
    "Roboflow: train, valid, test": (
        both("train", "valid", "test") | {"README.roboflow.txt": "x"},
        (12, 12, 12),
        "not taken: 1 file of .*: 1 .txt .no image",
    ),
    "other case": (both("Train", "VALIDATION", "Testing"), (12, 12, 12), ""),
    "prefixes": (both("food-train", "food-dev", "food-holdout"), (12, 12, 12), ""),
    "numbers and nouns": (both("01_train_images", "02_trainval_2", "03_ImagesTest"), (24, 12, 0), ""),
    "one level down": (both("images/trn", "images/eval") | {"annotations/1.xml": "<a>"}, (12, 12, 0), "no photo in 'annotations'"),
    "Intel scenes: seg_train/seg_train": (
        both("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred": 3},
        (12, 12, 0),
        "not taken: 3 files of .*: 3 photos without a class",
    ),
    "train alone": (both("train"), (12, 0), ""),
    "test without labels": (both("train") | {"test": 4}, (12, 0), "test is not used: no class of its 4 photos"),
    "Keras: test/unknown": (both("train") | {"test/unknown": 4}, (12, 0), "test is not used"),
    "test lacks a class": (both("train") | {"train/tart": 3, "test/pie": 2}, (15, 2, 0), "no photo in test of 2 .* 'tart'"),
    "test has one more": (both("train", "test") | {"test/tart": 3}, (12, 12, 0), "left out 3 photos of test: .* no class 'tart'"),
    "test has others": ({"train/a": 2, "train/b": 2, "test/c": 2, "test/d": 2}, None, "none of the classes .* 'c', 'd', .* 'b'"),
    "splits in each class": ({f"{a}/{b}": 4 for a in ("pie", "soup") for b in ("train", "test")}, (8, 8, 0), ""),
    "segmentation": ({f"{a}/{b}": 4 for a in ("images", "masks") for b in ("train", "test")}, None, "hold splits but no classes"),
    "photos beside": (both("") | {"a.txt": "x", "b.csv": "x,y"} | {"": 3}, (12, 0), "5 files .*: 3 photos without .* 1 .csv"),
    "no class folders": ({"": 9}, None, "0 class folders and 9 photos without a class, expected at least 2"),
    "splits without classes": ({"train": 5, "test": 5}, None, "train has 0 class folders and 5 photos without a class"),
    "no train": (both("val", "test"), None, "holds 'test', 'val' and no folder of training photos: name that one train"),
    "test among classes": (both("") | {"test": 6, "tart": 6}, None, "'test', named like a split, beside 'pie', .*rename"),
    "splits of other names": (both("partA", "partB"), (24, 0), "'partA', 'partB' hold the same folders, 'pie', 'soup'"),
    "a class that is called train": (both("train", "test") | {"train/train": 5}, (17, 12, 0), "no photo in test of 1 .* 'train'"),
    "splits of which one is of another folder": (both("a/train", "a/test") | {"b": 6}, None, "a holds the splits 'test', 'train'"),
    "empty class": (both("") | {"tart/.keep": ""}, None, "class 'tart' in .* has no readable photo: it is empty"),
    "class of JPEG XL alone": (both("") | {"tart/1.jxl": b"\xff\x0a"}, None, r"'tart' .* only 1 .jxl .JPEG XL"),
    "folder of lists": (both("") | {"meta/1.json": "{}", "meta/2.txt": "x"}, (12, 0), "no photo in 'meta'"),
    "labels.csv": (
        {"images": 6, "labels.csv": "image;class\n0.jpg;pie\n1.jpg;pie\n2.jpg;soup\n3.jpg;soup\n9.jpg;soup\n"},
        (4, 0),
        "labels.csv: 1 row not taken: line 6: no photo .*\nnot taken: 3 files of .*: 2 photos without a class, 1 .csv",
    ),
    "Kaggle: train.csv": (
        {"train": 4, "test": 4, "train.csv": "id,label\n0,pie\n1,pie\n2,soup\n3,soup\n", "test.csv": "id\n0\n1\n"},
        (4, 0),
        "not taken: 6 files of .*: 4 photos without a class, 2 .csv",
    ),
    "lists of splits": (
        {"jpg": 8, "train.csv": "path,label\n0,a\n1,a\n2,b\n3,b\n", "valid.csv": "path,label\n4,a\n5,b\n"}
        | {"Test.csv": "path,label\n6,a\n"},
        (4, 2, 1),
        "not taken: 4 files",
    ),
    "list in a folder": ({"unpacked/images": 4, "unpacked/l.csv": "id,class\n0,a\n1,a\n2,b\n3,b\n"}, (4, 0), "1 file of"),
    "class folders beside a list of one class": (both("") | {"best.csv": "file,label\npie/0.jpg,good\n"}, (12, 0), "1 file of"),
    "masks beside a list": (
        {"images": 4, "masks": 4, "list.csv": "path,label\nimages/0.jpg,a\nimages/1.jpg,a\nimages/2.jpg,b\nimages/3.jpg,b\n"},
        (4, 0),
        "4 photos without a class",
    ),
    "leftovers": (
        both("", "__MACOSX", "@eaDir", ".ipynb_checkpoints", "#recycle", "lost+found", ".git")
        | {"pie/._0.jpg": "x", "pie/.DS_Store": "x", "pie/Thumbs.db": "x", "soup/desktop.ini": "x", "soup/@eaDir/0.jpg/T.jpg": "x"},
        (12, 0),
        r"not taken: 4 files and 7 folders of .*2 @eaDir folder.*1 \._ file",
    ),
    "names in two forms of Unicode": ({f"train/{NFC}": 4, "train/pie": 4, f"test/{NFD}": 3, "test/pie": 3}, (8, 6, 0), ""),
    "other case in a split": (
        both("train") | {"test/pie": 3, "test/Soup": 3},
        (12, 3, 0),
        "left out 3 photos of test: .*'Soup' and 'soup' differ by case",
    ),
    "other case in one folder": (both("") | {"Pie": 6}, (18, 0), "'Pie' and 'pie': if they are one"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_read_or_refused_with_what_to_change(lay, name, capsys):
    content, counts, said = LAYOUTS[name]
    root = lay(content)
    if counts is None:
        with pytest.raises(ValueError, match=said) as refused:
            read(root)
        text = str(refused.value).replace(str(root), "data")
    else:
        data = read(root)
        found = (len(data.train), len(data.held_out), len(data.test))
        assert found == counts if len(counts) == 3 else (sum(found), found[2]) == counts
        assert not any(split_name(label) for label in data.labels if label != "train")
        errors = capsys.readouterr().err
        assert re.search(said, errors) if said else not errors
        text = f"{', '.join(map(str, found))} {errors}".replace(str(root), "data")
    with capsys.disabled():
        print(f"\n{name}: {' '.join(content)}\n    {text}", end="")


NAMES = {
    "train": "train Train TRAIN training trn trainset train_set train_images images_train ImagesTrain food-train 01_train trainval",
    "val": "val valid Validation VALIDATION dev eval val2017 validation-set my_val dev_images",
    "test": "test tests testing Test holdout held_out held-out HeldOut hold-out test_images testset food_test",
}


@pytest.mark.parametrize("role", NAMES)
def test_usual_names_of_splits_are_recognised_and_others_are_not(role):
    for name in NAMES[role].split():
        assert split_name(name).role == role, name
    for name in ("latest", "contest", "value", "trainer", "devil", "evaluator", "valley", "trains", "pizza", "", "1"):
        assert split_name(name) is None, name


def test_format_is_told_by_content_and_not_by_name(lay, generated, capsys):
    photos = (Image.open(path) for path in sorted((generated / "class_0").iterdir()))
    files = {
        "JPEG": ["a.JPG", "b.jpe", "c.jfif", "d", "e.txt", "f.dat"],
        "PNG": ["g.jpg"],
        "AVIF": ["h.avif"],
        "JPEG2000": ["i.jp2"],
    }
    files |= {"WEBP": ["j.heic"], "TIFF": ["k.img"]}
    content = {f"pie/{name}": bytes_of(next(photos), image_format) for image_format, names in files.items() for name in names}
    content |= {"pie/l.HEIC": heif_seeds((64, 48))[1]}
    content |= {"pie/note.jpg": "no photo", "pie/note.txt": "no photo", "pie/x.jxl": b"\xff\x0a", "pie/empty": b""}
    root = lay({"soup": 6} | content)
    data = read(root)
    assert len({p.path for p in data.train + data.held_out if p.index == 0}) == 12
    errors = capsys.readouterr().err
    assert re.search(r"skipped .*/note.jpg: not an image", errors)
    assert re.search(r"not taken: 3 files of .*: .*1 \.txt .no image", errors)
    assert "1 .jxl (JPEG XL)" in errors


def test_links_are_followed_and_those_that_lead_nowhere_or_up_are_counted(lay, tmp_path, capsys):
    root = lay(both("elsewhere") | {"data/pie": 5})
    (root / "data" / "soup").symlink_to(root / "elsewhere" / "soup")
    (root / "data" / "pie" / "one.jpg").symlink_to(root / "elsewhere" / "pie" / "0.jpg")
    (root / "data" / "pie" / "gone.jpg").symlink_to("nowhere")
    (root / "data" / "pie" / "up").symlink_to(root / "data")
    os.mkfifo(root / "data" / "pie" / "pipe.jpg")
    data = read(root / "data")
    assert len(data.train) + len(data.held_out) == 12
    errors = capsys.readouterr().err
    assert "not taken: 3 files" in errors
    for kind in ("1 link that leads nowhere", "1 link to a folder above it", "1 no file (a device, pipe or socket)"):
        assert kind in errors


def test_prepared_file_keeps_the_test_split_and_an_older_one_has_none(lay, tmp_path):
    data, path = read(lay(both("train", "dev", "test"))), tmp_path / "split.json"
    write_prepared(data, 0.2, 0, path)
    assert read(path) == data
    assert {photo.split for photo in data.held_out} == {"val"}
    assert {photo.split for photo in data.test} == {"test"}
    values = json.loads(path.read_text())
    del values["test"]
    path.write_text(json.dumps(values))
    assert read(path) == replace(data, test=())


def test_training_photos_like_those_of_val_and_test_are_left_out(lay, capsys):
    root = lay(both("train", "val", "test"))
    for number, split in enumerate(("val", "test")):
        mirrored = ImageOps.mirror(Image.open(root / split / "pie" / "0.jpg"))
        mirrored.save(root / "train" / "pie" / f"like{number}.png")
    shutil.copyfile(root / "val" / "soup" / "0.jpg", root / "test" / "soup" / "again.jpg")
    data = read(root)
    assert (len(data.train), len(data.held_out), len(data.test)) == (12, 12, 13)
    errors = capsys.readouterr().err
    assert "left out 2 photos" in errors
    assert "1 photo in both val and test" in errors


@pytest.mark.parametrize(("photos", "bad", "reads"), [(10, 1, True), (60, 1, True), (60, 3, True), (60, 4, False)])
def test_few_bad_photos_are_left_out_and_many_are_refused(lay, photos, bad, reads, capsys):
    root = lay({"pie": photos // 2, "soup": photos // 2})
    for path in sorted((root / "pie").iterdir())[:bad]:
        path.write_bytes(path.read_bytes()[:300])
    if reads:
        data = read(root)
        assert len(data.train) + len(data.held_out) == photos - bad
        assert capsys.readouterr().err.count("skipped") == bad
    else:
        with pytest.raises(ValueError, match=f"{bad} of {photos} photos"):
            read(root)


def test_class_of_bad_photos_alone_is_named(lay):
    root = lay(both("") | {"tart/1.jpg": "no photo"})
    with pytest.raises(ValueError, match="class 'tart' has no readable photo in "):
        read(root)


def test_class_name_that_is_no_text_is_refused(lay):
    root = lay(both(""))
    shutil.copytree(root / "pie", Path(os.fsdecode(os.fsencode(root) + b"/cr\xe8me")))
    with pytest.raises(ValueError, match="no readable text .UTF-8.: rename"):
        read(root)
