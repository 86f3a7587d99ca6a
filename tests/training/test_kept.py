"""Decoded photos that are kept: the same results, seen by all workers, within their room, whatever happens to them."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import LIMIT_S, picture_bytes
from tests.training.test_exact import history, same_bits, weights
from training.data import kept, loader
from training.data.kept import InMemory, OnDisk, free_memory, keep
from training.data.loader import Batches, eval_loader, keep_decoded, needed_side, train_loader
from training.data.sets import read_data
from training.data.split import Photo
from training.loop import train
from training.model import build


def pixels(number: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side + number, 3), np.uint8)


@pytest.fixture
def photos():
    return [Photo(Path(f"{i}.jpg"), 0, sha256=f"{i:064x}") for i in range(4)]


@pytest.fixture(params=["ram", "disk"])
def store(request, photos, tmp_path):
    return InMemory(4, 10_000) if request.param == "ram" else OnDisk(photos, "all", tmp_path)


def test_what_one_process_keeps_every_other_one_gets(store):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=lambda i=i: store.put(i, pixels(i))) for i in (0, 1, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
        assert process.exitcode == 0
    for i in (0, 1, 3):
        assert np.array_equal(store.get(i), pixels(i))
    assert store.get(2) is None
    store.put(0, pixels(0))  # twice is once
    assert np.array_equal(store.get(0), pixels(0))


def test_memory_takes_what_has_room_and_nothing_after_it():
    store = InMemory(3, pixels(0).nbytes + pixels(1).nbytes)
    for i in (0, 2, 1):
        store.put(i, pixels(i))
    assert [store.get(i) is None for i in range(3)] == [False, False, True]
    assert InMemory(2, 0).get(0) is None
    assert 0 <= free_memory() < 10**13
    assert store.summary() == "2 decoded photos of 3 kept in memory, 0.0 GB"


def test_damaged_file_counts_as_none_and_a_disk_that_is_nearly_full_is_one_warning(photos, tmp_path, monkeypatch, capsys):
    store = OnDisk(photos, "all", tmp_path)
    store.put(0, pixels(0))
    (file,) = tmp_path.rglob("*.rgb")
    whole = file.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in (*range(12), 12, len(whole) - 1)]
    for broken in (whole[:-20], whole + b"0", b"", b"no photo", bytes(len(whole)), *flipped):
        file.write_bytes(broken)
        assert store.get(0) is None
    file.write_bytes(whole)
    assert np.array_equal(store.get(0), pixels(0))

    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: SimpleNamespace(free=kept.SPARE_BYTES + 10))
    store.put(1, pixels(1))
    store.put(2, pixels(2))
    assert capsys.readouterr().err.count("warning: no more decoded photos are kept") == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [file.name]


def test_folder_that_cannot_be_written_is_a_warning_and_no_photo_is_unreadable(big, tiny_params, tmp_path, capsys):
    (tmp_path / "decoded").write_text("a file in the folder's place")
    data = read_data(big, tiny_params.val_fraction, tiny_params.seed, cache=None)
    store = OnDisk(data.train, "all", tmp_path / "decoded")
    batches = Batches(len(data.train), tiny_params, 0, 1)
    _, _, skipped = next(iter(train_loader(data.train, tiny_params, batches, None, store)))
    assert skipped.unique().tolist() == [-1]
    assert "warning: no more decoded photos are kept" in capsys.readouterr().err


def test_pixels_of_another_decoder_are_not_found(photos, tmp_path, monkeypatch):
    OnDisk(photos, "all", tmp_path).put(0, pixels(0))
    assert OnDisk(photos, "all", tmp_path).get(0) is not None
    monkeypatch.setattr(kept, "decoders", lambda: "another")
    assert OnDisk(photos, "all", tmp_path).get(0) is None


def test_nothing_is_kept_by_default(photos):
    assert keep("none", photos, "all") is None


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Class folders of photos that are read reduced."""
    folder = tmp_path_factory.mktemp("big")
    for i in range(20):
        (folder / f"class_{i % 2}").mkdir(exist_ok=True)
        (folder / f"class_{i % 2}" / f"{i}.jpg").write_bytes(picture_bytes(i, (480 + i, 500)))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_batches_are_the_same_with_photos_kept_in_every_epoch(big, tiny_params, cache, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "decoded")
    monkeypatch.setattr(loader, "free_memory", lambda: 10**8)
    plain = tiny_params.model_copy(update={"epochs": 3, "global_batch_size": 4})
    params = plain.model_copy(update={"cache": cache, "workers": workers})
    data = read_data(big, params.val_fraction, params.seed, cache=None)
    spec = build(params, 2)[1]
    assert needed_side(params) == 96
    of_train, of_held_out = keep_decoded(data, params, spec)
    batches = Batches(len(data.train), params, 0, 1)
    with (
        train_loader(data.train, params, batches, None, of_train) as ours,
        eval_loader(data.held_out, params, spec, kept=of_held_out) as held_out,
    ):
        found = [list(ours), list(held_out), list(held_out)]
    expected = [list(train_loader(data.train, plain, batches)), *[list(eval_loader(data.held_out, plain, spec))] * 2]
    for theirs, wanted in zip(found, expected, strict=True):
        for batch, other in zip(theirs, wanted, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(batch, other, strict=True))
    sizes = [of_train.get(i).shape for i in range(len(data.train)) if of_train.get(i) is not None]
    assert len(sizes) >= len(data.train) - 3  # an epoch leaves out what does not fill a batch
    assert all(96 <= min(size[:2]) < 192 for size in sizes)
    assert all(of_held_out.get(i) is not None for i in range(len(data.held_out)))


def test_kept_photos_are_used(big, tiny_params):
    data = read_data(big, tiny_params.val_fraction, tiny_params.seed, cache=None)
    store = InMemory(len(data.train), 10**7)
    for i in range(len(data.train)):
        store.put(i, np.full((100, 100, 3), 7, np.uint8))
    crops, *_ = next(iter(train_loader(data.train, tiny_params, Batches(len(data.train), tiny_params, 0, 1), None, store)))
    assert crops.unique().tolist() == [7]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_run_is_the_same_to_the_bit(generated, tiny_params, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    params = tiny_params.model_copy(update={"epochs": 2, "workers": 1})
    train("food", generated, params, tmp_path / "plain")
    train("food", generated, params.model_copy(update={"cache": cache}), tmp_path / "kept")
    assert same_bits(weights(tmp_path / "plain"), weights(tmp_path / "kept"))
    assert same_bits(history(tmp_path / "plain"), history(tmp_path / "kept"))
    assert (tmp_path / "build" / "decoded").exists() == (cache == "disk")
