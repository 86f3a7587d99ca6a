"""make data: published sets from a local stand-in for their hosts, in the published formats, and data sets of one's own."""

import hashlib
import io
import json
import pickle
import re
import tarfile
import threading
import zipfile
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

from scripts.command import run
from tests.conftest import free_port, picture_bytes
from training.data import obtain as command
from training.data.published import PUBLISHED, DownloadError, obtain
from training.data.sets import find_photos
from training.data.tensors import Normalisation, convert


def md5(content):
    return hashlib.md5(content).hexdigest()


def tar_gz(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def mat(**values):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values)
    return buffer.getvalue()


def cifar10(patch, url):
    names = ["airplane", "cat"]
    files, batches = {}, [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for number, batch in enumerate(batches):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 3 * 32 * 32), np.uint8)
        files[batch] = pickle.dumps({"data": pixels, "labels": [0, 1, 0, 1]})
    files["batches.meta"] = pickle.dumps({"label_names": names})
    archive = tar_gz({f"cifar-10-batches-py/{name}": content for name, content in files.items()})
    lists = [[name, md5(files[name])] for name in batches]
    patch.setattr(datasets.CIFAR10, "train_list", lists[:5])
    patch.setattr(datasets.CIFAR10, "test_list", lists[5:])
    patch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5(files["batches.meta"])})
    patch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    patch.setattr(datasets.CIFAR10, "url", f"{url}/cifar-10-python.tar.gz")
    expected = {"train": {"airplane": 10, "cat": 10}, "test": {"airplane": 2, "cat": 2}}
    return {"cifar-10-python.tar.gz": archive}, expected


def flowers102(patch, url):
    archive = tar_gz({f"jpg/image_{n:05}.jpg": picture_bytes(n, (32, 24)) for n in range(1, 9)})
    files = {
        "102flowers.tgz": archive,
        "imagelabels.mat": mat(labels=[1, 2, 1, 2, 1, 2, 1, 2]),
        "setid.mat": mat(trnid=[1, 2], valid=[3, 4], tstid=[5, 6, 7, 8]),
    }
    names = zip(("image", "label", "setid"), files, strict=True)
    patch.setattr(datasets.Flowers102, "_file_dict", {key: (name, md5(files[name])) for key, name in names})
    patch.setattr(datasets.Flowers102, "_download_url_prefix", f"{url}/")
    two = {"pink primrose": 1, "hard-leaved pocket orchid": 1}
    return files, {"train": two, "val": two, "test": dict.fromkeys(two, 2)}


def pets(patch, url):
    lines = {"trainval": "Abyssinian_1 1 1 1\npug_1 2 2 1\n", "test": "Abyssinian_2 1 1 1\npug_2 2 2 1\npug_3 2 2 1\n"}
    photos = [line.split()[0] for text in lines.values() for line in text.splitlines()]
    files = {
        "images.tar.gz": tar_gz({f"images/{name}.jpg": picture_bytes(n, (32, 24)) for n, name in enumerate(photos)}),
        "annotations.tar.gz": tar_gz({f"annotations/{split}.txt": text.encode() for split, text in lines.items()}),
    }
    patch.setattr(datasets.OxfordIIITPet, "_RESOURCES", [(f"{url}/{name}", md5(content)) for name, content in files.items()])
    return files, {"train": {"Abyssinian": 1, "Pug": 1}, "test": {"Abyssinian": 1, "Pug": 2}}


def eurosat(patch, url):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(["Forest", "River", "Forest"]):
            archive.writestr(f"2750/{name}/{name}_{number}.jpg", picture_bytes(number, (64, 64)))
    files = {"EuroSAT.zip": buffer.getvalue()}
    fetch = datasets.eurosat.download_and_extract_archive

    def from_here(address, download_root, md5):  # address and md5 stand in torchvision's method
        fetch(f"{url}/EuroSAT.zip", download_root=download_root, md5=hashlib.md5(files["EuroSAT.zip"]).hexdigest())

    patch.setattr(datasets.eurosat, "download_and_extract_archive", from_here)
    return files, {"": {"Forest": 2, "River": 1}}


def food101(patch, url):
    names = {split: {label: [f"{label}/{split}{n}" for n in range(2)] for label in ("pie", "ramen")} for split in ("train", "test")}
    files = {"food-101/meta/classes.txt": b"pie\nramen\n", "food-101/meta/labels.txt": b"Pie\nRamen\n"}
    for split, listed in names.items():
        files[f"food-101/meta/{split}.json"] = json.dumps(listed).encode()
        for number, name in enumerate(name for of_label in listed.values() for name in of_label):
            files[f"food-101/images/{name}.jpg"] = picture_bytes(number, (32, 24))
    archive = tar_gz(files)
    patch.setattr(datasets.Food101, "_URL", f"{url}/food-101.tar.gz")
    patch.setattr(datasets.Food101, "_MD5", md5(archive))
    return {"food-101.tar.gz": archive}, {split: {"pie": 2, "ramen": 2} for split in names}


