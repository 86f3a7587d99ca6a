"""Mutated photos, fields and headers through the worker's path: only RequestError and PhotoError come out.

`make test` runs a few hundred cases, always the same; `make test-all` runs over 20,000, others each time.
"""

import gc
import json
import random
import resource
import time
import warnings
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.preprocess import PhotoError, Spec, preprocess
from handler.request import Request, RequestError, read_request
from tests.conftest import picture_bytes
from tests.heif_files import seeds as heif_seeds

# small photos: what takes long is not their size
LONGEST_S = 5
MOST_GROWTH_MB = 100
SPEC = Spec((3, 224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.95, "center")
SIZE = (48, 36)
SEEDS = {
    "JPEG": [picture_bytes(size=SIZE), picture_bytes(size=SIZE, progressive=True), picture_bytes(size=SIZE, mode="CMYK")],
    "PNG": [picture_bytes(size=SIZE, image_format="PNG", mode=mode) for mode in ("RGB", "P", "RGBA", "L")],
    "WEBP": [picture_bytes(size=SIZE, image_format="WEBP", lossless=lossless) for lossless in (True, False)],
    "GIF": [picture_bytes(size=SIZE, image_format="GIF")],
    "TIFF": [picture_bytes(size=SIZE, image_format="TIFF", compression=c) for c in ("raw", "tiff_lzw", "jpeg")],
    "BMP": [picture_bytes(size=SIZE, image_format="BMP")],
    "JPEG2000": [picture_bytes(size=SIZE, image_format="JPEG2000")],
    "AVIF": [picture_bytes(size=SIZE, image_format="AVIF")],
    "HEIF": heif_seeds(SIZE),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["image", "instances", "x"]), inner, max_size=4),
    max_leaves=10,
)
quick = settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
thorough = settings(quick, max_examples=3000, derandomize=False)


@st.composite
def damaged(draw, image_format):
    """A photo's bytes after some flips, cuts, insertions, moved pieces and numbers gone wild, mostly near its header."""
    seeds = SEEDS[image_format]
    photo = bytearray(draw(st.sampled_from(seeds)))
    # hypothesis draws the seed alone: it would spend most of its time on choosing bytes
    rng = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        most = len(photo) if rng.random() < 0.5 else min(len(photo), 120)
        at, other = rng.randrange(most or 1), rng.randrange(len(photo) + 1)
        length = rng.choice([1, 2, 4, 8, 40, 400])
        kind = rng.randrange(7)
        if kind == 0 and photo:
            photo[min(at, len(photo) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            photo[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            photo[at : at + 4] = rng.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\xff\xff\0\0"]
            )
        elif kind == 3:
            del photo[at : at + length]
        elif kind == 4:
            photo[at:at] = photo[other : other + length]
        elif kind == 5:
            donor = rng.choice(seeds)
            photo[at:at] = donor[min(other, len(donor)) :][:length]
        elif rng.random() < 0.3:
            del photo[rng.randrange(len(photo) + 1) :]
    return mended(bytes(photo)) if image_format == "PNG" and rng.random() < 0.7 else bytes(photo)


def mended(photo: bytes) -> bytes:
    """A PNG with the checksum of every chunk made right, so that what is in it is looked at."""
    whole, at = photo[:8], 8
    while at + 12 <= len(photo):
        end = at + 8 + int.from_bytes(photo[at : at + 4])
        whole += photo[at:end] + zlib.crc32(photo[at + 4 : end]).to_bytes(4)
        at = end + 4
    return whole


def answer(request, headers):
    """What the worker does with a request before inference; True where a crop came out."""
    began, refused = time.monotonic(), None
    try:
        photo_bytes, top_k = read_request(Request(request, headers), num_classes=10, default_top_k=5)
        assert 1 <= top_k <= 10
        assert preprocess(photo_bytes, SPEC).shape == (224, 224, 3)
    except (RequestError, PhotoError) as error:
        refused = error
    assert time.monotonic() - began < LONGEST_S
    if refused:
        empty = str(refused) == "the photo is empty: 0 bytes"
        assert refused.status in ((400, 413) if isinstance(refused, RequestError) else (400,) if empty else (413, 415, 422))
        # short enough for an answer, and JSON can hold it
        assert len(json.dumps(str(refused)).encode()) < 1000
    return not refused


def run(strategy, profile, check):
    """The check on each case; memory must have grown by no more than MOST_GROWTH_MB over all but the first tenth."""
    seen, resident = [], []

    @profile
    @given(strategy)
    def cases(case):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the worker does: Pillow warns of broken metadata
            seen.append(check(case))
        if len(seen) == profile.max_examples // 10:
            resident.append(resident_mb())

    cases()
    gc.collect()
    grown = resident_mb() - resident[0]
    assert len(seen) >= profile.max_examples // 2
    assert grown < MOST_GROWTH_MB
    print(f"{len(seen):,} cases, {sum(map(bool, seen)):,} read, {grown:+.0f} MB")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    return seen


def resident_mb():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


HEADERS = st.dictionaries(
    st.sampled_from(["x-top-k", "X-Top-K", "content-type"]) | st.text(max_size=8), st.text(max_size=30), max_size=3
)
FIELDS = st.fixed_dictionaries({"body": damaged("JPEG")}) | st.dictionaries(
    st.sampled_from(["data", "image", "body", "top_k"]) | st.text(max_size=10),
    ANYTHING | st.binary(max_size=200).map(bytearray) | damaged("JPEG"),
    max_size=4,
)


def damaged_photos(image_format, profile):
    return run(damaged(image_format), profile, lambda photo: answer({"body": photo}, {}))


@pytest.mark.parametrize("image_format", SEEDS)
def test_damaged_photo_is_read_or_refused(image_format):
    assert any(answer({"body": seed}, {}) for seed in SEEDS[image_format])
    damaged_photos(image_format, quick)


def test_damaged_request_is_read_or_refused():
    assert any(run(st.tuples(FIELDS, HEADERS), quick, lambda case: answer(*case)))


@pytest.mark.slow
@pytest.mark.parametrize("image_format", SEEDS)
def test_thousands_of_damaged_photos_are_read_or_refused(image_format):
    assert damaged_photos(image_format, thorough)


@pytest.mark.slow
def test_thousands_of_damaged_requests_are_read_or_refused():
    assert run(st.tuples(FIELDS, HEADERS), thorough, lambda case: answer(*case))
