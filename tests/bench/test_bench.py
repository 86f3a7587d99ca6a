"""make bench against small real servers, and the starter."""

import contextlib
import json
import re
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from PIL import Image

from scripts.archive.build import build
from scripts.archive.pack import pack
from scripts.atomic import write_json
from scripts.bench.bench import main, mean_of, measure_ceiling
from scripts.bench.ceiling import measure
from scripts.bench.http_message import Target
from scripts.bench.photos import read_photos
from scripts.bench.report import step_name, table
from scripts.bench.result import Result
from scripts.bench.server import BenchError, own_server, probe
from scripts.command import run
from tests.bench.test_load import BUSY, OK, serving
from tests.conftest import LIMIT_S, ROOT, picture_bytes
from tests.waiting import until


def bench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, arguments)])
    return run(main)


def test_bench_of_any_url_writes_table_json_and_picture(monkeypatch, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(picture_bytes(i))
    arguments = ["--photos", tmp_path / "photos", "--concurrency", 1, 4, "--rate", 50, "--seconds", 0.3]
    with serving(lambda number, request: ((BUSY if number % 10 == 0 else OK), False)) as server:
        status = bench(
            monkeypatch,
            "--url",
            server.url,
            "--route",
            "/predict",
            *arguments,
            "--out",
            tmp_path / "out",
            "--model-store",
            tmp_path,
        )
    output = capsys.readouterr().out
    assert status == 0
    assert re.search(r"^4 connections +[\d.]+ +- .* x 503$", output, re.MULTILINE)
    assert "the first error was 503: busy" in output
    report = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [step.get("concurrency", step.get("rate")) for step in report["steps"]] == [1, 4, 50]
    assert report["photos"] == 3
    assert report["ceiling"] is None
    for step in report["steps"]:
        assert step["p50_ms"] <= step["p99.9_ms"]
        assert step["errors"].get("503", 0) == pytest.approx(step["answers"] / 9, abs=2)
    with Image.open(tmp_path / "out" / "bench.png") as picture:
        assert picture.width > 1000
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.slow
def test_bench_says_what_is_wrong(monkeypatch, tmp_path, capsys):
    photo = tmp_path.parent / f"{tmp_path.name}.jpg"
    photo.write_bytes(picture_bytes())
    with serving(lambda number, request: (BUSY, False)) as server:
        there = ["--url", server.url, "--photos", photo, "--out", tmp_path, "--model-store", tmp_path]
        assert bench(monkeypatch, *there, "--seconds", 0.2, "--model", "flowers") == 1
        assert server.requests[0].startswith(b"POST /predictions/flowers HTTP/1.1")
        assert "answers only errors; the first was 503: busy" in capsys.readouterr().err
        assert bench(monkeypatch, *there) == 1
        assert f"the path of {server.url} is unknown: set ROUTE=/predict, or MODEL=name" in capsys.readouterr().err
    assert bench(monkeypatch, *there, "--route", "/predict") == 1
    assert "does not answer: [Errno 111] Connection refused. Is the server up?" in capsys.readouterr().err
    assert bench(monkeypatch, "--url", "127.0.0.1:8080") == 1
    assert "URL is '127.0.0.1:8080', expected http://host:port" in capsys.readouterr().err
    assert bench(monkeypatch, "--url", "http://127.0.0.1:8080/predict") == 1
    assert "its path goes into ROUTE=" in capsys.readouterr().err
    assert bench(monkeypatch, "--url", "http://127.0.0.1:8080", "--route", "predict") == 1
    assert "ROUTE is 'predict', expected a path such as /predict" in capsys.readouterr().err
    assert bench(monkeypatch, "--photos", tmp_path) == 1
    assert "holds no photo (JPEG, PNG" in capsys.readouterr().err
    assert bench(monkeypatch, "--photos", tmp_path / "none") == 1
    assert "does not exist" in capsys.readouterr().err
    assert bench(monkeypatch, "--model-store", tmp_path) == 1
    assert "no archive" in capsys.readouterr().err
    with pytest.raises(BenchError, match="does not answer"):
        probe(Target.of("http://a..b:1/"))
    assert not list(tmp_path.iterdir())


def test_bench_without_matplotlib_still_writes_its_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "scripts.bench.plot", None)
    with serving(lambda number, request: (OK, False)) as server:
        arguments = [
            "--url",
            server.url,
            "--route",
            "/predict",
            "--concurrency",
            1,
            "--seconds",
            0.1,
            "--out",
            tmp_path / "out",
            "--model-store",
            tmp_path,
        ]
        assert bench(monkeypatch, *arguments) == 0
    assert "no bench.png: matplotlib is not installed (make setup installs it)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]


def test_table_has_the_ratio_to_the_mean_of_the_ceilings():
    low = {"archive": "a.mar", "photos_per_s": 90.0, "latency_ms": 5.0, "batch_size": 8, "format": "openvino", "precision": "f32"}
    ceiling = mean_of([low, {**low, "photos_per_s": 110.0, "latency_ms": 6.0}])
    assert (ceiling["photos_per_s"], ceiling["latency_ms"]) == (100.0, 5.5)
    result = Result("closed", 16, 2.0, [10.0, 20.0], answered=180)
    assert step_name(result) == "16 connections"
    row = table([result], ceiling).splitlines()[-1]
    assert re.match(r"16 connections +90\.0 +0\.90 +10\.0 +20\.0 +20\.0 +20\.0 .*none$", row)


