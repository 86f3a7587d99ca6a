"""HEIF, as iPhones write it: each structure that files have is read as its JPEG twin is, or refused by its name."""

import io
import json
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from handler.cost import photo_cost
from handler.decoders import Budget, Decoders
from handler.dimensions import header
from handler.errors import PhotoError
from handler.metrics import Metrics
from handler.preprocess import Spec, preprocess, read_photo
from handler.program import load_program
from handler.strip import strip
from tests.conftest import ROOT, SHARED, bytes_of, needs_photos, picture_bytes
from tests.handler.test_colours import P3, twin
from tests.heif_files import (
    Item,
    alpha_of,
    box,
    clap,
    coded,
    exif,
    full,
    grid,
    grid_of,
    heif,
    icc,
    imir,
    irot,
    ispe,
    written,
)

TURNED = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # EXIF that says: turn by a quarter
STARTER = ROOT / "model_store" / "starter"
# as model-config.yaml has it
BUDGET = Budget(decoders=1, memory=384 * 1024 * 1024, batch_cpu_s=1.5, batch_size=8, batch_s=20)


@pytest.fixture(scope="module")
def image():
    with Image.open(STARTER / "bibimbap.jpg") as opened:
        return opened.convert("RGB").resize((400, 300))


def seen(photo):
    return np.asarray(read_photo(photo)).astype(int)


def with_properties(item, *properties):
    item.properties += properties
    return item


def deep(image, bits, chroma):
    import pillow_heif

    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    buffer = io.BytesIO()
    pixels = (np.asarray(image).astype("<u2") * 257).tobytes()
    pillow_heif.from_bytes("RGB;16", image.size, pixels).save(buffer, quality=90, chroma=chroma, enc_params={"preset": "ultrafast"})
    return buffer.getvalue()


READ = {
    "as an encoder writes it": written,
    "8 bits in 4:2:2": lambda image: written(image, chroma=422),
    "8 bits in 4:4:4": lambda image: written(image, chroma=444),
    **{f"{bits} bits in {chroma}": partial(deep, bits=bits, chroma=chroma) for bits in (10, 12) for chroma in (420, 444)},
    "tiles": lambda image: heif(grid(image, 128)),
    "brand mif1": lambda image: heif([coded(image)], brand=b"mif1"),
    "a sequence with a still picture": lambda image: heif([coded(image)], brand=b"msf1"),
    "a burst": lambda image: heif([coded(image)], brand=b"hevc"),
    "a camera's own brand": lambda image: heif([coded(image)], brand=b"XAVC"),
    "another picture first": lambda image: heif([coded(Image.new("RGB", (800, 600), "red")), coded(image)], primary=2),
    "a thumbnail": lambda image: heif([coded(image), with_reference(coded(image.resize((40, 30))), b"thmb", 1)]),
    "a depth map": lambda image: heif(
        [
            coded(image),
            with_reference(with_properties(coded(image.convert("L")), full(b"auxC", b"urn:mpeg:hevc:2015:auxid:2\0")), b"auxl", 1),
        ]
    ),
    "a video behind it": lambda image: heif([coded(image)]) + box(b"mpvd", bytes(3000)),
    "EXIF that would turn it": lambda image: heif([coded(image), exif(TURNED)]),
    "900 items": lambda image: heif([coded(image)] + [Item(b"xxxx", b"")] * 900),
}


def with_reference(item, kind, to):
    item.references[kind] = [to]
    return item


@pytest.mark.parametrize("way", READ)
def test_primary_picture_is_read(image, way):
    photo = READ[way](image)
    assert np.abs(seen(photo) - np.asarray(image)).mean() < 2.5
    assert header(photo)[:3] == ("HEIF", *image.size)


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("tiles", [False, True])
def test_picture_is_turned_once_whatever_exif_says(image, quarters, tiles):
    items = grid(image, 128) if tiles else [coded(image)]
    items[0].properties.append(irot(quarters))
    photo = heif([*items, exif(TURNED)])
    expected = np.rot90(np.asarray(image), quarters)
    assert np.abs(seen(photo) - expected).mean() < 2.5
    assert header(photo)[1:3] == expected.shape[1::-1]


