"""The sample of answered photos that an instance keeps, each with its answer, and with what people made of it."""

import itertools
import json
import os
import random
import shutil
import time

import pytest
from PIL import Image

from handler.capture import PRUNE_EVERY, Capture
from handler.captured import ANSWER, FEEDBACK, LEFT_S, PHOTO, answer_of, captured_photos, prune
from handler.strip import strip
from scripts.archive.build import stage
from scripts.archive.read import load_handler
from scripts.backend.torchserve.environment import server_environment
from scripts.backend.torchserve.sockets import Addresses
from scripts.settings import Settings
from tests.conftest import ROOT, bytes_of, modules_of_a_worker, picture_bytes
from tests.heif_files import seeds as heif_seeds
from tests.offline_context import OfflineContext


@pytest.fixture
def capture(tmp_path, monkeypatch):
    """capture(share=1, bytes=..., age_s=...): keeps photos as a Capture with these settings does, in tmp_path/captured.

    None of the settings is set before. Each photo has an id of its own, unless one is given.
    """
    for name in [name for name in os.environ if name.startswith("SEEFOOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEEFOOD_CAPTURE_DIR", str(tmp_path / "captured"))

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name.upper()}", str(value))
        keep, ids = Capture(), (f"request-{number}" for number in itertools.count())
        return lambda photo, request_id="", answer=GIVEN: keep(photo, request_id or next(ids), answer)

    return make


GIVEN = {"predictions": [{"label": "ramen", "index": 1, "probability": 0.9}], "sure": True, "model": "seefood", "version": "1.0.0"}
DISH = picture_bytes(0, (16, 12), "PNG")


def kept_in(folder, ending=PHOTO):
    """The files with this ending, oldest first."""
    return sorted(folder.rglob(f"*{ending}"), key=lambda path: path.name)


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def photos_of(count):
    """Different photos that stripping leaves as they are."""
    return [bytes_of(Image.new("L", (4, 4), i), "PNG", compress_level=0) for i in range(count)]


def last(folder, count):
    """The last so many captured photos, oldest first."""
    return list(captured_photos(folder))[:count][::-1]


def test_nothing_is_kept_unless_it_is_asked_for(capture, tmp_path):
    keep = capture()
    for _ in range(100):
        keep(DISH)
    assert not list(tmp_path.iterdir())


def test_share_is_kept(capture, tmp_path):
    random.seed(0)
    keep = capture(share=0.25, bytes=10**6, age_s=3600)
    for _ in range(400):
        keep(DISH)
    assert 70 < len(kept_in(tmp_path / "captured")) == len(kept_in(tmp_path / "captured", ANSWER)) < 130


def test_photos_come_back_the_newest_last(capture, tmp_path):
    keep, photos = capture(share=1, bytes=10**6, age_s=3600), photos_of(12)
    for photo in photos:
        keep(photo)
    assert last(tmp_path / "captured", 100) == [strip(photo) for photo in photos]
    assert last(tmp_path / "captured", 3) == photos[-3:]
    assert last(tmp_path / "nothing", 3) == []


