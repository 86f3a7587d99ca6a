"""`make drift`: what instances report, and a folder of photos; exit status and page."""

import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from handler.signals import COLUMNS
from scripts.archive.build import build
from scripts.command import run
from scripts.drift.statistics import compare, estimated_accuracy
from scripts.monitoring import drift as command
from scripts.release.address import open_store
from scripts.settings import Settings
from tests.conftest import ROOT
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
    (tmp_path / "photos").mkdir()
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / "seefood-0.2.0.mar").touch()
    assert asked(monkeypatch, "--photos", tmp_path / "photos", "--model-store", tmp_path / "model_store") == 1
    assert "holds 0 photos, at least 100 are needed" in capsys.readouterr().err


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
    (tmp_path / "ordinary" / "broken.jpg").write_bytes(b"no photo")
    build(ROOT / "model_store" / "starter", "0.2.0", tmp_path)
    out = tmp_path / "drift.html"
    for kind, expected in (("ordinary", 0), ("darkened", 3)):
        assert asked(monkeypatch, "--photos", tmp_path / kind, "--model-store", tmp_path, "--out", out) == expected
    table = capsys.readouterr().out
    assert "last 200  estimated accuracy" in table
    assert "darkened  0.2.0" in table
    assert "bibimbap" in out.read_text()