STAND_INS = {one.__name__: one for one in (food101, cifar10, flowers102, pets, eurosat)}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """host(name): serves a set's stand-in; (what it holds, the paths asked for)."""
    folder, asked = tmp_path / "host", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def serving(name):
            files, expected = STAND_INS[name](monkeypatch, f"http://127.0.0.1:{server.server_port}")
            for path, content in files.items():
                (folder / path).write_bytes(content)
            numbers = {split: sum(of_class.values()) for split, of_class in expected.items()}
            monkeypatch.setitem(PUBLISHED, name, replaced(PUBLISHED[name], numbers))
            return expected, asked

        yield serving
        server.shutdown()


def replaced(published, photos):
    return type(published)(**vars(published) | {"photos": photos})


def laid_out(root):
    labels, photos, _ = find_photos(root)
    found = Counter((photo.split, labels[photo.index]) for photo in photos)
    splits = {split for split, _ in found}
    return {split: {label: count for (of, label), count in found.items() if of == split} for split in splits}


@pytest.mark.parametrize("name", STAND_INS)
def test_published_set_is_downloaded_once_with_its_published_splits(host, tmp_path, name):
    expected, asked = host(name)
    root = obtain(name, tmp_path / "data")
    assert laid_out(root) == expected
    downloads = len(asked)
    assert downloads
    assert obtain(name, tmp_path / "data") == root
    assert len(asked) == downloads
    assert not (tmp_path / "data" / f"{name}-download").exists()


def test_a_set_with_a_recipe_is_trained_on_by_its_name(host, tmp_path, monkeypatch, capsys):
    host("cifar10")
    host("pets")
    monkeypatch.chdir(tmp_path)
    for arguments, advice in (
        (["cifar10"], "RECIPE=cifar10"),
        (["pets"], "DATA=data/pets"),
        (["cifar10", "--data=elsewhere"], "DATA=elsewhere/cifar10"),
    ):
        monkeypatch.setattr("sys.argv", ["obtain", *arguments])
        assert run(command.main) == 0
        assert capsys.readouterr().out.endswith(f"Next: make train {advice}\n")


def test_each_published_set_has_a_stand_in():
    assert set(STAND_INS) == set(PUBLISHED)


@pytest.mark.parametrize("name", STAND_INS)
def test_file_that_is_not_the_published_one_is_refused_and_nothing_is_laid_out(host, tmp_path, name):
    host(name)
    for path in (tmp_path / "host").iterdir():
        path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(DownloadError, match=r"could not be downloaded(.|\n)*copy .* from another machine to"):
        obtain(name, tmp_path / "data")
    assert not (tmp_path / "data" / name).exists()


def test_files_copied_from_another_machine_serve_without_a_network(host, tmp_path):
    expected, asked = host("pets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.OxfordIIITPet, "_RESOURCES", [("http://127.0.0.1:1/images.tar.gz", "0")])
        with pytest.raises(DownloadError) as failed:
            obtain("pets", tmp_path / "data")
    assert str(tmp_path / "data" / "pets-download") in str(failed.value)
    for path in PUBLISHED["pets"].archives:
        target = tmp_path / "data" / "pets-download" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "host" / Path(path).name).read_bytes())
    assert laid_out(obtain("pets", tmp_path / "data")) == expected
    assert not asked


def test_download_without_a_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.Food101, "_URL", f"http://127.0.0.1:{free_port()}/food-101.tar.gz")
    monkeypatch.setattr("sys.argv", ["obtain", "food101", "--data", str(tmp_path)])
    assert run(command.main) == 1
    errors = capsys.readouterr().err
    assert "could not be downloaded" in errors
    assert "make train DATA=" in errors


def test_set_with_fewer_photos_than_published_is_refused(host, tmp_path, monkeypatch):
    host("eurosat")
    monkeypatch.setitem(PUBLISHED, "eurosat", replaced(PUBLISHED["eurosat"], {"": 27_000}))
    with pytest.raises(DownloadError, match="EuroSAT in .* has 3 photos, expected 27000"):
        obtain("eurosat", tmp_path / "data")
    assert not (tmp_path / "data" / "eurosat").exists()


