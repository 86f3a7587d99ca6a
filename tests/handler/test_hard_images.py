"""Hard and hostile files, of ../shared/data/hard_images and made here: each is read or refused, and none harms its batch."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from handler.jpeg import SOS, segments
from handler.preprocess import PhotoError, Spec, coarse, preprocess
from scripts.archive.build import build
from scripts.archive.read import load_handler
from tests.conftest import ROOT, SHARED, bytes_of, modules_of_a_worker, needs_photos, picture_bytes
from tests.hostile_files import MADE
from tests.offline_context import OfflineContext

FOLDER = SHARED / "data" / "hard_images"
# Pillow warns of broken metadata, and reads on; the worker filters these warnings
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# status and reason of each file that is refused; all others of the folder are read
REFUSED = {
    "made_bomb_header_60000x60000.png": (413, "too many pixels, the limit is 89,478,485"),  # 65 bytes, 3.6 gigapixels
    "pillow_decompression_bomb.gif": (413, "too many pixels, the limit is 89,478,485"),
    "pillow_png_decompression_dos.png": (413, "unpacks to over 1,048,576 bytes"),  # its text, compressed
    "made_empty.jpg": (400, "empty: 0 bytes"),
    "pillow_rgba.psd": (415, "unsupported format: Photoshop"),
    "pngsuite_xs1n0g01.png": (415, "not an image in a supported format"),  # its first bytes are not PNG's
    "made_1x1.png": (422, "1 x 1 pixels: a side needs at least 2"),
    "pillow_multiple_exif.jpg": (422, "1 x 1 pixels: a side needs at least 2"),
    "made_4000x2.png": (422, "4000 x 2 pixels: one side is over 20 times the other"),
    "made_jpegmagic_only.jpg": (422, "JPEG header cannot be read"),
    "made_truncated_200bytes.jpg": (422, "JPEG header cannot be read"),
    "pillow_oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": (422, "TIFF header cannot be read"),  # tags behind the end
    "pngsuite_xc1n0g08.png": (422, "PNG header cannot be read"),  # a colour type that does not exist
    "pngsuite_xdtn0g01.png": (422, "cannot be decoded"),  # no pixels
    "pillow_broken_data_stream.png": (422, "cannot be decoded: unrecognized data stream"),  # the lower third is missing
    "pillow_truncated_end_chunk.png": (422, "cannot be decoded: Truncated File Read"),
}
# stored in many ways, these show one picture; how far apart they may be is compression's: mean of 255 over 8 x 8 fields
SAME_PICTURE = {
    "exif_Portrait_0.jpg": ["exif_Portrait_2.jpg", "exif_Portrait_4.jpg", "exif_Portrait_6.jpg", "exif_Portrait_8.jpg"],
    "made.webp": [
        *("made_anim.webp", "made_cmyk.jpg", "made_food_orient_2.jpg", "made_food_orient_4.jpg", "made_food_orient_6.jpg"),
        *("made_food_orient_8.jpg", "made_5000x3333.jpg", "made.gif", "made_palette.png", "made_q5_411.jpg"),
    ],
    "pillow_hopper.bmp": [
        *("pillow_hopper.jpg", "pillow_hopper.webp", "pillow_hopper.Lab.tif", "pillow_hopper_float_dpi_2.tif"),
        *("pillow_hopper_idat_after_image_end.png", "pillow_hopper_orientation_3.jpg", "pillow_hopper_orientation_5.jpg"),
        *("pillow_hopper_orientation_6.webp", "pillow_hopper_orientation_8.jpg"),
    ],
}
# as the field sent them: ../shared/data/field_inputs/README.md says what is right
FIELD_PHOTOS = {
    "ok.jpg": (200, ""),
    "last_byte_missing.jpg": (200, ""),
    "eoi_missing.jpg": (200, ""),
    "intact_12bit.jpg": (415, "a JPEG of 12 bits a channel"),
    "intact_jpeg_ls.jls": (415, "a JPEG-LS"),
    "intact_float_rgb.tif": (415, "a TIFF of 32-bit floating-point numbers"),
    "intact_jp2.tif": (415, "a TIFF in JPEG 2000"),
    "intact_webp.tif": (415, "a TIFF in WebP"),
    "camera_raw_cfa.dng": (415, "a camera's raw file"),
    "canon_cr3_start.cr3": (415, "a camera's raw file"),
    "intact.jxl": (415, "JPEG XL"),
}
SQUASHED = Spec((3, 224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3, 1.0, "squash")


def outcome(photo_bytes: bytes, spec: Spec) -> tuple[int, str]:
    try:
        assert preprocess(photo_bytes, spec).shape == (224, 224, 3)
    except PhotoError as error:
        return error.status, str(error)
    return 200, ""


@needs_photos
def test_every_hard_file_is_read_or_refused_with_its_reason(spec):
    listed = [entry["file"] for entry in json.loads((FOLDER / "list.json").read_text())]
    for name in listed:
        status, reason_given = outcome((FOLDER / name).read_bytes(), spec)
        expected, reason = REFUSED.get(name, (200, ""))
        assert status == expected, f"{name}: {status} {reason_given}"
        assert reason in reason_given
    assert set(REFUSED) <= set(listed)


@needs_photos
def test_photos_from_the_field_are_read_or_their_kind_is_named(spec):
    folder = SHARED / "data" / "field_inputs" / "photos"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FIELD_PHOTOS)
    for name, (expected, reason) in FIELD_PHOTOS.items():
        status, reason_given = outcome((folder / name).read_bytes(), spec)
        assert (status, reason in reason_given) == (expected, True), f"{name}: {status} {reason_given}"


WRITTEN = {
    "baseline": {},
    "of one scan a channel": {"progressive": True},
    "without subsampling": {"subsampling": 0, "quality": 95},
    "with restart markers": {"restart_marker_blocks": 5},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "big": {"size": (1200, 900)},
    "turned": {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"},
}


@pytest.mark.parametrize("way", WRITTEN)
def test_jpeg_without_its_end_marker_is_read_and_one_that_lacks_pixels_is_not(spec, way):
    options = {"mode": "RGB", "size": (131, 97)} | WRITTEN[way]
    noise = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize(options.pop("size"), Image.Resampling.BICUBIC).convert(options.pop("mode"))
    whole = bytes_of(picture, "JPEG", **options)
    expected = preprocess(whole, spec)
    for missing in range(1, 40):
        # some bytes more may be missing unseen: of noise that the last block has in a channel, or that the crop leaves out
        if outcome(whole[:-missing], spec)[0] == 200:
            assert np.array_equal(preprocess(whole[:-missing], spec), expected), missing
        else:
            assert missing > 2
    for missing in (40, len(whole) // 4, len(whole) // 2):
        assert outcome(whole[:-missing], spec)[0] == 422, missing


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_that_breaks_off_between_two_scans_is_refused(spec, mode, progressive):
    noise = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).convert(mode)
    whole = bytes_of(picture, "JPEG", progressive=True, quality=90) if progressive else channel_by_channel(picture)
    ends = [at - 2 for marker, at in segments(whole) if marker in (b"\xff\xc4", SOS)]
    assert len(ends) >= (6 if progressive else len(mode))
    for end in ends:
        for cut in (end, end - 1, end + 1):
            assert outcome(whole[:cut], spec)[0] == 422, (cut, ends)
    assert np.array_equal(preprocess(whole[:-2], spec), preprocess(whole, spec))


def channel_by_channel(picture: Image.Image) -> bytes:
    """A sequential JPEG with a scan for each channel: those of grey JPEGs, put together."""
    ones = [bytes_of(one, "JPEG", quality=90) for one in picture.split()]
    whole, scans = b"\xff\xd8", b""
    for number, one in enumerate(ones, start=1):
        for marker, at in segments(one):
            content = one[at : at + int.from_bytes(one[at : at + 2])]
            if marker in (b"\xff\xdb", b"\xff\xc4") and number == 1:
                whole += marker + content
            elif marker == SOS:
                scans += marker + content[:3] + bytes((number,)) + content[4:] + one[at + len(content) : -2]
    channels = b"".join(bytes((number, 0x11, 0)) for number in range(1, len(ones) + 1))
    sides = picture.height.to_bytes(2) + picture.width.to_bytes(2)
    frame = (8 + len(channels)).to_bytes(2) + b"\x08" + sides + bytes((len(ones),)) + channels
    return whole + b"\xff\xc0" + frame + scans + b"\xff\xd9"


@needs_photos
@pytest.mark.parametrize("reference", SAME_PICTURE)
def test_picture_is_seen_upright_and_in_its_colours_however_it_is_stored(reference):
    def seen(name):
        return coarse(preprocess((FOLDER / name).read_bytes(), SQUASHED)).astype(int)

    original = seen(reference)
    for name in SAME_PICTURE[reference]:
        assert np.abs(seen(name) - original).mean() < 5, name
    # a picture that is not turned upright is far from itself
    assert np.abs(original[::-1, ::-1] - original).mean() > 20


@pytest.fixture(scope="module")
def handler(exported, tmp_path_factory):
    """The worker's own, out of an archive; the modules of this process come back afterwards."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(build(exported, "1.0.0", tmp_path_factory.mktemp("model_store"))) as content:
        content.extractall(folder)
    with modules_of_a_worker():
        yield load_handler(folder)


