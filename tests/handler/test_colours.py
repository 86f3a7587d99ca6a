"""Photos whose colours are not sRGB's are answered as their sRGB twins are. `pytest -s -m slow` prints the tables of the README."""

import io
import json
import struct
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

from handler.colours import profile_of
from handler.icc import D65, PRIMARIES, SRGB, grey_profile, profile
from handler.preprocess import Spec, preprocess, read_photo
from handler.program import load_program
from tests.conftest import ROOT, SHARED, bytes_of, needs_photos
from tests.heif_files import coded, heif, icc, nclx
from tests.hostile_files import chunk
from tests.profiles import press_profile

ADOBE = profile(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65), 2.19921875)
PROPHOTO = profile(((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585)), 1.8)
P3 = profile(PRIMARIES[12])
PROFILES = {"Display P3": P3, "Adobe RGB": ADOBE, "ProPhoto RGB": PROPHOTO, "BT.2020 primaries": profile(PRIMARIES[9])}
STARTER = ROOT / "model_store" / "starter"


def patches() -> Image.Image:
    """Sixteen patches of colours that all these profiles have."""
    levels = np.random.default_rng(3).integers(60, 200, (4, 4, 3), np.uint8)
    return Image.fromarray(levels).resize((128, 128), Image.Resampling.NEAREST)


def twin(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """The same colours, as numbers of another profile."""
    source = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(image, source, ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)), outputMode="RGB")
    assert made
    made.info.clear()  # Pillow would write the profile
    return made


def off(photo: bytes, expected: Image.Image) -> float:
    """How far a photo as it is read is from a picture, in levels of 255, mean."""
    seen = np.asarray(read_photo(photo)).astype(int)
    return float(np.abs(seen - np.asarray(expected.convert("RGB")).astype(int)).mean())


def png_of(image: Image.Image, *chunks: bytes) -> bytes:
    plain = bytes_of(image, "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


WAYS = {
    "JPEG": lambda image, one: bytes_of(image, "JPEG", quality=98, subsampling=0, icc_profile=one),
    "PNG": lambda image, one: bytes_of(image, "PNG", icc_profile=one),
    "WebP": lambda image, one: bytes_of(image, "WEBP", lossless=True, icc_profile=one),
    "TIFF": lambda image, one: bytes_of(image, "TIFF", icc_profile=one),
    "AVIF": lambda image, one: bytes_of(image, "AVIF", quality=95, subsampling="4:4:4", icc_profile=one),
    "HEIF": lambda image, one: heif([_with(coded(image, chroma=444, quality=95), icc(one))]),
}


def _with(item, *properties):
    item.properties += properties
    return item


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PROFILES)
def test_photo_with_a_profile_is_read_in_the_colours_of_its_twin(way, name):
    image, one = patches(), PROFILES[name]
    other = twin(image, one)
    assert off(WAYS[way](other, one), image) < 2.5
    assert off(bytes_of(other, "PNG"), image) > 3  # the same numbers without their profile


def test_colours_that_numbers_state_are_read_as_those_of_a_profile():
    image = patches()
    other = twin(image, P3)
    for brand in (b"heic", b"mif1"):
        photo = heif([_with(coded(other, chroma=444, quality=95), nclx(12))], brand=brand)
        assert off(photo, image) < 2.5
    points = [value for pair in (D65, *PRIMARIES[12][:3]) for value in pair]
    chrm = chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in points)))
    gama = chunk(b"gAMA", struct.pack(">I", 45_455))
    assert off(png_of(other, chrm, gama), image) < 2.5
    assert off(png_of(other, chunk(b"sRGB", b"\0"), chrm, gama), other) == 0  # which overrides them
    assert off(png_of(image, gama), image) == 0
    assert off(png_of(image, chunk(b"gAMA", struct.pack(">I", 100_000))), image) > 10  # a linear one is much brighter


def test_grey_and_press_profiles_are_used_for_their_channels_alone():
    grey = patches().convert("L")
    linear = grey_profile(1.0)
    assert off(bytes_of(grey, "PNG", icc_profile=linear), grey) > 10
    assert off(bytes_of(grey, "PNG", icc_profile=grey_profile(2.2)), grey) < 3
    assert off(bytes_of(patches(), "PNG", icc_profile=linear), patches()) == 0
    assert off(bytes_of(grey, "PNG", icc_profile=P3), grey) == 0
    inks = patches().convert("CMYK")
    plain = read_photo(bytes_of(inks, "TIFF"))
    assert off(bytes_of(inks, "TIFF", icc_profile=press_profile()), plain) > 20
    assert off(bytes_of(inks, "TIFF", icc_profile=P3), plain) == 0
    assert off(bytes_of(patches(), "PNG", icc_profile=press_profile()), patches()) == 0