def test_picture_is_mirrored(image):
    upside_down, mirrored = (heif([with_properties(coded(image), imir(axis))]) for axis in (0, 1))
    assert np.abs(seen(upside_down) - np.asarray(image)[::-1]).mean() < 2.5
    assert np.abs(seen(mirrored) - np.asarray(image)[:, ::-1]).mean() < 2.5


def test_cut_of_a_few_pixels_is_shown_and_its_size_stated(image):
    photo = heif([with_properties(coded(image), clap(380, 280), irot(1))])
    assert header(photo)[1:3] == (280, 380)
    assert np.abs(seen(photo) - np.rot90(np.asarray(image)[10:290, 10:390])).mean() < 3


def test_transparent_parts_are_white(image):
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (0, 0, 200, 300))
    expected = np.asarray(image).astype(int).copy()
    expected[:, :200] = 255
    assert np.abs(seen(heif([coded(image), alpha_of(1, mask)])) - expected).mean() < 2.5
    grey = heif([coded(image.convert("L")), alpha_of(1, mask)])
    expected = np.asarray(image.convert("L").convert("RGB")).astype(int).copy()
    expected[:, :200] = 255
    assert np.abs(seen(grey) - expected).mean() < 2.5


def of_kind(image, kind, **changes):
    item = coded(image)
    item.kind = kind
    for name, value in changes.items():
        setattr(item, name, value)
    return heif([item], brand=b"mif1")


def of_size(image, width, height):
    item = coded(image)
    item.properties[1] = ispe(width, height)
    return heif([item])


def circle(size):
    return [Item(b"iden", b"", [ispe(*size)], {b"dimg": [other]}) for other in (2, 1)]


def grid_with_size(image, width, height):
    items = grid(image, 128)
    items[0].content = items[0].content[:4] + width.to_bytes(4) + height.to_bytes(4)
    return heif(items)


REFUSED = {
    "H.264": (lambda image: of_kind(image, b"avc1"), 415, "a HEIF of H.264"),
    "JPEG": (lambda image: of_kind(image, b"jpeg"), 415, "a HEIF of JPEG"),
    "AV1": (lambda image: of_kind(image, b"av01"), 415, "a HEIF of AV1"),
    "uncompressed": (lambda image: of_kind(image, b"unci"), 415, "a HEIF of uncompressed pixels"),
    "another codec": (lambda image: of_kind(image, b"abcd"), 415, "a HEIF of abcd"),
    "encrypted": (lambda image: of_kind(image, b"hvc1", protected=1), 415, "an encrypted HEIF"),
    "a video's frames alone": (
        lambda image: b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + box(b"moov", bytes(30)),
        415,
        "a HEIF sequence without a still picture",
    ),
    "3.6 gigapixels": (lambda image: of_size(image, 60_000, 60_000), 413, "too many pixels"),
    "48 megapixels": (lambda image: of_size(image, 8064, 6048), 413, "too many for a HEIF"),
    "a size that is not the codec's": (lambda image: of_size(image, 4000, 4000), 422, "does not have the size"),
    "a smaller size than the codec's": (lambda image: of_size(image.resize((2000, 1500)), 64, 64), 422, "cannot be decoded"),
    "a million tiles": (
        lambda image: heif([grid_of((65_535, 65_535), 256, 256, [2] * 65_535), coded(image)]),
        422,
        "over 16,384 entries",
    ),
    "tiles that are not there": (lambda image: heif([grid_of((4000, 4000), 256, 256, [2]), coded(image)]), 422, "primary picture"),
    "a grid of itself": (lambda image: heif([grid_of((400, 300), 1, 1, [1])]), 422, "in a circle"),
    "a circle": (lambda image: heif(circle((400, 300))), 422, "in a circle"),
    "a grid larger than it states": (lambda image: grid_with_size(image, 60_000, 60_000), 422, "cannot be"),
    "thousands of pieces": (lambda image: of_kind(image, b"hvc1", extents=2000), 422, "HEIF header cannot be read"),
    "thousands of items": (lambda image: heif([coded(image)] + [Item(b"xxxx", b"")] * 5000), 413, "over 1,000 items"),
    "large transparency": (
        lambda image: heif([coded(image), alpha_of_size(image, 8000, 8000)]),
        413,
        "its transparency have 64,120,000 pixels",
    ),
}


