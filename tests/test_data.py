import functools
import hashlib
import http.server
import io
import json
import shutil
import sys
import tarfile
import threading

import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance, ImageOps
from torchvision.datasets import Food101

from tests.conftest import ROOT, SHARED, free_port, needs_photos
from training import data as data_module
from training.data import find_photos, read_data
from training.loader import eval_loader, train_loader
from training.params import read_params
from training.split import hash_photos, near_duplicate_groups


def read(root, **options):
    return read_data(root, **({"val_fraction": 0.2, "seed": 0} | options))


def test_class_folders_are_split_alike_and_repeatably(generated):
    data = read(generated)
    assert data.labels == ("dish_0", "dish_1", "dish_2", "dish_3")
    assert (len(data.train), len(data.held_out)) == (96, 24)
    assert {sum(p.index == i for p in data.held_out) for i in range(4)} == {6}
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


@needs_photos
def test_copies_of_a_photo_are_recognised_and_different_photos_are_not():
    photos = sorted((SHARED / "data" / "food10").rglob("*.jpg"))[::25]
    greys = []
    for path in photos:
        image = Image.open(path).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=40)
        copies = [
            image,
            Image.open(buffer),
            ImageOps.mirror(image),
            image.resize((128, 128)),
            ImageEnhance.Brightness(image).enhance(0.8),
        ]
        greys += [np.asarray(copy.convert("L").resize((16, 16), Image.Resampling.BOX)).ravel() for copy in copies]
    groups = near_duplicate_groups(np.stack(greys)).reshape(len(photos), -1)
    assert (groups == groups[:, :1]).all(axis=1).mean() == 1.0
    assert len(set(groups[:, 0])) >= 0.98 * len(photos)


def test_no_copy_of_a_training_photo_is_held_out(tmp_path, generated):
    root = tmp_path / "copies"
    shutil.copytree(generated, root)
    for path in sorted(root.rglob("0[01]*.jpg")):
        image = Image.open(path)
        image.save(path.with_name(f"again_{path.name}"), quality=50)
        ImageOps.mirror(image).save(path.with_name(f"mirror_{path.name}"))
        shutil.copyfile(path, path.with_name(f"copy_{path.name}"))
    data = read(root)
    number = {p.path: (p.index, p.path.stem.split("_")[-1]) for p in data.train + data.held_out}
    assert len(number) == 4 * (30 + 3 * 20)
    assert not {number[p.path] for p in data.train} & {number[p.path] for p in data.held_out}
    assert len(data.held_out) == pytest.approx(0.2 * len(number), rel=0.1)


def test_photo_under_two_labels_is_never_held_out(tmp_path, generated):
    root = tmp_path / "both"
    shutil.copytree(generated, root)
    for path in sorted((root / "dish_0").iterdir()):
        shutil.copyfile(path, root / "dish_1" / f"twin_{path.name}")
    assert not any(p.index == 0 for p in read(root).held_out)


def test_fingerprint_follows_content_and_not_place(tmp_path, generated):
    moved = tmp_path / "elsewhere"
    shutil.copytree(generated, moved)
    assert read(moved).fingerprint == read(generated).fingerprint
    (moved / "dish_0" / "000.jpg").unlink()
    assert read(moved).fingerprint != read(generated).fingerprint


def test_unreadable_photo_is_named_and_skipped_and_many_are_refused(tmp_path, generated, capsys):
    root = tmp_path / "broken"
    shutil.copytree(generated, root)
    (root / "dish_0" / "000.jpg").write_bytes(b"nothing")
    data = read(root)
    assert len(data.train) + len(data.held_out) == 119
    assert "dish_0/000.jpg" in capsys.readouterr().err
    for number in range(1, 4):
        (root / "dish_0" / f"00{number}.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 120 photos .* unreadable"):
        read(root)


@pytest.mark.parametrize("missing", ["nowhere", "one_class", "empty_class"])
def test_folder_that_is_no_data_set_is_refused_with_what_is_wrong(tmp_path, generated, missing):
    root = tmp_path / missing
    if missing == "one_class":
        shutil.copytree(generated / "dish_0", root / "dish_0")
    if missing == "empty_class":
        shutil.copytree(generated, root)
        (root / "dish_9").mkdir()
    with pytest.raises(ValueError, match="does not exist|1 class folders|'dish_9' .* no readable photo"):
        read(root)


def test_cached_hashes_are_the_same_and_notice_a_changed_file(tmp_path, generated):
    root, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(generated, root)
    first = read(root, cache=cache)
    assert [path.suffix for path in cache.iterdir()] == [".json"]
    assert read(root, cache=cache) == first
    shutil.copyfile(root / "dish_1" / "001.jpg", root / "dish_0" / "000.jpg")
    assert read(root, cache=cache).fingerprint == read(root).fingerprint != first.fingerprint


def test_loaders_give_uint8_crops_and_each_rank_its_own_photos(generated, tiny_params, spec):
    data = read(generated)
    crops, targets = next(iter(train_loader(data, tiny_params, 0, 1)))
    assert (crops.shape, crops.dtype, targets.shape) == ((16, 64, 64, 3), crops.dtype, (16,))
    positions = [
        p for rank in range(3) for *_, part in eval_loader(data.held_out, tiny_params, spec, rank, 3) for p in part.tolist()
    ]
    assert sorted(positions) == list(range(24))


def test_hashing_an_empty_list_gives_empty_thumbnails(tmp_path):
    photos, thumbnails = hash_photos(tmp_path, [], None)
    assert photos == []
    assert thumbnails.shape == (0, 256)


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
    ],
)
def test_wrong_hyper_parameter_is_refused_by_name(tmp_path, change, message):
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | change
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        read_params(path)


def test_food101_is_downloaded_verified_and_found(tmp_path, generated, monkeypatch, capsys):
    food101(tmp_path / "food-101", generated)
    archive = tmp_path / "served" / "food-101.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "food-101", "food-101")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Food101, "_URL", f"http://127.0.0.1:{server.server_port}/food-101.tar.gz")
    monkeypatch.setattr(Food101, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(data_module, "FOOD101_PHOTOS", {"train": 80, "test": 40})
    monkeypatch.setattr(sys, "argv", ["data.py", str(tmp_path / "data")])
    assert data_module.main() == 0
    server.shutdown()
    server.server_close()
    assert "is complete" in capsys.readouterr().out
    assert len(read(tmp_path / "data").held_out) == 40
    monkeypatch.setattr(data_module, "FOOD101_PHOTOS", {"train": 81, "test": 40})
    assert data_module.main() == 1
    assert "lists 80 train photos, expected 81" in capsys.readouterr().err


def test_download_without_a_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Food101, "_URL", f"http://127.0.0.1:{free_port()}/food-101.tar.gz")
    monkeypatch.setattr(sys, "argv", ["data.py", str(tmp_path)])
    assert data_module.main() == 1
    said = capsys.readouterr().err
    assert "could not be downloaded" in said
    assert "make train DATA=" in said