def test_oldest_make_room_for_the_newest(capture, tmp_path):
    photos = photos_of(3 * PRUNE_EVERY)
    keep = capture(share=1, bytes=10**6, age_s=3600)
    for photo in photos:
        keep(photo)
    folder = tmp_path / "captured"
    prune(folder, 10 * size_of(folder) // len(photos) + 100, 3600)
    assert last(folder, 100) == photos[-10:]
    assert [path.stem for path in kept_in(folder)] == [path.stem for path in kept_in(folder, ANSWER)]


def test_photo_that_is_removed_as_too_large_leaves_its_room_to_others(capture, tmp_path):
    photos, folder, keep = photos_of(3), tmp_path / "captured", capture(share=1, bytes=10**6, age_s=3600)
    for photo in photos:
        keep(photo)
    limit = size_of(folder)
    large = kept_in(folder)[-1]
    large.write_bytes(bytes(2 * limit))
    prune(folder, limit, 3600)
    assert last(folder, 9) == photos[:2]


def test_worker_prunes_as_it_keeps(capture, tmp_path):
    keep, photos = capture(share=1, bytes=5000, age_s=3600), photos_of(3 * PRUNE_EVERY)
    for photo in photos:
        keep(photo)
    assert 0 < size_of(tmp_path / "captured") <= 5000
    assert last(tmp_path / "captured", 1) == photos[-1:]


def size_of(folder):
    return sum(path.stat().st_size for path in files_in(folder))


def with_feedback(photo):
    photo.with_suffix(FEEDBACK).write_text("{}")
    return photo


def test_photos_with_feedback_go_last_and_within_the_same_bounds(capture, tmp_path):
    folder, keep = tmp_path / "captured", capture(share=1, bytes=10**6, age_s=3600)
    for photo in photos_of(6):
        keep(photo)
    one = size_of(folder) // 6 + 10
    first, second, *_, last = kept_in(folder)
    with_feedback(first), with_feedback(second)
    prune(folder, 3 * one, 3600)
    assert kept_in(folder) == [first, second, last]
    prune(folder, one, 3600)
    assert files_in(folder) == {second.with_suffix(end) for end in (PHOTO, ANSWER, FEEDBACK)}
    os.utime(second, (time.time() - 3601,) * 2)
    prune(folder, 10**6, 3600)
    assert not files_in(folder)


def test_what_earlier_versions_and_killed_processes_left_goes_and_files_of_others_stay(capture, tmp_path):
    folder, keep = tmp_path / "captured", capture(share=1, bytes=10**6, age_s=3600)
    keep(DISH)
    (of_today,) = kept_in(folder)
    earlier = folder / "1700000000000000000-4711.photo"
    earlier.write_bytes(DISH)
    left = [of_today.parent / f"1700000000000000001-ab{end}" for end in (".part", ANSWER, FEEDBACK, ".feedback.7-ab12.part")]
    others = [folder / name for name in ("README.txt", "1.json", ".nfs0001")]
    for path in (*left, *others):
        path.touch()
    assert last(folder, 5) == [DISH, strip(DISH)]
    prune(folder, 10**6, 3600)
    assert all(path.exists() for path in left), "they may be on their way"
    for path in (*left, *others):
        os.utime(path, (time.time() - LEFT_S - 1,) * 2)
    prune(folder, 10**6, 3600)
    assert files_in(folder) == {of_today, of_today.with_suffix(ANSWER), earlier, *others}


@pytest.mark.parametrize("request_id", ["a", "../../etc/passwd", "a/1", "\0", "*", "." * 128, "%2e", "é\ud800", "A"])
def test_answer_is_found_by_its_id_whatever_its_characters_and_the_last_one_is_meant(capture, tmp_path, request_id):
    folder, keep = tmp_path / "captured", capture(share=1, bytes=10**6, age_s=3600)
    for version in ("1.0.0", "1.1.0"):
        assert keep(DISH, request_id, GIVEN | {"version": version})
        keep(DISH)
    found = answer_of(folder, request_id)
    assert found.parent.parent == folder
    kept = json.loads(found.read_text())
    assert kept == GIVEN | {"version": "1.1.0", "id": request_id, "at": kept["at"]}
    assert found.with_suffix(PHOTO).read_bytes() == strip(DISH)
    assert len(kept_in(folder)) == 4
    assert answer_of(folder, request_id + "x") is None
    assert answer_of(tmp_path / "nothing", request_id) is None


def test_photos_that_are_too_old_go(capture, tmp_path):
    keep = capture(share=1, bytes=10**6, age_s=60)
    for _ in range(4):
        keep(DISH)
    paths = kept_in(tmp_path / "captured")
    for path, age_s in zip(paths, (120, 61, 59, 0), strict=True):
        os.utime(path, (time.time() - age_s,) * 2)
    prune(tmp_path / "captured", 10**6, 60)
    assert kept_in(tmp_path / "captured") == paths[2:]
    assert len(kept_in(tmp_path / "captured", ANSWER)) == 2


def test_full_disk_keeps_no_half_photo_and_ends_nothing(capture, mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "captured", "512k")
    keep, large = capture(share=1, bytes=10**9, age_s=3600), bytes_of(Image.effect_noise((440, 440), 99), "PNG", compress_level=0)
    assert [keep(large) for _ in range(PRUNE_EVERY + 5)] == [True, True] + [False] * (PRUNE_EVERY + 3)
    assert [path.stat().st_size for path in kept_in(disk)] == [len(large)] * 2
    assert len(files_in(disk)) == 4


def test_photo_for_whose_answer_there_is_no_room_is_not_kept(capture, mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "captured", "64k")
    assert not capture(share=1, bytes=10**9, age_s=3600)(DISH, answer={"labels": ["a label"] * 10_000})
    assert not files_in(disk)


@pytest.mark.parametrize("gone", ["folder", ("a file in its place")])
def test_folder_that_cannot_be_written_any_more_harms_nothing(capture, tmp_path, gone):
    keep = capture(share=1, bytes=10**6, age_s=3600)
    keep(DISH)
    shutil.rmtree(tmp_path / "captured")
    if gone == "a file in its place":
        (tmp_path / "captured").touch()
    for _ in range(PRUNE_EVERY):
        keep(DISH)
    assert not list(tmp_path.rglob("*.part"))


def test_folder_that_cannot_be_made_does_not_keep_a_worker_from_starting(capture, tmp_path):
    (tmp_path / "captured").touch()
    capture(share=1, bytes=10**6, age_s=3600)(DISH)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("captured", 0)]