class Statuses(OfflineContext):
    def __init__(self):
        self.statuses = {}

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = code


def ranks_and_probabilities(answer):
    predictions = json.loads(answer)["predictions"]
    return [p["label"] for p in predictions], np.array([p["probability"] for p in predictions])


def answered_beside_good_photos(handler, files: dict[str, bytes], expected: dict[str, int]):
    """Every file alone, then all in batches of 8 with two good photos in each, whose answers must stay."""
    good = [{"body": picture_bytes(0)}, {"body": picture_bytes(1, image_format="PNG")}]
    alone = [ranks_and_probabilities(handler.handle([photo], Statuses())[0]) for photo in good]
    # batches of good photos alone: how far their size moves a probability
    spread = [
        np.abs(ranks_and_probabilities(answer)[1] - alone[i % 2][1]).max()
        for size in range(1, 9)
        for i, answer in enumerate(handler.handle([good[i % 2] for i in range(size)], Statuses()))
    ]
    names = list(files)
    for start in range(0, len(names), 6):
        batch = names[start : start + 6]
        requests = [good[0], *({"body": files[name]} for name in batch), good[1]]
        context = Statuses()
        answers = handler.handle(requests, context)
        assert len(answers) == len(requests)
        for i, name in enumerate(batch, start=1):
            status = context.statuses.get(i, 200)
            assert status == expected[name], f"{name}: {answers[i]!r}"
            answer = json.loads(answers[i])
            assert ("predictions" in answer) == (status == 200)
            assert status == 200 or (answer["code"], answer["type"]) == (status, "PhotoError")
            by_itself = Statuses()
            lone = handler.handle([requests[i]], by_itself)[0]
            assert by_itself.statuses.get(0, 200) == status
            assert json.loads(lone).keys() == answer.keys()
        for answer, (ranks, probabilities) in zip((answers[0], answers[-1]), alone, strict=True):
            seen_ranks, seen = ranks_and_probabilities(answer)
            assert seen_ranks == ranks
            # two equal sums in another order: no less than float32's rounding is demanded
            assert np.abs(seen - probabilities).max() <= max(*spread, 1e-6)


