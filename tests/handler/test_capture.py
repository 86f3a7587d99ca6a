"""The sample of answered photos that an instance keeps."""

import os
import random
import shutil
import time

import pytest
from PIL import Image

from handler.capture import PRUNE_EVERY, Capture, captured_photos, prune
from handler.strip import strip
from scripts.archive.build import stage
from scripts.archive.predict import OfflineContext
from scripts.archive.read import load_handler
from scripts.backend.torchserve.environment import server_environment
from scripts.backend.torchserve.sockets import Addresses
from scripts.settings import Settings
from tests.conftest import ROOT, bytes_of, modules_of_a_worker, picture_bytes
from tests.heif_files import seeds as heif_seeds


@pytest.fixture
def capture(tmp_path, monkeypatch):
    """capture(share=1, bytes=..., age_s=...): a Capture with these settings into tmp_path/captured; none of them is set before."""
    for name in [name for name in os.environ if name.startswith("SEEFOOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEEFOOD_CAPTURE_DIR", str(tmp_path / "captured"))

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name.upper()}", str(value))
        return Capture()

    return make


PHOTO = picture_bytes(0, (16, 12), "PNG")


def photos_of(count):
    """Different photos that stripping leaves as they are."""
    return [bytes_of(Image.new("L", (4, 4), i), "PNG", compress_level=0) for i in range(count)]


def test_nothing_is_kept_unless_it_is_asked_for(capture, tmp_path):
    keep = capture()
    for _ in range(100):
        keep(PHOTO)
    assert not list(tmp_path.iterdir())


def test_share_is_kept(capture, tmp_path):
    random.seed(0)
    keep = capture(share=0.25, bytes=10**6, age_s=3600)
    for _ in range(400):
        keep(PHOTO)
    assert 70 < len(list((tmp_path / "captured").iterdir())) < 130


def test_photos_come_back_the_newest_last(capture, tmp_path):
    keep, photos = capture(share=1, bytes=10**6, age_s=3600), photos_of(12)
    for photo in photos:
        keep(photo)
    assert captured_photos(tmp_path / "captured", 100) == [strip(photo) for photo in photos]
    assert captured_photos(tmp_path / "captured", 3) == photos[-3:]
    assert captured_photos(tmp_path / "nothing", 3) == []


def test_oldest_make_room_for_the_newest(capture, tmp_path):
    photos = photos_of(3 * PRUNE_EVERY)
    keep = capture(share=1, bytes=10 * len(photos[0]), age_s=3600)
    for photo in photos:
        keep(photo)
    assert captured_photos(tmp_path / "captured", 100) == photos[-10:]


def test_photos_that_are_too_old_go(capture, tmp_path):
    keep = capture(share=1, bytes=10**6, age_s=60)
    for _ in range(4):
        keep(PHOTO)
    paths = sorted((tmp_path / "captured").iterdir())
    for path, age_s in zip(paths, (120, 61, 59, 0), strict=True):
        os.utime(path, (time.time() - age_s,) * 2)
    prune(tmp_path / "captured", 10**6, 60)
    assert sorted((tmp_path / "captured").iterdir()) == paths[2:]


def test_full_disk_keeps_no_half_photo_and_ends_nothing(capture, mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "captured", "512k")
    keep, large = capture(share=1, bytes=10**9, age_s=3600), bytes_of(Image.effect_noise((440, 440), 99), "PNG", compress_level=0)
    for _ in range(PRUNE_EVERY + 5):
        keep(large)
    assert [(path.suffix, path.stat().st_size) for path in disk.iterdir()] == [(".photo", len(large))] * 2


@pytest.mark.parametrize("gone", ["folder", ("a file in its place")])
def test_folder_that_cannot_be_written_any_more_harms_nothing(capture, tmp_path, gone):
    keep = capture(share=1, bytes=10**6, age_s=3600)
    keep(PHOTO)
    shutil.rmtree(tmp_path / "captured")
    if gone == "a file in its place":
        (tmp_path / "captured").touch()
    for _ in range(PRUNE_EVERY):
        keep(PHOTO)
    assert not list(tmp_path.rglob("*.part"))


def test_folder_that_cannot_be_made_does_not_keep_a_worker_from_starting(capture, tmp_path):
    (tmp_path / "captured").touch()
    capture(share=1, bytes=10**6, age_s=3600)(PHOTO)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("captured", 0)]


def test_share_alone_is_enough_as_the_bounds_have_defaults(capture, tmp_path, monkeypatch):
    capture(share=1)
    environment = server_environment(tmp_path, Addresses("", "", ""), Settings.from_environment())
    for name, value in environment.items():
        if name.startswith("SEEFOOD_CAPTURE_"):
            monkeypatch.setenv(name, value)
    keep = Capture()
    for _ in range(2 * PRUNE_EVERY):
        keep(PHOTO)
    assert len(captured_photos(tmp_path / "captured", 100)) == 2 * PRUNE_EVERY


class ProbeContext(OfflineContext):
    def __init__(self, token):
        super().__init__()
        self.token = token

    def get_all_request_header(self, index):
        return {"x-probe": self.token}


def test_worker_keeps_what_it_answered_and_nothing_that_it_refused_or_that_was_no_traffic(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEFOOD_PROBE_TOKEN", "of this start")
    capture(share=1, bytes=10**6, age_s=3600)
    unpacked, photos = stage(ROOT / "model_store" / "starter", "seefood", "1.0.0", tmp_path), [picture_bytes(0), picture_bytes(1)]
    with modules_of_a_worker():
        handler = load_handler(unpacked)
        handler.handle([{"body": body} for body in (photos[0], b"no photo", photos[1], b"")], OfflineContext())
        handler.handle([{"body": picture_bytes(2)}], ProbeContext("of this start"))
    assert captured_photos(tmp_path / "captured", 100) == [strip(photo) for photo in photos]


def test_place_is_not_kept_and_no_other_user_can_read_what_is(capture, tmp_path):
    place = Image.Exif()
    place[0x0112], place[0x8825] = 6, {1: "N", 2: (48.0, 51.0, 30.0)}
    capture(share=1, bytes=10**6, age_s=3600)(picture_bytes(0, exif=place.tobytes()))
    (kept,) = (tmp_path / "captured").iterdir()
    with Image.open(kept) as image:
        assert dict(image.getexif()) == {0x0112: 6}
    assert [path.stat().st_mode & 0o077 for path in (kept, kept.parent)] == [0, 0]


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "JPEG2000", "AVIF", "HEIF"])
def test_photo_that_cannot_be_stripped_is_not_kept(capture, tmp_path, image_format):
    photo = heif_seeds((64, 48))[0] if image_format == "HEIF" else picture_bytes(0, image_format=image_format)
    capture(share=1, bytes=10**6, age_s=3600)(photo)
    assert not list(tmp_path.rglob("*.photo"))