def test_drawn_photos_cost_what_photos_cost_and_are_the_same_each_time():
    drawn = read_photos(None)
    assert drawn[0] == read_photos(None)[0]
    assert len({photo for _, photo in drawn}) == len(drawn)
    # Food-101's JPEGs of 512 px have 0.15 to 0.35 bytes a pixel
    assert all(0.12 * 512 * 512 < len(photo) < 0.4 * 512 * 512 for _, photo in drawn)


def test_photos_are_chosen_and_typed_by_content_whatever_their_names(tmp_path):
    image = Image.new("RGB", (8, 8))
    names = {
        "a": "JPEG",
        "b.jpg": "PNG",
        "sub/c.dat": "WEBP",
        "d.gif": "TIFF",
        "e.JP2": "JPEG2000",
        "f.txt": "AVIF",
        "._g.jpg": "JPEG",
    }
    (tmp_path / "sub").mkdir()
    for name, kind in names.items():
        image.save(tmp_path / name, kind)
    (tmp_path / "notes.jpg").write_text("no photo")
    (tmp_path / "empty.png").touch()
    found = sorted(mime_type for mime_type, _ in read_photos(tmp_path))
    assert found == ["image/avif", "image/jp2", "image/jpeg", "image/png", "image/tiff", "image/webp"]
    assert read_photos(tmp_path / "b.jpg")[0][0] == "image/png"
    with pytest.raises(ValueError, match=r"notes.jpg holds no photo \(JPEG, .*\), only 1 other file"):
        read_photos(tmp_path / "notes.jpg")


def test_ceiling_counts_photos_that_are_read_and_refuses_a_folder_of_broken_ones():
    class Handler:
        def preprocess(self, photos):
            return [ValueError("broken") if photo == b"bad" else photo for photo in photos]

        def inference(self, crops):
            time.sleep(0.01)

    measured = measure(Handler(), [b"good", b"bad"], 8, 0.6)
    assert 200 < measured["photos_per_s"] <= 400  # 4 of 8 in 10 ms
    assert 9 < measured["latency_ms"] < 30
    with pytest.raises(ValueError, match="none of the photos can be read"):
        measure(Handler(), [b"bad"], 8, 0.1)


def test_archive_that_does_not_start_gives_no_ceiling_but_its_reason(tmp_path):
    (tmp_path / "parts").mkdir()
    write_json(tmp_path / "parts" / "provenance.json", {"parts": {}})
    pack(tmp_path / "parts", tmp_path / "seefood-1.0.0.mar")
    with pytest.raises(BenchError, match=r"no ceiling: seefood-1.0.0.mar fails in process: \[Errno 2\] No such file"):
        measure_ceiling(tmp_path / "seefood-1.0.0.mar", None, 0.1)


@pytest.fixture
def starter(tmp_path):
    return build(ROOT / "model_store/starter", "0.5.0", tmp_path / "model_store")


@pytest.mark.slow
@pytest.mark.server
def test_our_server_is_ready_with_json_logs_and_serves_that_archive_whatever_is_released(starter, monkeypatch):
    """Readiness was once taken from a word that JSON logs do not have, and the bench waited for ever."""
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    (starter.parent / "release.json").write_text("not a release document")
    with own_server(starter) as url:
        answer = httpx.post(f"{url}/predictions/seefood", content=picture_bytes(), timeout=LIMIT_S).json()
        port = int(url.rpartition(":")[2])
    assert answer["version"] == "0.5.0"
    assert not (ROOT / "build" / f"serve-{port}").exists()
    with pytest.raises(BenchError, match="does not answer"):
        probe(Target.of(url))


def test_our_server_that_ends_before_it_is_ready_gives_its_reason(tmp_path, monkeypatch):
    archive = tmp_path / "seefood-1.0.0.mar"  # which is not there
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    with pytest.raises(BenchError, match=r"our server did not start:\n(.*\n)*.*no archive"), own_server(archive):
        pass


def test_our_server_that_does_not_get_ready_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", stub_server(tmp_path))
    monkeypatch.setattr("scripts.bench.server.READY_TIMEOUT_S", 1.0)
    with (
        pytest.raises(BenchError, match=r"our server is not ready after 1 s:\nstarting"),
        own_server(tmp_path / "seefood-1.0.0.mar"),
    ):
        pass
    assert (tmp_path / "ended").exists()


def stub_server(folder):
    """A program in place of Python that never gets ready, and notes that it was ended."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\ntrap 'touch {folder}/ended; exit' TERM\necho starting\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.slow
@pytest.mark.server
def test_make_bench_of_our_own_server_leaves_nothing_behind(tmp_path):
    command = ["make", "bench", "SECONDS=1", "CONCURRENCY=1 8", f"OUT={tmp_path}"]
    making, ports = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), set()

    def has_ended():
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(making.pid).children(recursive=True):
                ports.update(re.findall(r"scripts\.serving\.serve --port (\d+)", " ".join(process.cmdline())))
        return making.poll() is not None

    until(has_ended)
    output = making.communicate()[0]
    assert making.returncode == 0, output
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["ceiling"]["photos_per_s"] > 5
    assert f"{report['cpu']}, {report['ceiling']['format']} {report['ceiling']['precision']}" in output
    for step in report["steps"]:
        assert not step["errors"]
        assert 0.1 < step["of_ceiling"] < 3
    (port,) = ports
    assert not (ROOT / "build" / f"serve-{port}").exists()
