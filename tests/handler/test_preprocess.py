import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from handler.limits import MAX_BYTES, MAX_PIXELS
from handler.preprocess import UPRIGHT, PhotoError, Spec, crop, preprocess, read_photo, resized_side
from tests.conftest import ROOT, bytes_of, picture_bytes


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_crop_is_timms_evaluation_transform_but_for_a_level_or_two_of_few_values(crop_mode, interpolation, crop_pct):
    spec = Spec((3, 224, 224), interpolation, (0.5,) * 3, (0.5,) * 3, crop_pct, crop_mode)
    rng = random.Random(0)
    sizes = [(512, 384), (384, 512), (333, 517), (224, 224), (256, 256), (100, 61), (1200, 801), (236, 400), (19, 30)]
    # tall ones, too: Pillow resizes their height first
    sizes += [(400, 1500), (300, 5000), (5000, 300)] + [(rng.randint(30, 900), rng.randint(30, 900)) for _ in range(12)]
    off = np.stack([off_timm(read_photo(picture_bytes(size=size)), spec) for size in sizes])
    assert off.max() <= 2
    assert (off > 0).mean() < 0.01


def test_crop_by_the_starters_spec_is_off_by_a_level_in_less_than_a_value_of_a_thousand_where_pillow_resizes(monkeypatch):
    monkeypatch.setattr("handler.resize.simd", None)  # test_resize.py: how far its values are off Pillow's
    spec = Spec.from_folder(ROOT / "model_store" / "starter")
    off = np.stack([off_timm(read_photo(photo_like(size, "PNG")), spec) for size in [(512, 384), (384, 512), (512, 341)]])
    assert off.max() <= 1
    assert (off > 0).mean() < 0.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(512, 384), (384, 512), (900, 1800), (4000, 900), (61, 100), (235, 400)])