def test_grey_photo_is_read_by_its_gamma_whatever_its_channels():
    linear = chunk(b"gAMA", struct.pack(">I", 100_000))
    grey = patches().convert("L")
    expected = read_photo(png_of(grey.convert("RGB"), linear))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for image in (grey, grey.convert("LA"), deep, grey.convert("P")):
        assert off(png_of(image, linear), expected) < 1.5, image.mode


POINTS = {
    "nearly on a line": (31270, 32900, 64000, 33000, 64001, 33000, 64000, 33001),
    "on a line": (31270, 32900, 64000, 33000, 30000, 60000, 47000, 46500),
    "one": (31270, 32900, 64000, 33000, 64000, 33000, 64000, 33000),
    "no height": (31270, 32900, 64000, 1, 30000, 1, 15000, 1),
    "a white without height": (31270, 1, 64000, 33000, 30000, 60000, 15000, 6000),
    "huge": (2**31, 2**31, 2**31, 3, 5, 2**31, 7, 8),
}


@pytest.mark.parametrize("name", POINTS)
def test_primaries_that_make_no_sense_are_left_out_or_read(name):
    assert read_photo(png_of(patches(), chunk(b"cHRM", struct.pack(">8I", *POINTS[name])))).size == (128, 128)


BROKEN = {
    "empty": b"",
    "zeros": bytes(3000),
    "cut off": P3[:200],
    "without tags": P3[:128] + bytes(4),
    "a wrong size": bytes(4) + P3[4:],
    "tags behind its end": P3[:140] + b"\xff" * 40 + P3[180:],
    "5 MB": P3 + bytes(5 * 1024 * 1024),
    "a curve of nothing": P3.replace(b"para", b"xxxx"),
    "text": b"sRGB IEC61966-2.1" * 20,
    "another class": P3[:12] + b"abst" + P3[16:],
}


@pytest.mark.parametrize("way", ["JPEG", "TIFF", "HEIF"])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_profile_is_left_out(way, name):
    image = patches()
    assert off(WAYS[way](image, BROKEN[name]), image) < 2


def test_damaged_profiles_are_read_or_left_out():
    random = np.random.default_rng(0)
    image = Image.new("RGB", (4, 4), (200, 80, 60))
    for _ in range(300):
        damaged = bytearray(P3)
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        assert read_photo(bytes_of(image, "PNG", icc_profile=bytes(damaged))).size == (4, 4)


def test_profile_of_srgb_changes_no_pixel(spec):
    image = patches()
    for one in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), profile(SRGB), profile(SRGB, 2.2)):
        with Image.open(io.BytesIO(bytes_of(image, "PNG", icc_profile=one))) as opened:
            assert profile_of(opened) is None
    assert np.array_equal(preprocess(bytes_of(image, "PNG"), spec), preprocess(bytes_of(image, "PNG", icc_profile=one), spec))


def answers(photos, spec, program):
    return np.concatenate([program(np.stack([preprocess(photo, spec)]))[0] for photo in photos])


@pytest.fixture(scope="module")
def starter():
    description = json.loads((STARTER / "program.json").read_text())
    return load_program(STARTER, description, 1, [1])


@pytest.mark.slow
@needs_photos
def test_answers_to_photos_of_other_colours_are_those_of_their_twins(starter):
    """The table of handler/README.md."""
    spec = Spec.from_folder(STARTER)
    paths = sorted((SHARED / "data" / "food10").rglob("*.jpg"))
    images = [Image.open(path).convert("RGB") for path in paths[:: len(paths) // 200]]
    expected = answers([bytes_of(image, "PNG") for image in images], spec, starter)
    top = expected.argmax(axis=1)
    rows = np.arange(len(images))
    print(f"\n{len(images)} photos")
    print("| profile | change of p, ignored | converted | other class, ignored | converted | ms |")
    for name, one in PROFILES.items():
        others = [twin(image, one) for image in images]
        ignored = answers([bytes_of(other, "PNG") for other in others], spec, starter)
        photos = [bytes_of(other, "PNG", icc_profile=one) for other in others]
        converted = answers(photos, spec, starter)
        changes = [np.abs(found - expected)[rows, top].mean() for found in (ignored, converted)]
        others_found = [(found.argmax(axis=1) != top).mean() for found in (ignored, converted)]
        plain = [bytes_of(other, "PNG") for other in others]
        ms = (_cpu_ms(photos, spec) - _cpu_ms(plain, spec)) / len(photos)
        print(f"| {name} | {changes[0]:.4f} | {changes[1]:.4f} | {others_found[0]:.1%} | {others_found[1]:.1%} | {ms:.1f} |")
        assert changes[1] < changes[0] / 2
        assert others_found[1] <= others_found[0]


def _cpu_ms(photos, spec):
    before = time.process_time()
    for photo in photos:
        preprocess(photo, spec)
    return (time.process_time() - before) * 1000
