import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from scripts.command import run
from tests.conftest import ROOT, SHARED, needs_photos
from training.data import known_pairs, prepare
from training.data.loader import Batches, eval_loader, train_loader
from training.data.sets import find_photos, read_data, write_prepared
from training.data.split import hash_photos
from training.data.thumbnail import PIXELS
from training.params import read_params


def read(root, **options):
    return read_data(root, **({"val_fraction": 0.2, "seed": 0} | options))


def test_class_folders_are_split_alike_and_repeatably(generated):
    data = read(generated)
    assert data.labels == ("class_0", "class_1", "class_2", "class_3")
    assert len(data.train) + len(data.held_out) == 120
    assert len(data.held_out) == pytest.approx(0.2 * 120, rel=0.5)
    assert {p.index for p in data.train} == {p.index for p in data.held_out} == {0, 1, 2, 3}
    assert read(generated) == data
    assert {p.path for p in read(generated, seed=1).held_out} != {p.path for p in data.held_out}


def food101(root, generated):
    """Generated pictures in the official layout, 20 + 10 a class; the lists of both splits."""
    (root / "meta").mkdir(parents=True)
    shutil.copytree(generated, root / "images")
    listed = {split: {} for split in ("train", "test")}
    for folder in sorted((root / "images").iterdir()):
        names = [f"{folder.name}/{path.stem}" for path in sorted(folder.iterdir())]
        listed["train"][folder.name], listed["test"][folder.name] = names[:20], names[20:]
    for split, names in listed.items():
        (root / "meta" / f"{split}.json").write_text(json.dumps(names))
    (root / "meta" / "classes.txt").write_text("\n".join(listed["train"]) + "\n")
    return listed


@pytest.mark.slow
def test_official_food101_layout_keeps_its_test_split(tmp_path, generated):
    root = tmp_path / "food-101"
    listed = food101(root, generated)
    for given in (root, tmp_path):  # the folder itself, and the one that torchvision downloads into
        data = read(given)
        assert (len(data.train), len(data.held_out)) == (80, 40)
        assert {f"{p.path.parent.name}/{p.path.stem}" for p in data.held_out} == {
            n for names in listed["test"].values() for n in names
        }


@needs_photos
def test_train_and_test_folders_give_the_true_label_map():
    labels, photos, layout = find_photos(SHARED / "data" / "food101_64px")
    assert len(labels) == 101
    assert labels[0] == "apple_pie"
    assert labels[100] == "waffles"
    assert sum(p.split == "train" for p in photos) > 5000
    assert sum(p.split == "test" for p in photos) > 1400
    assert "test" in layout


@pytest.mark.slow
def test_prepared_data_equals_the_folder_read_directly(tmp_path, generated, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(generated, "photos")
    food101(tmp_path / "official" / "food-101", generated)
    for root in (Path("photos"), generated, tmp_path / "official"):
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--data", str(root), "--params", str(ROOT / "params.yaml")])
        assert run(prepare.main) == 0
        direct, prepared = read_data(root, 0.1, 0), read_data(Path("build/split.json"), 0.1, 0)
        assert prepared.summary() | {"root": str(root.resolve())} == direct.summary() | {"root": str(root.resolve())}
        assert [p.sha256 for p in prepared.train] == [p.sha256 for p in direct.train]
        assert read_data(Path(str(prepared.summary()["root"])), 0.1, 0) == prepared  # as evaluate finds it
        assert re.search(rf"class_3 +{sum(p.index == 3 for p in direct.train)} +\d+\n", capsys.readouterr().out)
        assert not list(Path("build").glob("*.part"))
    assert json.loads(Path("build/split.json").read_text())["root"] == "official"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param("missing", "no prepared data", marks=pytest.mark.slow),
        ("[1, 2]", "was not written by training/data/prepare.py"),
        pytest.param("kind", "its kind is 'other'", marks=pytest.mark.slow),
        ("seed", "was prepared with .*'seed': 0.*run training/data/prepare.py again"),
        pytest.param(
            "near_duplicates",
            "was prepared with .*'near_duplicates': 0.3.*run training/data/prepare.py again",
            marks=pytest.mark.slow,
        ),
        pytest.param("folder", "are gone: no folder", marks=pytest.mark.slow),
        pytest.param("photo", "missing: 1 photo of .*, .*000.jpg is the first", marks=pytest.mark.slow),
    ],
)
def test_prepared_data_that_does_not_fit_is_refused_with_the_reason(tmp_path, generated, wrong, message):
    root, path = tmp_path / "photos", tmp_path / "split.json"
    shutil.copytree(generated, root)
    write_prepared(read(root), 0.2, 0, path)
    if wrong == "missing":
        path.unlink()
    if wrong == "[1, 2]":
        path.write_text(wrong)
    if wrong == "kind":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "other"}))
    if wrong == "folder":
        shutil.rmtree(root)
    if wrong == "photo":
        (root / "class_2" / "000.jpg").unlink()
    with pytest.raises(ValueError, match=message):
        read(path, seed=1 if wrong == "seed" else 0, near_duplicates=0 if wrong == "near_duplicates" else 0.3)


