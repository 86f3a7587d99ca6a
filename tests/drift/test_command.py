"""`make drift`: what instances report, and a folder of photos; exit status and page."""

import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from handler.errors import PhotoError
from handler.signals import COLUMNS
from scripts.archive.build import build
from scripts.command import run
from scripts.drift.statistics import compare, estimated_accuracy
from scripts.monitoring import drift as command
from scripts.monitoring.measured_photos import measure
from scripts.release.address import open_store
from scripts.settings import Settings
from tests.conftest import ROOT, modules_of_a_worker
from tests.drift.test_real_photos import DATA, unseen_photos
from tests.drift.test_statistics import profile_of, rows_of
from tests.ecs.scripted_aws import moto_server, outside


def asked(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["drift", *map(str, arguments)])
    return run(command.main)


def status(name, shift):
    """What an instance reports whose photos are brighter by `shift`."""
    rng = np.random.default_rng(0)
    profile, rows = profile_of(rows_of(rng, 300)), rows_of(rng, 500)
    rows[:, COLUMNS.index("brightness")] += shift
    signals = {signal: one._asdict() for signal, one in compare(profile, rows).items()}
    of_window = {"500": {"signals": signals, "estimated_accuracy": estimated_accuracy(profile, rows)}}
    figures = {"1.0.0": {"outcomes": {}, "seconds": {}, "drift": of_window}}
    return reported(name) | {"figures": figures}


def reported(name):
    """What an instance reports that has answered nothing."""
    of_release = {"state": "serving", "why": "", "release": "", "default": "1.0.0", "versions": ["1.0.0"], "ready": True}
    counts = {"shadow": None, "figures": {}, "worker_restarts": {}}
    return {"instance": name, "since": time.time(), **of_release, **counts}


@pytest.fixture(params=["file", "s3"])
def release(request, tmp_path):
    if request.param == "file":
        yield str(tmp_path / "release.json")
        return
    with moto_server("us-east-1"):
        outside("s3").create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield "s3://models/release.json"


def test_reports_of_instances_become_a_table_a_page_and_an_exit_status(release, tmp_path, monkeypatch, capsys):
    store, out = open_store(release, Settings()), tmp_path / "page" / "drift.html"
    assert asked(monkeypatch, "--release", release) == 1
    assert f"error: no running instance follows {release}" in capsys.readouterr().err
    store.write_status("calm", status("calm", 0))
    assert asked(monkeypatch, "--release", release, "--out", out) == 0
    assert "No signal has drifted" in out.read_text()
    store.write_status("<i>odd", status("<i>odd", 1))
    assert asked(monkeypatch, "--release", release, "--out", out) == 3
    table, page = capsys.readouterr().out, out.read_text()
    assert "<i>odd  1.0.0  last 500  estimated accuracy" in table
    assert [line.split()[0] for line in table.splitlines() if line.endswith("  drift")] == ["brightness"]
    assert "Drift in 1 of 2 windows" in page
    assert "&lt;i&gt;odd" in page
    assert "<i>odd" not in page
    assert page.count("<svg") == 2 * (len(COLUMNS))
    assert "http" not in page.replace("http-equiv", "")


def test_too_few_photos_and_instances_without_figures_are_said(tmp_path, monkeypatch, capsys):
    release = tmp_path / "release.json"
    open_store(str(release), Settings()).write_status("new", reported("new"))
    assert asked(monkeypatch, "--release", release) == 0
    assert "no version has answered 100 photos yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\x9bb\u202ec"])
def test_names_of_a_stranger_reach_the_terminal_and_the_page_without_control_characters(name, tmp_path, monkeypatch, capsys):
    document = status("x", 1) | {"instance": name}
    store, out = open_store(str(tmp_path / "release.json"), Settings()), tmp_path / "drift.html"
    store.write_status("x", document)
    assert asked(monkeypatch, "--release", tmp_path / "release.json", "--out", out) == 3
    printed = capsys.readouterr().out.replace("\n", "")
    assert printed.isprintable()
    assert out.read_text(encoding="utf-8").replace("\n", "").isprintable()


def damaged(found, how):
    """The drift of one window as another program may have written it."""
    one = found["500"]["signals"]["brightness"]
    changes = {
        "a list": list,
        "a word": lambda: "none",
        "no number of a window": lambda: {"many": found["500"]},
        "no signals": lambda: {"500": {"estimated_accuracy": 0.5}},
        "a field more": lambda: {"500": found["500"] | {"signals": {"brightness": one | {"p": 1}}}},
        "a field less": lambda: {"500": found["500"] | {"signals": {"brightness": {"value": 1.0}}}},
        "no number": lambda: {"500": found["500"] | {"signals": {"brightness": one | {"value": float("nan")}}}},
        "a text": lambda: {"500": found["500"] | {"signals": {"brightness": one | {"value": "5"}}}},
        "too few counts": lambda: {"500": found["500"] | {"signals": {"brightness": one | {"found": [1]}}}},
        "no accuracy": lambda: {"500": found["500"] | {"estimated_accuracy": None}},
    }
    return changes[how]() if how else list(changes)