def test_share_alone_is_enough_as_the_bounds_have_defaults(capture, tmp_path, monkeypatch):
    capture(share=1)
    environment = server_environment(tmp_path, Addresses("", "", ""), Settings.from_environment())
    for name, value in environment.items():
        if name.startswith("SEEFOOD_CAPTURE_"):
            monkeypatch.setenv(name, value)
    keep = Capture()
    for number in range(2 * PRUNE_EVERY):
        keep(DISH, str(number), GIVEN)
    assert len(last(tmp_path / "captured", 100)) == 2 * PRUNE_EVERY


class Context(OfflineContext):
    """A batch's headers, and those of its answers: (number, name, value)."""

    def __init__(self, *headers):
        super().__init__()
        self.headers, self.answered = headers, []

    def get_all_request_header(self, index):
        return self.headers[index]

    def set_response_header(self, index, key, value):
        self.answered.append((index, key, value))


def test_worker_keeps_what_it_answered_and_nothing_that_it_refused_or_that_was_no_traffic(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEFOOD_PROBE_TOKEN", "of this start")
    capture(share=1, bytes=10**6, age_s=3600)
    unpacked, photos = stage(ROOT / "model_store" / "starter", "seefood", "1.0.0", tmp_path), [picture_bytes(0), picture_bytes(1)]
    context, probe = Context(*({"X-Request-Id": f"id/{number}"} for number in range(4))), Context({"x-probe": "of this start"})
    with modules_of_a_worker():
        handler = load_handler(unpacked)
        bodies = handler.handle([{"body": body} for body in (photos[0], b"no photo", photos[1], b"")], context)
        handler.handle([{"body": picture_bytes(2)}], probe)
    assert last(tmp_path / "captured", 100) == [strip(photo) for photo in photos]
    for number, photo in ((0, photos[0]), (2, photos[1])):
        found = answer_of(tmp_path / "captured", f"id/{number}")
        kept = json.loads(found.read_text())
        assert found.with_suffix(PHOTO).read_bytes() == strip(photo)
        assert {name: kept[name] for name in GIVEN} == json.loads(bodies[number])
        assert kept["labels"] == handler.labels
    marked = [index for index, name, _ in (*context.answered, *probe.answered) if name == "seefood-captured"]
    assert marked == [0, 2]


def test_place_is_not_kept_and_no_other_user_can_read_what_is(capture, tmp_path):
    place = Image.Exif()
    place[0x0112], place[0x8825] = 6, {1: "N", 2: (48.0, 51.0, 30.0)}
    capture(share=1, bytes=10**6, age_s=3600)(picture_bytes(0, exif=place.tobytes()))
    (kept,) = kept_in(tmp_path / "captured")
    with Image.open(kept) as image:
        assert dict(image.getexif()) == {0x0112: 6}
    assert [path.stat().st_mode & 0o077 for path in (kept, kept.with_suffix(ANSWER), kept.parent, tmp_path / "captured")] == [0] * 4


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "JPEG2000", "AVIF", "HEIF"])
def test_photo_that_cannot_be_stripped_is_not_kept(capture, tmp_path, image_format):
    photo = heif_seeds((64, 48))[0] if image_format == "HEIF" else picture_bytes(0, image_format=image_format)
    assert not capture(share=1, bytes=10**6, age_s=3600)(photo)
    assert not list(tmp_path.rglob("*.*"))