def a_tensor(number, dtype=torch.uint8):
    with Image.open(io.BytesIO(picture_bytes(number, (32, 24)))) as photo:
        values = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    return values if dtype == torch.uint8 else values.to(dtype) / 255


def pixels_of(path):
    with Image.open(path) as photo:
        return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_a_tensor_a_photo_with_a_list_becomes_class_folders_with_the_same_pixels(tmp_path, dtype):
    folder, lines = tmp_path / "saved", ["file,label,split"]
    folder.mkdir()
    for number in range(8):
        torch.save(a_tensor(number, dtype), folder / f"{number}.pt")
        lines.append(f"{number}.pt,{'rose' if number % 2 else 'tulip'},{'train' if number < 6 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    assert convert(folder, tmp_path / "out", Normalisation()) == {"train": 6, "test": 2}
    assert laid_out(tmp_path / "out") == {"train": {"rose": 3, "tulip": 3}, "test": {"rose": 1, "tulip": 1}}
    assert torch.equal(pixels_of(tmp_path / "out" / "train" / "rose" / "1.png"), a_tensor(1))


def test_a_tensor_of_all_photos_takes_the_labels_of_its_lists_rows(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    for split, count in (("train", 6), ("test", 4)):
        torch.save(torch.stack([a_tensor(number) for number in range(count)]), folder / f"{split}.pt")
        rows = "".join(f"{number},{'rose' if number % 2 else 'tulip'}\n" for number in range(count))
        (folder / f"{split}_labels.csv").write_text("index,label\n" + rows)
    assert convert(folder, tmp_path / "out", Normalisation()) == {"train": 6, "test": 4}
    assert laid_out(tmp_path / "out")["test"] == {"rose": 2, "tulip": 2}
    assert torch.equal(pixels_of(tmp_path / "out" / "train" / "rose" / "train-000003.png"), a_tensor(3))


def test_normalised_tensors_get_their_colours_back_by_mean_and_std(tmp_path):
    folder = tmp_path / "saved"
    (folder / "rose").mkdir(parents=True)
    (folder / "tulip").mkdir()
    by = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (by.mean, by.std))
    for number in range(4):
        torch.save((a_tensor(number, torch.float32) - mean) / std, folder / ("rose" if number % 2 else "tulip") / f"{number}.pt")
    with pytest.raises(ValueError, match="values from -.* expected 0 to 1: if they are normalised: give the mean"):
        convert(folder, tmp_path / "out", Normalisation())
    assert not (tmp_path / "out").exists()
    convert(folder, tmp_path / "out", by)
    assert torch.equal(pixels_of(tmp_path / "out" / "rose" / "1.png"), a_tensor(1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(2, 4, 4), r"shape \(2, 4, 4\), expected \(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64, expected uint8"),
        (torch.full((3, 4, 4), 200.0), "values from 200 to 200, expected 0 to 1: if they are from 0 to 255 as floats"),
        (torch.full((3, 4, 4), torch.nan), "values from nan to nan"),
        ([1, 2], "holds a list, expected a tensor"),
    ],
)
def test_tensor_that_is_no_photo_is_refused_by_name_and_nothing_is_left(tmp_path, content, said):
    folder = tmp_path / "saved"
    for number, label in enumerate(["rose", "tulip"]):
        (folder / label).mkdir(parents=True)
        torch.save(a_tensor(number), folder / label / f"{number}.pt")
    torch.save(content, folder / "tulip" / "wrong.pt")
    with pytest.raises(ValueError, match=f"wrong.*{said}"):
        convert(folder, tmp_path / "out", Normalisation())
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_list_of_other_length_than_its_tensors_is_refused(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    torch.save(torch.stack([a_tensor(number) for number in range(3)]), folder / "all.pt")
    (folder / "labels.csv").write_text("label\nrose\ntulip\n")
    with pytest.raises(ValueError, match=r"all.pt holds 3 photos, its list .*labels.csv has 2 rows"):
        convert(folder, tmp_path / "out", Normalisation())


def test_folder_of_ones_own_is_read_as_training_reads_it(generated, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["obtain", str(generated)])
    command.main()
    printed = capsys.readouterr().out
    assert re.search(r"\d+ photos to train on, \d+ held out; fingerprint", printed)
    assert printed.endswith(f"Next: make train DATA={generated}\n")


def test_name_that_is_neither_a_set_nor_a_folder_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr("sys.argv", ["obtain", "food-101"])
    with pytest.raises(ValueError, match="SET is 'food-101': no such folder or file, .* known are food101, cifar10, flowers102"):
        command.main()