@pytest.mark.parametrize("how", damaged({"500": {"signals": {"brightness": {}}}}, ""))
def test_strangers_status_document_is_an_error_that_names_it(how, tmp_path, monkeypatch, capsys):
    store = open_store(str(tmp_path / "release.json"), Settings())
    store.write_status("good", status("good", 0))
    document = status("odd", 0)
    document["figures"]["1.0.0"]["drift"] = damaged(document["figures"]["1.0.0"]["drift"], how)
    store.write_status("odd", document)
    assert asked(monkeypatch, "--release", tmp_path / "release.json", "--out", tmp_path / "drift.html") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the status document of odd has no drift that can be read of version 1.0.0")
    assert "Traceback" not in error


class Outcome:
    """A photo that was decoded."""

    crop, size = np.zeros((8, 8, 3), np.uint8), (8, 8)


class Decoders:
    """Outcomes by a photo's first byte; a busy one is read when it comes alone."""

    def decode(self, photos):
        def one(photo):
            if photo[:1] == b"b" and len(photos) > 1:
                return PhotoError("busy", 503)
            statuses = {b"x": 422, b"l": 413, b"n": 415, b"h": 503}
            return PhotoError("refused", statuses[photo[:1]]) if photo[:1] in statuses else Outcome()

        return [one(photo) for photo in photos], 0.0


class Handler:
    """As much of an archive's as measure() asks for."""

    decoders = Decoders()
    profile = type("Profile", (), {"measure": staticmethod(lambda crops, *_: np.zeros((len(crops), len(COLUMNS)), np.float32))})

    def inference(self, crops):
        return len(crops)


def folder_of(folder, **counts):
    folder.mkdir()
    for kind, count in counts.items():
        for number in range(count):
            (folder / f"{kind}{number}").write_bytes(kind.encode())
    return folder


def test_photos_that_are_refused_are_counted_and_busy_ones_are_asked_again_alone(tmp_path):
    rows, others = measure(Handler(), folder_of(tmp_path / "photos", good=120, busy=30, x=4, large=3, hopeless=2, notes=500))
    assert len(rows) == 150
    assert others == {
        "no photo, or of a format that is not read": 500,
        "broken": 4,
        "over a limit": 3,
        "too costly to decode in time": 2,
    }
    (tmp_path / "photos" / "gone").symlink_to(tmp_path / "nowhere")
    assert measure(Handler(), tmp_path / "photos")[1]["link that leads nowhere"] == 1


@pytest.mark.parametrize("kind", ["x", "large", "hopeless"])
def test_photos_of_which_many_are_refused_are_an_error(kind, tmp_path):
    with pytest.raises(ValueError, match=r"40 of 240 photos in .* cannot be measured \(40 .*\), at most 10% may be"):
        measure(Handler(), folder_of(tmp_path / "photos", good=200, **{kind: 40}))


def test_folder_of_too_few_photos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds 99 photos to measure \(7 no photo, .*\), at least 100 are needed"):
        measure(Handler(), folder_of(tmp_path / "photos", good=99, notes=7))


def test_of_captured_photos_those_that_another_model_answered_are_left_out(tmp_path):
    folder = folder_of(tmp_path / "captured", good=0)
    for number in range(150):
        (folder / f"{number}-ab.photo").write_bytes(b"good")
        (folder / f"{number}-ab.json").write_bytes(b'{"model": "%s"}' % (b"flowers" if number < 40 else b"food"))
    rows, others = measure(type("OfNotes", (Handler,), {"decoders": NoJson()})(), folder, "food")
    assert (len(rows), others["answered by flowers"]) == (110, 40)


class NoJson(Decoders):
    """Answers are no photos."""

    def decode(self, photos):
        outcomes, cpu_s = super().decode(photos)
        return [
            PhotoError("no photo", 415) if photo[:1] == b"{" else one for photo, one in zip(photos, outcomes, strict=True)
        ], cpu_s


@pytest.mark.slow
def test_folder_of_photos_is_measured_by_the_archive_and_darkened_ones_have_drifted(tmp_path, monkeypatch, capsys):
    if not (DATA / "food10").is_dir():
        pytest.skip("needs the real photos")
    photos = [photo.path for photo in unseen_photos()[:200]]
    for kind in ("ordinary", "darkened"):
        (tmp_path / kind).mkdir()
    for number, path in enumerate(photos):
        shutil.copy(path, tmp_path / "ordinary" / f"{number}.jpg")
        ImageEnhance.Brightness(Image.open(path).convert("RGB")).enhance(0.5).save(tmp_path / "darkened" / f"{number}.jpg")
    (tmp_path / "ordinary" / "broken.jpg").write_bytes(photos[0].read_bytes()[:300])
    (tmp_path / "ordinary" / "notes.txt").write_bytes(b"no photo")
    build(ROOT / "model_store" / "starter", "0.5.0", tmp_path)
    out = tmp_path / "drift.html"
    with modules_of_a_worker():
        for kind, expected in (("ordinary", 0), ("darkened", 3)):
            assert asked(monkeypatch, "--photos", tmp_path / kind, "--model-store", tmp_path, "--out", out) == expected
    table = capsys.readouterr().out
    assert table.count("not measured: 1 broken, 1 no photo, or of a format that is not read") == 1
    assert "last 200  estimated accuracy" in table
    assert "darkened  0.5.0" in table
    assert "bibimbap" in out.read_text()
