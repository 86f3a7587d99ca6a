"""What a header states, without Pillow: it equals what Pillow reads, hostile bytes neither raise nor take long."""

import contextlib
import io
import random
import re
import struct
import subprocess
import sys
import time
from functools import partial

import pytest
from PIL import Image

from handler.cost import LEAST, UNKNOWN, estimate, photo_cost
from handler.dimensions import header
from handler.errors import HiddenError, PhotoError
from handler.limits import IMAGE_FORMATS, MAX_BYTES, format_of
from handler.photo_file import open_photo
from handler.preprocess import preprocess, reduction
from scripts.bench.costly_photos import KINDS
from tests.conftest import ROOT, SHARED, bytes_of, needs_photos, picture_bytes
from tests.handler.test_fuzz import SEEDS
from tests.heif_files import seeds as heif_seeds
from tests.hostile_files import MADE, chunk, png, tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZE = (131, 97)


def dimensions(photo_bytes):
    """(format, width, height), or None."""
    found = header(photo_bytes)
    return found and found[:3]


# of a JPEG of 16 x 16 pixels
FRAME_HEADER = b"\xff\xc0\0\x11\x08\0\x10\0\x10\3\1\x22\0\2\x11\1\3\x11\1"
TURNED = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"


def claimed(photo):
    """As Pillow reads it; None for what it does not open."""
    try:
        image = open_photo(photo) if format_of(photo) == "HEIF" else Image.open(io.BytesIO(photo))
    except Exception:
        return None
    return ("JPEG" if image.format == "MPO" else image.format, *image.size)


def written(image_format, mode="RGB", **options):
    return picture_bytes(size=SIZE, image_format=image_format, mode=mode, **options)


def animation(image_format):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    return bytes_of(frames[0], image_format, save_all=True, append_images=frames[1:])


def with_small_pictures(avif):
    """An AVIF whose tracks alone state its true size."""
    return re.sub(rb"(?<=ispe\0{4}).{8}", struct.pack(">II", 2, 2), avif, flags=re.DOTALL)


def with_long_description(avif):
    """160 kB of nothing at the beginning of what describes the picture."""
    size, start = re.search(rb"(....)meta....", avif, re.DOTALL), avif.index(b"meta") + 8
    nothing = FREE * 20_000
    longer = struct.pack(">I", int.from_bytes(size[1]) + len(nothing))
    return avif[: size.start()] + longer + avif[size.end(1) : start] + nothing + avif[start:]


def bmp(header, width, height, **more):
    """A BMP with a header of so many bytes, of 24 bits a pixel."""
    sides = struct.pack("<HHHH" if header == 12 else "<iiHH", width, height, 1, 24)
    pixels = bytes(abs(width * height) * 3 + 3 * abs(height))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + header) + (struct.pack("<I", header) + sides).ljust(header, b"\0") + pixels


def big_tiff():
    """A grey BigTIFF whose values are numbers of 64 bits."""
    tags = {256: SIZE[0], 257: SIZE[1], 258: 8, 259: 1, 262: 1, 273: 300, 278: SIZE[1], 279: SIZE[0] * SIZE[1]}
    entries = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in tags.items())
    start = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags))
    return (start + entries + bytes(8)).ljust(300 + SIZE[0] * SIZE[1], b"\0")


