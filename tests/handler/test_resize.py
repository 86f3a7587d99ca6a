"""handler/resize.py: Pillow's resizing, by SIMD where there is a wheel for it, a value at most 1 of 255 apart."""

import platform
import random
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import handler.resize
from handler.preprocess import INTERPOLATIONS, Spec, crop, read_photo
from handler.resize import resize
from tests.conftest import ROOT, picture_bytes

WHEEL = platform.machine() == "x86_64" and sys.version_info < (3, 15)
needs_wheel = pytest.mark.skipif(not WHEEL, reason="there is no wheel of cykooz.resizer for this CPU or Python")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def apart(found, expected):
    return int(np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max())


def cases(count, most):
    """(photo's size, resized size, box): one direction of each is resized, to more or fewer pixels, of all or a part of it."""
    rng = random.Random(0)
    for number in range(count):
        side, other, size = rng.randint(1, most), rng.randint(1, most), rng.choice([1, rng.randint(1, 40), 192, 224])
        first, last = sorted((rng.uniform(0, side), rng.uniform(0, side))) if number % 3 else (0.0, float(side))
        if number % 2:
            yield (side, other), (size, other), (first, 0, last, other)
        else:
            yield (other, side), (other, size), (0, first, other, last)


@needs_wheel
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("most", [12, 700])
def test_values_are_pillows_but_for_a_level_even_of_noise(interpolation, most):
    assert handler.resize.simd is not None
    resampling = INTERPOLATIONS[interpolation]
    for number, (of, size, box) in enumerate(cases(40, most)):
        image = noise(*of, seed=number)
        found = resize(image, size, resampling, box)
        assert (found.mode, found.size) == ("RGB", size)
        assert apart(found, image.resize(size, resampling, box)) <= 1, (of, size, box)


def test_without_the_library_it_is_pillow_that_resizes(monkeypatch):
    monkeypatch.setattr(handler.resize, "simd", None)
    box = (3.25, 0, 290.5, 200)
    image = noise(300, 200)
    found = resize(image, (224, 200), Image.Resampling.BICUBIC, box)
    assert apart(found, image.resize((224, 200), Image.Resampling.BICUBIC, box)) == 0


@needs_wheel
def test_crop_of_a_photo_is_within_two_levels_whichever_resizes(monkeypatch):
    spec = Spec.from_folder(ROOT / "model_store" / "starter")
    photos = [read_photo(picture_bytes(size=size)) for size in [(512, 384), (384, 512), (341, 512)]]
    by_simd = np.stack([crop(photo, spec) for photo in photos])
    monkeypatch.setattr(handler.resize, "simd", None)
    by_pillow = np.stack([crop(photo, spec) for photo in photos])
    assert apart(by_simd, by_pillow) <= 2
    assert 0 < (by_simd != by_pillow).mean() < 0.02  # 0: they were the same code


def test_threads_resize_side_by_side_and_leave_the_photo_as_it_is():
    image = noise(640, 480)
    before = image.tobytes()
    expected = resize(image, (224, 480), Image.Resampling.BICUBIC, (10.5, 0, 600, 480)).tobytes()
    found = []

    def several():
        found.extend(resize(image, (224, 480), Image.Resampling.BICUBIC, (10.5, 0, 600, 480)).tobytes() for _ in range(20))

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80
    assert image.tobytes() == before
