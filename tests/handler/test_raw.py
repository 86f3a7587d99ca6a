"""Cameras' raw files are refused by their kind, never answered from a thumbnail; other TIFFs of several pictures are read."""

import struct

import numpy as np
import pytest
from PIL import Image

from handler.preprocess import PhotoError, preprocess, read_photo
from tests.conftest import bytes_of

NEW_SUBFILE, MAKE, SUB_DIRECTORIES, DNG_VERSION = 254, 271, 330, 50706
CFA, LINEAR_RAW = 32803, 34892
SIDE = 64


def directory(tags: dict[int, int], order: str, start: int, following: int = 0) -> bytes:
    """A grey picture of 64 x 64 pixels, which stand at byte 1000, with these tags (number: value) beside the usual ones."""
    usual = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 1000, 277: 1, 278: SIDE, 279: SIDE * SIDE}
    entries = [struct.pack(f"{order}HHII", number, 4, 1, value) for number, value in sorted((usual | tags).items())]
    return struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", following)


def tiff(first: dict[int, int], second: dict[int, int] | None = None, order: str = "<", chained: bool = False) -> bytes:
    """A TIFF whose second directory stands at byte 500, as the next or as one below the first."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 16)
    below = {} if second is None or chained else {SUB_DIRECTORIES: 500}
    start = head.ljust(16, b"\0") + directory(first | below, order, 16, 500 if second is not None and chained else 0)
    whole = start.ljust(500, b"\0") + (directory(second, order, 500) if second is not None else b"")
    return whole.ljust(1000, b"\0") + bytes(range(256)) * (SIDE * SIDE // 256)


THUMBNAIL, FULL = {NEW_SUBFILE: 1}, {NEW_SUBFILE: 0}
RAW = {
    "NEF: a thumbnail, the raw below it": (lambda order: tiff(THUMBNAIL, FULL | {262: CFA}, order), "a camera's raw file"),
    "SRW: a thumbnail, the raw after it": (lambda order: tiff(THUMBNAIL, FULL | {262: CFA}, order, True), "a camera's raw file"),
    "a thumbnail, the full-size JPEG below it": (lambda order: tiff(THUMBNAIL, FULL | {259: 7}, order), "is a thumbnail"),
    "PEF: the raw first": (lambda order: tiff(FULL | {262: CFA, 259: 65535}, order=order), "a camera's raw file"),
    "DNG: a thumbnail first": (lambda order: tiff(THUMBNAIL | {DNG_VERSION: 0x0401}, FULL | {262: CFA}, order), "DNG"),
    "ProRAW: the picture in JPEG XL": (
        lambda order: tiff(FULL | {DNG_VERSION: 0x0701, 262: LINEAR_RAW, 259: 52546}, order=order),
        "DNG",
    ),
    "ARW: no word of a thumbnail, but a raw below": (lambda order: tiff({}, {262: CFA}, order), "a camera's raw file"),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", RAW)
def test_raw_file_in_a_tiff_is_refused_by_its_kind(kind, order):
    make, reason = RAW[kind]
    with pytest.raises(PhotoError, match=reason) as error:
        read_photo(make(order))
    assert error.value.status == 415


STARTS = {
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "CRW": b"II\x1a\0\0\0HEAPCCDR",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "X3F": b"FOVb\0\0\2\0",
    "MRW": b"\0MRM\0\0\0\0",
}


@pytest.mark.parametrize("kind", STARTS)
def test_raw_file_is_named(kind):
    with pytest.raises(PhotoError, match=rf"a camera's raw file \({kind}\)") as error:
        read_photo(STARTS[kind] + bytes(200))
    assert error.value.status == 415


READ = {
    "one picture": lambda order: tiff({}, order=order),
    "a scanner's pages": lambda order: tiff(FULL, FULL, order, True),
    "smaller versions below": lambda order: tiff(FULL, THUMBNAIL, order),
    "a thumbnail after it": lambda order: tiff(FULL, THUMBNAIL, order, True),
    "a thumbnail alone": lambda order: tiff(THUMBNAIL, order=order),
    "a second directory behind the end": lambda order: tiff(FULL | {SUB_DIRECTORIES: 10_000_000}, order=order),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("way", READ)
def test_other_tiff_of_several_pictures_is_read(way, order):
    assert read_photo(READ[way](order)).size == (SIDE, SIDE)


def test_tiff_whose_pixels_begin_as_a_cr2_does_is_read():
    pixels = bytes((67, 82, 120)) * SIDE * SIDE
    entries = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: SIDE, 279: len(pixels)}
    tags = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries.items())
    photo = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(entries)) + tags + bytes(4)
    assert read_photo(photo).getpixel((0, 0)) == (67, 82, 120)


CUT = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restart markers": {"restart_marker_blocks": 3},
    "progressive with restart markers": {"progressive": True, "restart_marker_blocks": 3},
    "several pictures": {"save_all": True},
}


@pytest.mark.parametrize("way", CUT)
def test_jpeg_that_lacks_up_to_64_bytes_is_whole_or_refused(spec, way):
    noise = np.random.default_rng(2).integers(0, 256, (24, 24, 3), np.uint8)
    image = Image.fromarray(noise).resize((203, 155), Image.Resampling.BICUBIC)
    # of several pictures the first counts: what is lacking of the last is not seen
    other = Image.new("RGB", image.size, "blue")
    options = CUT[way] | ({"append_images": [other]} if way == "several pictures" else {})
    whole = bytes_of(image, "MPO" if way == "several pictures" else "JPEG", **options)
    expected, read = preprocess(whole, spec), 0
    for missing in range(1, 65):
        found = crop_or_status(whole[:-missing], spec)
        assert found == 422 if isinstance(found, int) else np.array_equal(found, expected)
        assert missing > 2 or not isinstance(found, int)
        read += not isinstance(found, int)
    assert read >= (64 if way == "several pictures" else 2)


def crop_or_status(photo, spec):
    try:
        return preprocess(photo, spec)
    except PhotoError as error:
        return error.status