WRITTEN = {
    "JPEG": lambda: written("JPEG"),
    "JPEG, progressive": lambda: written("JPEG", progressive=True),
    "JPEG, grey": lambda: written("JPEG", "L"),
    "JPEG, CMYK": lambda: written("JPEG", "CMYK"),
    "JPEG, turned": lambda: written("JPEG", exif=TURNED),
    "JPEG, long comment": lambda: written("JPEG", comment=b"\xff\xc0\0\x11\x08" * 13_000),
    "JPEG, profile in pieces": lambda: written("JPEG", icc_profile=bytes(300_000)),
    "MPO": lambda: animation("MPO"),
    **{f"PNG, {mode}": partial(written, "PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "PNG, another header in front": lambda: png(7, 5)[:33] + written("PNG")[8:],
    "PNG, another header behind": lambda: written("PNG") + png(7, 5)[8:],
    "PNG, chunk in front": lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"a\0IHDR" + bytes(90)) + png(31, 17)[8:],
    "APNG": lambda: animation("PNG"),
    "GIF": lambda: written("GIF", "P"),
    "GIF, comment": lambda: written("GIF", "P", comment=b"!,;" * 500),
    "GIF, animated": lambda: animation("GIF"),
    "GIF, frame over its screen": lambda: b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x1f\0\x11\0\0\2\2D\1\0;",
    "WebP": lambda: written("WEBP"),
    "WebP, lossless": lambda: written("WEBP", lossless=True),
    "WebP, alpha": lambda: written("WEBP", "RGBA"),
    "WebP, turned": lambda: written("WEBP", exif=TURNED),
    "WebP, animated": lambda: animation("WEBP"),
    **{f"BMP, {mode}": partial(written, "BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"BMP, header of {header} bytes": partial(bmp, header, *SIZE) for header in (12, 40, 64, 108, 124)},
    "BMP, from the top": lambda: bmp(40, SIZE[0], -SIZE[1]),
    **{f"TIFF, {way}": partial(written, "TIFF", compression=way) for way in ("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate")},
    "TIFF, 16 bit": lambda: bytes_of(Image.new("I;16B", SIZE), "TIFF"),
    "BigTIFF": lambda: written("TIFF", big_tiff=True),
    "BigTIFF of long numbers": big_tiff,
    "JPEG 2000": lambda: written("JPEG2000"),
    "JPEG 2000, codestream alone": lambda: written("JPEG2000", no_jp2=True),
    "JPEG 2000, off the grid's corner": lambda: written("JPEG2000", offset=(5, 3), tile_offset=(0, 0), tile_size=(200, 200)),
    "AVIF": lambda: written("AVIF"),
    "AVIF, alpha": lambda: written("AVIF", "RGBA"),
    "AVIF, animated": lambda: animation("AVIF"),
    "AVIF, animated, of small pictures": lambda: with_small_pictures(animation("AVIF")),
    "AVIF, turned": lambda: written("AVIF", exif=TURNED),
    "HEIF": lambda: heif_seeds(SIZE)[0],
    "HEIF, tiles": lambda: heif_seeds(SIZE)[1],
    "HEIF, alpha": lambda: heif_seeds(SIZE)[2],
}


@pytest.mark.parametrize("way", WRITTEN)
def test_dimensions_of_every_way_to_write_a_photo_are_those_that_pillow_reads(way):
    photo = WRITTEN[way]()
    assert claimed(photo) is not None
    assert dimensions(photo) == claimed(photo)


def test_every_format_is_among_them():
    assert {dimensions(make())[0] for make in WRITTEN.values()} == set(IMAGE_FORMATS)


@needs_photos
def test_dimensions_of_real_photos_are_those_that_pillow_reads():
    paths = [*(SHARED / "data" / "hard_images").iterdir(), *(SHARED / "data" / "field_inputs" / "photos").iterdir()]
    paths += sorted((SHARED / "data" / "food10").rglob("*.jpg"))[::20]
    read = 0
    for path in paths:
        photo = path.read_bytes()
        expected = claimed(photo)
        if expected and expected[0] in IMAGE_FORMATS:
            assert dimensions(photo) == expected, path.name
            read += 1
    assert read > 80


@pytest.mark.parametrize("photo", [b"", b"\xff\xd8\xff", b"text" * 100, *(seeds[0][:40] for seeds in SEEDS.values())], ids=repr)
def test_bytes_without_a_whole_header_have_no_dimensions_or_true_ones(photo):
    assert dimensions(photo) is None or dimensions(photo)[1:] == (48, 36)


def behind(start, pieces, photo):
    """The photo with pieces between its first bytes and the rest."""
    return photo[:start] + pieces + photo[start:]


SEGMENT, EXTENSION, FREE = b"\xff\xe1\0\2", b"!\xfe\0", b"\0\0\0\x08free"
SMALL_SCREEN = b"GIF89a\1\0\1\0\0\0\0"
HIDDEN = {
    "JPEG, segments": lambda: behind(2, SEGMENT * 3000, written("JPEG")),
    "JPEG, filling": lambda: behind(2, b"\xff" * 300, written("JPEG")),
    "JPEG, filling before each": lambda: behind(2, (b"\xff" * 60 + SEGMENT[1:]) * 3000, written("JPEG")),
    "JPEG, what is no marker": lambda: behind(2, SEGMENT + bytes(300), written("JPEG")),
    "JPEG, segments behind another frame": lambda: behind(2, FRAME_HEADER + SEGMENT * 3000, written("JPEG")),
    "PNG, chunks": lambda: behind(8, chunk(b"tEXt", b"a\0b") * 5000, written("PNG")),
    "PNG, chunks behind another header": lambda: png(7, 5)[:33] + chunk(b"tEXt", b"a\0b") * 5000 + written("PNG")[8:],
    "GIF, extensions": lambda: SMALL_SCREEN + EXTENSION * 5000 + b",\0\0\0\0\x1f\0\x11\0\0\2\2D\1\0;",
    "JPEG 2000, boxes": lambda: behind(12, FREE * 5000, written("JPEG2000")),
    "AVIF, boxes": lambda: behind(struct.unpack_from(">I", written("AVIF"))[0], FREE * 5000, written("AVIF")),
    "AVIF, a long description": lambda: with_long_description(written("AVIF")),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_size_that_is_hidden_behind_thousands_of_pieces_costs_as_much_as_anything(way):
    photo = HIDDEN[way]()
    with pytest.raises(HiddenError):
        dimensions(photo)
    assert photo_cost(photo) == UNKNOWN


def test_metadata_of_a_megabyte_hides_nothing():
    exif = b"Exif\0\0II*\0" + bytes(60_000)
    photo = written("JPEG", exif=exif, icc_profile=bytes(4_000_000), comment=bytes(65_000))
    assert dimensions(photo) == claimed(photo)
    assert photo_cost(photo).cpu_s < 20 * LEAST.cpu_s
    profile = written("PNG", icc_profile=random.Random(0).randbytes(900_000))
    assert dimensions(profile) == claimed(profile)


def mutated(rng, seed):
    """Near its beginning some bytes are changed, cut or put in; numbers go wild."""
    photo = bytearray(seed)
    for _ in range(rng.choice([1, 1, 2, 4, 10])):
        at = rng.randrange(min(len(photo), 400) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            photo[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            photo[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0"])
        elif kind == 2:
            photo[at : at + 8] = rng.choice([b"\xff" * 8, b"\x80" + bytes(7), rng.randbytes(8)])
        elif kind == 3:
            del photo[at : at + rng.choice([1, 2, 4, 50])]
        else:
            photo[at:at] = photo[rng.randrange(len(photo) or 1) :][:20]
    return bytes(photo[: rng.randrange(len(photo) + 1)] if rng.random() < 0.2 else photo)


FUZZED = [seed for seeds in SEEDS.values() for seed in seeds] + [big_tiff()]


def check_mutated(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        photo = mutated(rng, rng.choice(FUZZED))
        cost = photo_cost(photo)
        with contextlib.suppress(HiddenError):
            found = dimensions(photo)
            assert found is None or (found[0] in IMAGE_FORMATS and min(found[1:]) > 0), photo
        assert cost.memory >= LEAST.memory, photo
        assert cost.cpu_s >= LEAST.cpu_s, photo


def test_mutated_header_never_raises():
    check_mutated(3000, 0)


@pytest.mark.slow
def test_thousands_of_mutated_headers_never_raise():
    check_mutated(200_000, None)


FULL = MAX_BYTES
JPEG, PNG, GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a\1\0\1\0\0\0\0"
TIFF, WEBP = b"II*\0", b"RIFF"
HEADER = written("JPEG", progressive=True)
FRAME = HEADER[: HEADER.index(b"\xff\xda")]  # up to the first scan
HOSTILE = {
    "JPEG of filling": lambda: JPEG + b"\xff" * FULL,
    "JPEG of stuffing": lambda: JPEG + b"\xe0\0\2" + b"\xff\0" * (FULL // 2),
    "JPEG of zeros": lambda: JPEG + bytes(FULL),
    "JPEG of empty segments": lambda: JPEG[:2] + b"\xff\xe0\0\2" * (FULL // 4),
    "JPEG of filled segments": lambda: JPEG[:2] + (b"\xff" * 60 + b"\xe0\0\2") * (FULL // 63),
    "JPEG of markers without a length": lambda: JPEG[:2] + b"\xff\1" * (FULL // 2),
    "JPEG of frames": lambda: JPEG[:2] + HEADER[HEADER.index(b"\xff\xc2") :][:19] * (FULL // 19),
    "JPEG of scans": lambda: FRAME + b"\xff\xda\0\2" * (FULL // 4),
    "JPEG whose scan is filling": lambda: FRAME + b"\xff\xda\0\2" + b"\xff" * FULL,
    "JPEG whose scan is stuffing": lambda: FRAME + b"\xff\xda\0\2" + b"\xff\0" * (FULL // 2),
    "JPEG whose scan is ends of scans": lambda: FRAME + b"\xff\xda\0\2" + b"\0\xda" * (FULL // 2),
    "JPEG whose scan is ends of ends": lambda: FRAME + b"\xff\xda\0\2" + b"\0\xd9" * (FULL // 2),
    "PNG of empty chunks": lambda: PNG + chunk(b"tEXt", b"") * (FULL // 12),
    "PNG of empty chunks behind its header": lambda: png(64, 64)[:33] + chunk(b"tEXt", b"") * (FULL // 12),
    "GIF of blocks of one byte": lambda: GIF + b"!\xfe" + b"\1a" * (FULL // 2),
    "GIF of empty extensions": lambda: GIF + b"!\xfe\0" * (FULL // 3),
    "GIF of zeros": lambda: GIF + bytes(FULL),
    "TIFF of most tags": lambda: TIFF + struct.pack("<IH", 8, 4096) + struct.pack("<HHII", 256, 4, 1, 9) * (FULL // 12),
    "TIFF of most tags and its sides": lambda: (
        TIFF + struct.pack("<IH", 8, 4096) + struct.pack("<HHIIHHII", 256, 4, 1, 9, 257, 4, 1, 9) * (FULL // 24)
    ),
    "TIFF of tags of values": lambda: TIFF + struct.pack("<IH", 8, 4096) + struct.pack("<HHII", 259, 4, 16, 9) * (FULL // 12),
    "TIFF of too many tags": lambda: TIFF + struct.pack("<IH", 8, 65535) + struct.pack("<HHII", 256, 4, 1, 9) * (FULL // 12),
    "JPEG 2000 of empty boxes": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * (FULL // 8),
    "AVIF of empty boxes": lambda: b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\x08free" * (FULL // 8),
    "AVIF of sizes": lambda: b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\0meta" + b"ispe\0\0\0\0\0\0\0\1\0\0\0\1" * (FULL // 16),
    "AVIF of nearly sizes": lambda: b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\0meta" + b"ispe\0\0\0" * (FULL // 7),
    "HEIF of empty boxes": lambda: b"\0\0\0\x14ftypheic\0\0\0\0mif1" + b"\0\0\0\x08free" * (FULL // 8),
    "HEIF of items": lambda: (
        b"\0\0\0\x14ftypheic\0\0\0\0mif1\0\0\0\0meta\0\0\0\0\0\0\0\0iinf\0\0\0\0\0\0"
        + b"\0\0\0\x15infe\2\0\0\0\0\1\0\0hvc1\0" * (FULL // 21)
    ),
    "HEIF of properties": lambda: (
        b"\0\0\0\x14ftypheic\0\0\0\0mif1\0\0\0\0meta\0\0\0\0\0\0\0\0iprp\0\0\0\0ipma\0\0\0\0\xff\xff\xff\xff"
        + b"\0\1\xff" * (FULL // 3)
    ),
    "MIF without a brand": lambda: b"\0\0\0\x14ftypmif1" + b"av" * (FULL // 2),
    "WebP of nothing": lambda: WEBP + b"\0\0\0\0WEBP" + bytes(FULL),
    "BMP of nothing": lambda: b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(FULL),
}
LONGEST_MS = 20


@pytest.mark.parametrize("way", HOSTILE)
def test_hostile_bytes_hold_up_an_event_loop_for_no_more_than_milliseconds(way):
    photo = HOSTILE[way]()[:FULL]
    times = []
    for _ in range(5):  # of the process alone, and the least: others use the machine, too
        before = time.thread_time()
        photo_cost(photo)  # calls header()
        times.append((time.thread_time() - before) * 1000)
    print(f"{min(times):.1f} ms")
    assert min(times) < LONGEST_MS


def exact(photo):
    image = open_photo(photo)
    return estimate(image, photo, reduction(image, 235))


def test_cost_from_bytes_is_the_estimate_nearly_for_every_way_to_write_a_photo():
    for way, make in WRITTEN.items():
        photo = make()
        assert 0.6 < photo_cost(photo).cpu_s / exact(photo).cpu_s < 1.5, way


@needs_photos
def test_cost_from_bytes_is_the_estimate_nearly_for_real_photos():
    paths = [*(SHARED / "data" / "hard_images").iterdir(), *sorted((SHARED / "data" / "food10").rglob("*.jpg"))[::20]]
    compared = 0
    for path in paths:
        photo = path.read_bytes()
        try:
            expected = exact(photo)
        except PhotoError:
            continue
        assert 1 / 1.5 < photo_cost(photo).cpu_s / expected.cpu_s < 1.5, path.name
        compared += 1
    assert compared > 80


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if "LZMA" in kind else ()) for kind in KINDS])
def test_cost_from_bytes_of_a_costly_photo_is_not_far_below_the_estimate(kind):
    for noise, side in ((False, 1200), (True, 400)):
        photo = KINDS[kind][1](side, noise)
        found, expected = photo_cost(photo), exact(photo)
        assert 0.6 < found.cpu_s / expected.cpu_s < 1.5
        assert 0.6 < found.memory / expected.memory < 1.5


def test_cost_counts_that_a_jpeg_without_its_end_is_decoded_several_times():
    whole = picture_bytes(size=(2000, 1500))
    assert photo_cost(whole[:-2]).cpu_s > 2 * photo_cost(whole).cpu_s
    assert photo_cost(whole + bytes(1000)).cpu_s == pytest.approx(photo_cost(whole).cpu_s, rel=0.1)


@pytest.mark.parametrize("name", MADE)
def test_file_that_is_refused_for_its_claims_costs_the_least(name):
    make, status, reason = MADE[name]
    if "too many pixels" in reason or "too many for a" in reason or status == 415:
        assert photo_cost(make()).cpu_s < 2 * LEAST.cpu_s
    photo_cost(make())


def test_bytes_that_are_no_photo_cost_the_least():
    assert photo_cost(b"") == photo_cost(b"text" * 1000) == photo_cost(b"\xff\xd8\xff") == LEAST


def test_jpeg_of_impossible_sampling_costs_something_and_is_refused(spec):
    photo = bytearray(written("JPEG", progressive=True))
    frame = photo.index(b"\xff\xc2")
    for channel in range(3):
        photo[frame + 11 + 3 * channel] = 0
    assert photo_cost(bytes(photo)).cpu_s >= LEAST.cpu_s
    with pytest.raises(PhotoError):
        preprocess(bytes(photo), spec)
    assert exact(bytes(photo)).cpu_s >= LEAST.cpu_s


@pytest.mark.parametrize("place", [2**64 - 1, 2**63, 2**63 - 1, 10**6])
def test_directory_behind_all_memory_is_a_broken_header(place, spec):
    photo = b"II+\0" + struct.pack("<HHQ", 8, 0, place) + bytes(100)
    with pytest.raises(PhotoError, match="TIFF header cannot be read"):
        preprocess(photo, spec)
    assert dimensions(photo) is None


def test_tag_whose_values_lie_behind_the_end_does_not_hide_the_others():
    photo = tiff({282: (4, 9, 2**32 - 1)})
    assert dimensions(photo) == ("TIFF", 64, 64)


def test_neither_pillow_nor_numpy_is_imported():
    code = "import sys, handler.cost, handler.limits; print(sorted({'PIL', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
