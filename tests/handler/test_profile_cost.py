"""A stranger's colour profile takes little time, whatever it holds, and this is part of what a photo costs by its estimate."""

import time

import numpy as np
import pytest
from PIL import Image

from handler.cost import LEAST, Cost, estimate, photo_cost
from handler.decoders import Budget, Decoded, Decoders
from handler.icc import PRIMARIES, profile
from handler.metrics import Metrics
from handler.photo_file import open_photo
from handler.preprocess import read_photo, reduction, resized_side
from tests.conftest import bytes_of, picture_bytes
from tests.heif_files import coded, heif, icc, nclx
from tests.profiles import busy_profile, press_profile

BUDGET = Budget(decoders=1, memory=384 * 1024 * 1024, batch_cpu_s=1.5, batch_size=8, batch_s=20)
P3 = profile(PRIMARIES[12])
LONG = (300, 5900)  # not reduced: its short side is what a crop needs


def estimated(photo: bytes, spec) -> Cost:
    image = open_photo(photo)
    return estimate(image, photo, reduction(image, resized_side(spec)))


@pytest.mark.parametrize("elements", [900, 20_000])
def test_profile_of_endless_steps_takes_no_time(elements):
    photo = bytes_of(Image.new("RGB", (64, 64), (200, 30, 60)), "PNG", icc_profile=busy_profile(elements))
    plain = bytes_of(Image.new("RGB", (64, 64), (200, 30, 60)), "PNG", icc_profile=P3)
    before = time.process_time()
    seen = read_photo(photo)
    assert time.process_time() - before < 0.2
    assert np.array_equal(seen, read_photo(plain))  # by its matrix and curves


def test_photos_with_profiles_that_keep_busy_harm_no_decoder_and_no_neighbour(spec):
    decoders = Decoders(spec, BUDGET, Metrics("1", ["a"]))
    pids = [one.pid for one in decoders.processes]
    image = Image.new("RGB", (64, 64), (200, 30, 60))
    photos = [bytes_of(image, "PNG", icc_profile=busy_profile(20_000, number)) for number in range(7)] + [picture_bytes()]
    outcomes, cpu_s = decoders.decode(photos)
    assert [type(one) for one in outcomes] == [Decoded] * 8
    assert cpu_s < 1
    assert [one.pid for one in decoders.processes] == pids


WAYS = {
    "JPEG": lambda image, **options: bytes_of(image, "JPEG", **options),
    "PNG": lambda image, **options: bytes_of(image, "PNG", **options),
    "WebP": lambda image, **options: bytes_of(image, "WEBP", **options),
    "TIFF": lambda image, **options: bytes_of(image, "TIFF", **options),
    "AVIF": lambda image, **options: bytes_of(image, "AVIF", speed=10, **options),
    "HEIF": lambda image, icc_profile=None: heif([with_(coded(image), *([icc(icc_profile)] if icc_profile else []))]),
    "HEIF by numbers": lambda image, icc_profile=None: heif([with_(coded(image), *([nclx(12)] if icc_profile else []))]),
}


def with_(item, *properties):
    item.properties += properties
    return item


@pytest.mark.parametrize("way", WAYS)
def test_estimates_count_the_colours_of_each_pixel_that_is_left(spec, way):
    for size, left in ((LONG, LONG[0] * LONG[1]), ((960, 960), 240 * 240)):
        image = Image.new("RGB", size, (200, 30, 60))
        plain, coloured = WAYS[way](image), WAYS[way](image, icc_profile=P3)
        for cost in (photo_cost, lambda photo: estimated(photo, spec)):
            assert 25e-9 * left < cost(coloured).cpu_s - cost(plain).cpu_s < 40e-9 * left + 0.015


def test_estimate_of_a_long_photo_is_what_it_takes(spec):
    image = Image.effect_noise(LONG, 30).convert("RGB")
    for image_format in ("JPEG", "PNG"):
        photo = bytes_of(image, image_format, icc_profile=P3)
        before = time.process_time()
        read_photo(photo, resized_side(spec))
        took = time.process_time() - before
        assert took < 3 * estimated(photo, spec).cpu_s  # on a busy machine
        assert photo_cost(photo).cpu_s == pytest.approx(estimated(photo, spec).cpu_s, rel=0.5)


def test_profile_of_a_press_is_counted_by_its_table(spec):
    photo = bytes_of(Image.new("CMYK", (200, 200)), "JPEG", icc_profile=press_profile())
    assert photo_cost(photo).cpu_s > LEAST.cpu_s + 0.05
    assert photo_cost(photo).cpu_s == pytest.approx(estimated(photo, spec).cpu_s, rel=0.5)
