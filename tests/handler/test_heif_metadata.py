"""What a HEIF says beside its pictures: it costs little, has one meaning, and turns and colours a picture once."""

import copy
import struct
import time

import numpy as np
import pytest
from PIL import Image

import handler.photo_file
from handler.boxes import boxes
from handler.cost import photo_cost
from handler.decoders import Decoders
from handler.dimensions import header
from handler.errors import PhotoError
from handler.heif import MAX_ENTRIES, Pictures
from handler.icc import PRIMARIES, profile
from handler.metrics import Metrics
from handler.photo_file import open_photo
from handler.preprocess import read_photo
from tests.conftest import bytes_of, picture_bytes
from tests.handler.test_colours import off, patches, twin
from tests.handler.test_profile_cost import BUDGET
from tests.heif_files import Item, coded, exif, grid, heif, icc, nclx

TURN = b"\0\1\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
TURNED = b"II*\0\x08\0\0\0" + TURN[1:2] + b"\0" + TURN[2:]


@pytest.fixture(scope="module")
def small():
    return Image.new("RGB", (128, 64), (200, 30, 60))


def pictures(image, count, *properties):
    one = coded(image)
    one.properties += properties
    return [copy.deepcopy(one) for _ in range(count)]


def shared(image, count, kind, size, extents):
    note = Item(kind, b"\0\0\0\6Exif\0\0" + bytes(size), references={b"cdsc": list(range(1, count + 1))}, extents=extents)
    return heif([*pictures(image, count), note])


SHARED = {
    "EXIF in extents": lambda image: shared(image, 150, b"Exif", 60_000, 32),
    "EXIF, small": lambda image: shared(image, 900, b"Exif", 10_000, 32),
    "EXIF, large": lambda image: shared(image, 200, b"Exif", 4_000_000, 1),
    "XMP": lambda image: shared(image, 200, b"mime", 60_000, 32),
    "notes of another kind": lambda image: shared(image, 200, b"uri ", 60_000, 32),
    "a colour profile": lambda image: heif(pictures(image, 200, icc(profile(PRIMARIES[12]) + bytes(1_000_000)))),
}


@pytest.mark.parametrize("name", SHARED)
def test_notes_that_many_pictures_share_are_refused_before_they_are_copied(small, spec, name):
    photo = SHARED[name](small)
    decoders = Decoders(spec, BUDGET, Metrics("1", ["a"]))
    pids = [one.pid for one in decoders.processes]
    (bad, good), cpu_s = decoders.decode([photo, picture_bytes()])
    assert isinstance(bad, PhotoError)
    assert bad.status == 413
    assert "colour profiles of the photo's pictures have" in str(bad)
    assert good.size == (320, 240)
    assert cpu_s < 0.2
    assert [one.pid for one in decoders.processes] == pids


def test_burst_of_pictures_with_notes_of_their_own_is_read(small):
    notes = [exif(TURNED + bytes(60_000), number + 1) for number in range(20)]
    assert read_photo(heif([*pictures(small, 20), *notes])).size == (128, 64)


def with_two_descriptions(first: bytes, second: bytes) -> bytes:
    """The pictures of the second file, described by the first one's box, too."""
    (meta,) = (first[start - 8 : end] for kind, start, end in boxes(first) if kind == b"meta")
    (end,) = (end for kind, _, end in boxes(second) if kind == b"ftyp")
    return second[:end] + meta + second[end:]


def test_file_that_is_described_twice_is_refused_by_every_reader(small):
    large = heif([coded(small.resize((1280, 960)))])
    for photo in (with_two_descriptions(heif([coded(small)]), large), with_two_descriptions(large, heif([coded(small)]))):
        with pytest.raises(PhotoError, match="described twice") as error:
            open_photo(photo)
        assert error.value.status == 422
        assert header(photo) is None


def test_refusal_has_a_reason(small, monkeypatch):
    def fail(*_):
        raise EOFError

    monkeypatch.setattr(handler.photo_file, "HeifImageFile", fail)
    with pytest.raises(PhotoError, match="header cannot be read: broken or cut off"):
        open_photo(heif([coded(small)]))


@pytest.mark.parametrize("tail", [b"\0\0\0\1free" + bytes(count) for count in range(8)])
def test_bytes_behind_the_last_box_change_nothing(small, tail):
    avif = bytes_of(small, "AVIF")
    for photo in (avif, heif([coded(small)])):
        assert header(photo + tail) == header(photo)
        assert photo_cost(photo + tail).cpu_s == pytest.approx(photo_cost(photo).cpu_s, rel=0.01)
        assert np.array_equal(read_photo(photo + tail), read_photo(photo))


EXIF = {
    "once": exif(TURNED).content,
    "its name twice": struct.pack(">I", 6) + b"Exif\0\0Exif\0\0" + TURNED,
    "without its name": struct.pack(">I", 0) + TURNED,
    "big-endian": struct.pack(">I", 6) + b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
    "two turns": struct.pack(">I", 6) + b"Exif\0\0II*\0\x08\0\0\0\2\0" + TURN[2:14] * 2 + bytes(4),
}


@pytest.mark.parametrize("name", EXIF)
def test_exif_turns_no_heif_however_it_is_written(small, name):
    note = Item(b"Exif", EXIF[name], references={b"cdsc": [1]})
    assert read_photo(heif([coded(small), note])).size == (128, 64)


def test_colours_that_tiles_alone_state_are_converted():
    image = patches()
    tiles = grid(twin(image, profile(PRIMARIES[12])), 64, chroma=444, quality=95)
    for tile in tiles[1:]:
        tile.properties.append(nclx(12))
    assert off(heif(tiles), image) < 2.5


def test_questions_about_pictures_may_be_asked_again_and_again(small):
    found = Pictures(heif(grid(small.resize((640, 320)), 128)))
    for _ in range(3 * MAX_ENTRIES // len(found.decoded())):
        found.decoded()


def test_pictures_of_pictures_without_end_are_not_followed(small):
    items = [Item(b"iden", b"", coded(small).properties[1:], {b"dimg": [number + 2] * 100}) for number in range(4)]
    before = time.process_time()
    with pytest.raises(PhotoError, match="put together of over"):
        read_photo(heif([*items, coded(small)]))
    assert time.process_time() - before < 0.5


def test_missing_library_is_named_at_the_start(spec, monkeypatch):
    def missing():
        raise ImportError("libheif.so.1: cannot open shared object file")

    monkeypatch.setattr(handler.photo_file, "libheif_version", missing)
    monkeypatch.setattr(handler.photo_file.features, "check", lambda name: name != "avif")
    with pytest.raises(ValueError, match="cannot be read without avif, pi_heif .libheif.so.1: cannot open"):
        Decoders(spec, BUDGET, Metrics("1", ["a"]))