@pytest.mark.slow
def test_fingerprint_follows_content_and_not_place(tmp_path, generated):
    moved = tmp_path / "elsewhere"
    shutil.copytree(generated, moved)
    assert read(moved).fingerprint == read(generated).fingerprint
    (moved / "class_0" / "000.jpg").unlink()
    assert read(moved).fingerprint != read(generated).fingerprint


def test_unreadable_photo_is_named_and_skipped_and_many_are_refused(tmp_path, generated, capsys):
    root = tmp_path / "broken"
    shutil.copytree(generated, root)
    (root / "class_0" / "000.jpg").write_bytes(b"nothing")
    data = read(root)
    assert len(data.train) + len(data.held_out) == 119
    assert "class_0/000.jpg" in capsys.readouterr().err
    for number in range(1, 4):
        (root / "class_0" / f"00{number}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 120 photos .* unreadable"):
        read(root)


@pytest.mark.parametrize("missing", ["nowhere", "one_class", "empty_class"])
def test_folder_that_is_not_a_data_set_is_refused_with_the_reason(tmp_path, generated, missing):
    root = tmp_path / missing
    if missing == "one_class":
        shutil.copytree(generated / "class_0", root / "class_0")
    if missing == "empty_class":
        shutil.copytree(generated, root)
        (root / "class_9").mkdir()
    with pytest.raises(ValueError, match="does not exist|1 class folder,|'class_9' .* no readable photo"):
        read(root)


@pytest.mark.slow
def test_cached_hashes_are_the_same_and_notice_a_changed_file(tmp_path, generated):
    root, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(generated, root)
    first = read(root, cache=cache)
    assert [path.suffix for path in cache.iterdir()] == [".npz"] * 2
    assert read(root, cache=cache) == first
    shutil.copyfile(root / "class_1" / "001.jpg", root / "class_0" / "000.jpg")
    assert read(root, cache=cache).fingerprint == read(root).fingerprint != first.fingerprint


def test_loaders_give_uint8_crops_and_each_rank_its_own_photos(generated, tiny_params, spec):
    data = read(generated)
    crops, targets, skipped = next(iter(train_loader(data.train, tiny_params, Batches(len(data.train), tiny_params, 0, 1))))
    assert (crops.shape, crops.dtype, targets.shape) == ((16, 64, 64, 3), torch.uint8, (16,))
    assert skipped.tolist() == [-1] * 16
    positions = [
        p for rank in range(3) for *_, part in eval_loader(data.held_out, tiny_params, spec, rank, 3) for p in part.tolist()
    ]
    assert sorted(positions) == list(range(len(data.held_out)))


def test_hashing_an_empty_list_gives_empty_thumbnails(tmp_path):
    photos, thumbnails = hash_photos(tmp_path, [], None)
    assert photos == []
    assert thumbnails.shape == (0, PIXELS)


@pytest.mark.parametrize("name", ["params.yaml", "model_store/starter/params.yaml"])
def test_committed_parameter_files_are_valid(name):
    assert read_params(ROOT / name).epochs > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.1}, "learning_rate: Extra inputs .*0.1"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1 .got 0"),
        ({"epochs": "many"}, "epochs: .*got 'many'"),
        ({"augment": "heavy"}, "augment: .*got 'heavy'"),
        ({"lr": None}, "lr: .*got None"),
        ({"near_duplicates": 1.5}, "near_duplicates: .*less than or equal to 1 .got 1.5"),
        ({"near_duplicates": "off"}, "near_duplicates: .*got 'off'"),
    ],
)
def test_wrong_hyper_parameter_is_refused_by_name(tmp_path, change, message):
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | change
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        read_params(path)


def test_pairs_of_near_duplicates_are_looked_for_once(tmp_path, monkeypatch):
    thumbnails = np.random.default_rng(0).integers(0, 255, (6, PIXELS), np.uint8)
    thumbnails[3] = thumbnails[1]
    path = tmp_path / "cache" / "pairs.npz"
    found = known_pairs.known_pairs(thumbnails, 0.3, path)
    assert found.tolist() == [[1, 3]]
    with monkeypatch.context() as patch:
        patch.setattr(known_pairs, "near_duplicate_pairs", None)
        assert known_pairs.known_pairs(thumbnails, 0.3, path).tolist() == [[1, 3]]
        for other, limit in ((thumbnails[::-1], 0.3), (thumbnails, 0.2)):
            with pytest.raises(TypeError):
                known_pairs.known_pairs(other, limit, path)
    path.write_bytes(path.read_bytes()[:-30])
    assert known_pairs.known_pairs(thumbnails, 0.3, path).tolist() == [[1, 3]]