def alpha_of_size(image, width, height):
    item = alpha_of(1, image)
    item.properties[1] = ispe(width, height)
    return item


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_is_not_read_is_refused_by_its_name(image, name):
    make, status, reason = REFUSED[name]
    with pytest.raises(PhotoError, match=reason) as error:
        read_photo(make(image))
    assert error.value.status == status


@pytest.mark.parametrize("tiles", [False, True])
def test_file_that_is_cut_off_anywhere_is_refused(image, tiles):
    whole = heif(grid(image, 128) if tiles else [coded(image)])
    for tenths in range(1, 10):
        with pytest.raises(PhotoError) as error:
            read_photo(whole[: len(whole) * tenths // 10])
        assert error.value.status == 422


def test_cost_counts_what_is_decoded_and_not_what_is_shown_or_lies_beside_it(image):
    plain, beside = heif([coded(image)]), heif([coded(image)]) + box(b"mpvd", bytes(5_000_000))
    assert photo_cost(beside) == photo_cost(plain)
    large = heif([coded(image), alpha_of_size(image, 4000, 3000)])
    assert photo_cost(large).cpu_s > 10 * photo_cost(plain).cpu_s


def test_photo_is_not_kept_for_its_file_cannot_be_stripped(image):
    with pytest.raises(ValueError, match="cannot be stripped"):
        strip(heif([coded(image), exif(TURNED)]))


@pytest.mark.slow
def test_hostile_files_harm_no_decoder_and_no_neighbour(image, spec):
    decoders = Decoders(spec, BUDGET, Metrics("1", ["a"]))
    pids = [one.pid for one in decoders.processes]
    good = picture_bytes()
    for make, status, _ in REFUSED.values():
        (bad, other), _ = decoders.decode([make(image), good])
        assert isinstance(bad, PhotoError)
        assert bad.status == status
        assert other.size == (320, 240)
    assert [one.pid for one in decoders.processes] == pids


KINDS = {
    "8 bit, tiles of 512, turned by 270 degrees": {},
    "10 bit": {"bits": 10},
    "Display P3": {"profile": P3},
    "24 megapixels": {"size": (5712, 4284)},
    "48 megapixels": {"size": (8064, 6048)},
}


def as_phones_write(image, bits=8, profile=b"", size=(4032, 3024)):
    large = (twin(image, profile) if profile else image).resize(size, Image.Resampling.BICUBIC)
    if bits == 10:
        return deep(large, 10, 420), large
    items = grid(large, 512, quality=60)
    items[0].properties += [irot(3), *([icc(profile)] if profile else [])]
    return heif([*items, exif(TURNED)]), large.transpose(Image.Transpose.ROTATE_270)


@pytest.mark.slow
@needs_photos
@pytest.mark.parametrize("kind", KINDS)
def test_photo_of_a_phone_is_answered_as_its_jpeg_twin_is(kind):
    """A row of the table in handler/README.md."""
    spec = Spec.from_folder(STARTER)
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), 1, [1])
    decoders = Decoders(spec, BUDGET, Metrics("1", ["a"]))
    with Image.open(sorted((SHARED / "data" / "food10" / "bibimbap").glob("*.jpg"))[3]) as opened:
        photo, shown = as_phones_write(opened.convert("RGB"), **KINDS[kind])
    options = {"icc_profile": KINDS[kind]["profile"]} if "profile" in KINDS[kind] else {}
    expected = program(np.stack([preprocess(bytes_of(shown, "JPEG", quality=92, **options), spec)]))[0][0]
    before = time.perf_counter()
    (found,), cpu_s = decoders.decode([photo])
    ms = (time.perf_counter() - before) * 1000
    if isinstance(found, PhotoError):
        print(f"\n| {kind} | {len(photo) / 1e6:.1f} | {found.status} | - | - | {ms:.0f} | {photo_cost(photo).cpu_s:.2f} |")
        assert (kind, found.status) == ("48 megapixels", 413)
        return
    answer = program(np.stack([found.crop]))[0][0]
    change = np.abs(answer - expected).max()
    same = "same" if answer.argmax() == expected.argmax() else "other"
    print(
        f"\n| {kind} | {len(photo) / 1e6:.1f} | 200 | {same} | {change:.4f} | {cpu_s * 1000:.0f} | {photo_cost(photo).cpu_s:.2f} |"
    )
    assert same == "same"
    assert change < 0.02
    assert found.size[0] < found.size[1] or kind == "10 bit"