@needs_photos
def test_hard_files_are_answered_alone_and_beside_good_photos_which_they_do_not_move(handler):
    files = {entry["file"]: (FOLDER / entry["file"]).read_bytes() for entry in json.loads((FOLDER / "list.json").read_text())}
    answered_beside_good_photos(handler, files, {name: REFUSED.get(name, (200, ""))[0] for name in files})


@pytest.mark.parametrize("name", MADE)
def test_hostile_file_gets_its_answer(spec, name):
    make, status, reason = MADE[name]
    seen, reason_given = outcome(make(), spec)
    assert (seen, reason in reason_given) == (status, True), f"{seen} {reason_given}"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_file_that_is_cut_off_anywhere_is_refused(spec, image_format):
    whole = picture_bytes(image_format=image_format)
    assert outcome(whole, spec)[0] == 200
    for tenths in range(10):
        status, reason_given = outcome(whole[: len(whole) * tenths // 10], spec)
        assert status == (422 if tenths else 400), f"{tenths} tenths: {reason_given}"
    short = [outcome(whole[:length], spec)[0] for length in range(40)]
    assert set(short[1:]) <= {415, 422}


def test_hostile_files_are_answered_beside_good_photos(handler):
    names = [name for name in MADE if "frames" not in name and name not in ("scans of a big JPEG", "JSON")]
    answered_beside_good_photos(handler, {name: MADE[name][0]() for name in names}, {name: MADE[name][1] for name in names})


@pytest.mark.parametrize("name", ["TIFF tiles", "JPEG 2000 precincts", "3.6 gigapixels of PNG", "0.3 gigapixels of WebP", "zTXt"])
def test_bomb_takes_no_memory(name, tmp_path):
    lines = """
import sys
from handler.preprocess import PhotoError, Spec, preprocess
spec = Spec((3, 224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.95, "center")
photo, bomb = (open(path, "rb").read() for path in sys.argv[1:])
preprocess(photo, spec)
def peak_kb():
    # not getrusage: its peak begins with that of the process that started this one
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak_kb()
try:
    preprocess(bomb, spec)
except PhotoError as error:
    print(error.status, (peak_kb() - before) // 1024)
"""
    paths = [tmp_path / "photo", tmp_path / "bomb"]
    for path, content in zip(paths, (picture_bytes(), MADE[name][0]()), strict=True):
        path.write_bytes(content)
    done = subprocess.run([sys.executable, "-c", lines, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    status, megabytes = map(int, done.stdout.split())
    assert status == 413
    assert megabytes < 16
