import json

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from handler.preprocess import MAX_PIXELS, UPRIGHT, PhotoError, Spec, crop, preprocess, read_photo
from tests.conftest import SHARED, bytes_of, needs_photos, picture_bytes

# these, of all the hard files, are refused, each with these words; all others are read
REFUSED = {
    "made_4000x2.png": "one side is over 20 times the other",
    "made_bomb_header_60000x60000.png": "too many pixels",
    "made_empty.jpg": "empty",
    "made_jpegmagic_only.jpg": "not an image",
    "made_truncated_200bytes.jpg": "header cannot be read",
    "pillow_decompression_bomb.gif": "too many pixels",
    "pillow_oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": "",
    "pillow_png_decompression_dos.png": "header cannot be read",
    "pillow_rgba.psd": "not an image in a format that is read here",
    "pillow_truncated_jpeg.jpg": "truncated",
    "pngsuite_xc1n0g08.png": "not an image",
    "pngsuite_xdtn0g01.png": "cannot be decoded",
    "pngsuite_xs1n0g01.png": "not an image",
}


@needs_photos
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_every_hard_file_is_read_or_refused_with_its_reason(spec):
    folder = SHARED / "data" / "hard_images"
    refused = {}
    for entry in json.loads((folder / "list.json").read_text()):
        try:
            assert preprocess((folder / entry["file"]).read_bytes(), spec).shape == (224, 224, 3)
        except PhotoError as error:
            refused[entry["file"]] = str(error)
    assert refused.keys() == REFUSED.keys()
    for name, words in REFUSED.items():
        assert words in refused[name]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_crop_equals_timms_evaluation_transform_bit_for_bit(crop_mode, interpolation, crop_pct):
    spec = Spec((3, 224, 224), interpolation, (0.5,) * 3, (0.5,) * 3, crop_pct, crop_mode)
    transform = create_transform(
        (3, 224, 224), is_training=False, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, normalize=False
    )
    for size in [(512, 384), (384, 512), (333, 517), (224, 224), (256, 256), (100, 61), (1200, 801), (236, 400)]:
        image = read_photo(picture_bytes(size=size))
        theirs = transform(image).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(crop(image, spec), theirs, err_msg=str(size))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_held_any_way_is_turned_upright(orientation):
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 30, 20))
    upright.paste("blue", (30, 20, 60, 40))
    undo = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}
    stored = upright
    if orientation in UPRIGHT:
        stored = upright.transpose(undo.get(UPRIGHT[orientation], UPRIGHT[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = np.asarray(read_photo(bytes_of(stored, "PNG", exif=exif.tobytes())))
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
    with pytest.raises(PhotoError, match="at most 89,478,485"):
        read_photo(bytes_of(Image.new("1", (side, side)), "PNG"))


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
    ],
)
def test_spec_with_a_wrong_key_or_value_is_refused_by_name(spec, change, message):
    values = {key: value for key, value in (spec.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Spec.from_dict(values)
    assert Spec.from_dict(spec.to_dict()) == spec
