"""make bench-decode, and photos as large as a phone's."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from handler.preprocess import preprocess, read_photo
from scripts.bench.decode import WAYS, available, made, measure, table
from scripts.bench.photos import phone_photo, read_photos
from scripts.machine import cpu
from tests.conftest import ROOT, picture_bytes


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (200, 200)])
def test_phone_photo_is_as_large_as_asked_subsampled_and_held_upright(size):
    photo = phone_photo(read_photo(picture_bytes(size=size)), 0.3)
    with Image.open(io.BytesIO(photo)) as stored:
        assert stored.size == (632, 474)
        assert [layer[1:3] for layer in stored.layer] == [(2, 2), (1, 1), (1, 1)]
    assert read_photo(photo).size == (474, 632)


def test_photos_that_are_enlarged_are_few_and_the_same_each_time():
    enlarged = read_photos(None, 0.1)
    assert len(enlarged) == 8
    assert enlarged == read_photos(None, 0.1)


def test_each_way_is_measured_beside_preprocess_and_a_library_that_is_not_there_is_named(spec, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    ways = available({name: WAYS[name] for name in ("Pillow, draft", "Pillow, full size", "simplejpeg")})
    assert "simplejpeg: not installed" in capsys.readouterr().out
    photos = [phone_photo(read_photo(picture_bytes(seed)), 0.5) for seed in range(2)]
    measured = measure(ways, photos, spec, lambda crops: np.stack(crops).mean(axis=(1, 2, 3)), 0.1)
    assert measured["preprocess()"].most == measured["Pillow, draft"].most == measured["Pillow, draft"].changed == 0
    assert measured["Pillow, full size"].changed == 2
    assert 0 < measured["Pillow, full size"].mean < 2
    assert all(one.ms > 0 for one in measured.values())
    assert table({"0.5 MP": measured}).count("\n") == 1 + len(measured)


def test_what_is_compared_makes_the_crop_that_it_stands_for(spec):
    photo = phone_photo(read_photo(picture_bytes()), 0.5)
    for name, most in (("all of it resized", 2), ("the crop in one call", 10), ("reducing_gap", 40)):
        difference = np.abs(made(WAYS[f"Pillow, draft, {name}"])(photo, spec).astype(int) - preprocess(photo, spec))
        assert difference.max() <= most, name


@pytest.mark.slow
def test_bench_decode_names_cpu_archive_and_each_way():
    command = [sys.executable, "-m", "scripts.bench.decode", "--count", "2", "--seconds", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(cpu()) and "crops and classes of seefood-" in line]
    assert [line for line in lines if line.startswith("| preprocess() |")]
    for name in WAYS:
        assert [line for line in lines if line.startswith((f"| {name} |", f"{name}: not installed"))], name