def test_rows_that_are_left_out_are_in_no_value_of_the_crop(spec, monkeypatch, interpolation, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image, spec = Image.fromarray(noise), replace(spec, interpolation=interpolation)
    found = crop(image, spec).astype(int)
    monkeypatch.setattr("handler.preprocess.REACH", 10_000)
    off = np.abs(found - crop(image, spec))  # by a level: where the part begins is held in 32 bits, too
    assert off.max() <= 1
    assert (off > 0).mean() < 0.05


def test_crop_of_a_photo_whose_sides_divide_is_timms_bit_for_bit(spec):
    side = resized_side(spec)
    for size in [(side, side), (2 * side, 2 * side), (side, 2 * side), (4 * side, 2 * side)]:
        assert off_timm(read_photo(picture_bytes(size=size)), spec).max() == 0, size


def off_timm(image, spec):
    """By how many levels each value of a crop is off timm's, int (H, W, 3)."""
    transform = create_transform(
        spec.input_size,
        is_training=False,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        normalize=False,
    )
    return np.abs(crop(image, spec).astype(int) - transform(image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "image_format"),
    [((1600, 1200), "JPEG"), ((1799, 1203), "JPEG"), ((2005, 3001), "JPEG"), ((1600, 1200), "PNG"), ((1799, 1203), "WEBP")],
)
def test_reduced_scale_moves_a_big_photos_crop_little(spec, image_format, size):
    photo_bytes = photo_like(size, image_format)
    reduced = read_photo(photo_bytes, resized_side(spec))
    assert min(reduced.size) >= resized_side(spec)
    assert max(reduced.size) <= max(size) // 2 + 1
    difference = np.abs(preprocess(photo_bytes, spec).astype(int) - crop(read_photo(photo_bytes), spec))
    # of 255; where a side does not divide, what is left out or half of a pixel shifts the far side by up to a third of a pixel
    assert difference.mean() < (0.8 if size == (1600, 1200) else 1.2)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_scale_keeps_colours_and_orientation(spec, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo_bytes = bytes_of(Image.open(io.BytesIO(photo_like((1600, 1200), "PNG"))).convert(mode), "JPEG", exif=exif, quality=90)
    difference = np.abs(preprocess(photo_bytes, spec).astype(int) - crop(read_photo(photo_bytes), spec))
    assert difference.mean() < 1


def test_photo_of_fewer_than_twice_the_pixels_needed_is_decoded_at_full_scale(spec):
    for photo_bytes in (picture_bytes(size=(600, 469)), picture_bytes(size=(469, 469), image_format="PNG")):
        np.testing.assert_array_equal(preprocess(photo_bytes, spec), crop(read_photo(photo_bytes), spec))


def photo_like(size, image_format):
    """Colours, edges and grain, as a camera's photo has them."""
    picture = np.asarray(Image.open(io.BytesIO(picture_bytes(size=(900, 700)))).resize(size, Image.Resampling.LANCZOS))
    grain = np.random.default_rng(0).normal(0, 6, (size[1], size[0], 1))
    noisy = Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8))
    return bytes_of(noisy, image_format, **({"compress_level": 1} if image_format == "PNG" else {"quality": 90, "method": 0}))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_held_any_way_is_turned_upright(orientation, image_format):
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 30, 20))
    upright.paste("blue", (30, 20, 60, 40))
    undo = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}
    stored = upright
    if orientation in UPRIGHT:
        stored = upright.transpose(undo.get(UPRIGHT[orientation], UPRIGHT[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if image_format == "WEBP" else {}
    read = np.asarray(read_photo(bytes_of(stored, image_format, exif=exif.tobytes(), **options)))
    np.testing.assert_array_equal(read, np.asarray(upright))


@pytest.mark.parametrize(("mode", "image_format"), [("CMYK", "JPEG"), ("L", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")])
def test_modes_look_as_a_person_sees_them(mode, image_format):
    original = np.asarray(read_photo(picture_bytes())).astype(int)
    read = np.asarray(read_photo(picture_bytes(mode=mode, image_format=image_format))).astype(int)
    assert read.shape == original.shape
    grey = mode in ("L", "LA")
    difference = np.abs(read.mean(axis=2) - original.mean(axis=2)) if grey else np.abs(read - original)
    assert difference.mean() < 25


def test_sixteen_bit_grey_keeps_its_tones():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (64, 1))
    read = np.asarray(read_photo(bytes_of(Image.fromarray(ramp), "PNG")))
    np.testing.assert_array_equal(read[0, :, 0], np.arange(256))


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert read_photo(bytes_of(image, "PNG")).getpixel((5, 5)) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([255, 0, 0])
    assert read_photo(bytes_of(palette, "GIF", transparency=0)).getpixel((5, 5)) == (255, 255, 255)


def test_fifty_megapixels_are_read_and_more_than_the_limit_is_refused(spec):
    assert preprocess(bytes_of(Image.new("RGB", (8192, 6144), "green"), "JPEG"), spec).shape == (224, 224, 3)
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(PhotoError, match="the limit is 89,478,485") as refused:
        read_photo(bytes_of(Image.new("1", (side, side)), "PNG"))
    assert refused.value.status == 413
    with pytest.raises(PhotoError, match="20,971,521 bytes, the limit is 20,971,520") as refused:
        read_photo(picture_bytes().ljust(MAX_BYTES + 1, b"\0"))
    assert refused.value.status == 413
    assert read_photo(picture_bytes().ljust(MAX_BYTES, b"\0")).size == (320, 240)


@pytest.mark.parametrize("cut", [1, 30, 300, 2000])
def test_truncated_photo_is_refused(cut):
    with pytest.raises(PhotoError):
        read_photo(picture_bytes()[:cut])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "missing \\['mean'\\]"),
        ({"crop": 1}, "unknown \\['crop'\\]"),
        ({"interpolation": "nearest-ish"}, "nearest-ish"),
        ({"crop_pct": 1.5}, "1.5"),
        ({"crop_mode": "border"}, "border"),
        ({"input_size": [3, 224, 200]}, "200"),
        ({"std": [1.0]}, "three values"),
        ({"text": 7}, "spec's text is 7, expected an object"),
        ({"text": ["kind"]}, "spec's text is .'kind'., expected an object"),
    ],
)
def test_spec_with_a_wrong_key_or_value_is_refused_by_name(spec, change, message):
    values = {key: value for key, value in (spec.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Spec.from_dict(values)
    assert Spec.from_dict(spec.to_dict()) == spec


def test_spec_whose_text_is_null_is_refused(spec):
    with pytest.raises(ValueError, match="spec's text is None, expected an object"):
        Spec.from_dict(spec.to_dict() | {"text": None})
