"""Drift of a real server: photos by HTTP, /metrics, the status document, and restarts of what answers them."""

import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from PIL import Image, ImageEnhance
from prometheus_client.parser import text_string_to_metric_families

from scripts.command import run
from scripts.monitoring import drift as command
from tests.conftest import LIMIT_S
from tests.drift.test_real_photos import DATA, unseen_photos
from tests.serving.server import serving_starter
from tests.waiting import until

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "food10").is_dir(), reason="needs the real photos"),
]


def darkened(content):
    buffer = io.BytesIO()
    ImageEnhance.Brightness(Image.open(io.BytesIO(content)).convert("RGB")).enhance(0.4).save(buffer, "JPEG")
    return buffer.getvalue()


def send(server, contents):
    with httpx.Client(timeout=LIMIT_S) as client, ThreadPoolExecutor(4) as pool:
        assert {answer.status_code for answer in pool.map(lambda photo: client.post(server.url, content=photo), contents)} == {200}


def shown(server, name):
    text = httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics", timeout=LIMIT_S).text
    samples = [sample for family in text_string_to_metric_families(text) if family.name == name for sample in family.samples]
    return {(one.labels.get("signal"), one.labels["window"]): one.value for one in samples}


def settled(server, name):
    """As shown(), once all that was sent is in it: a worker keeps signals after it has answered."""
    found, before = shown(server, name), {}
    while found != before:
        time.sleep(0.5)
        found, before = shown(server, name), found
    return found


def test_darkened_photos_are_seen_and_the_last_answers_survive_restarts(tmp_path, monkeypatch, capsys):
    contents = [photo.path.read_bytes() for photo in unseen_photos()[:200]]
    with serving_starter(tmp_path) as server:
        assert shown(server, "seefood_drift") == {}  # golden photos are none of clients'
        send(server, contents)
        until(lambda: shown(server, "seefood_drift"))
        ordinary = shown(server, "seefood_drift")
        assert max(ordinary.values()) < 4, ordinary
        assert 0.6 < shown(server, "seefood_estimated_accuracy")[None, "500"] < 1
        send(server, [darkened(content) for content in contents[:150]])
        until(lambda: shown(server, "seefood_drift")["brightness", "500"] > 4)
        before = settled(server, "seefood_drift")
        monkeypatch.setattr(
            sys, "argv", ["drift", "--release", str(tmp_path / "release.json"), "--out", str(tmp_path / "drift.html")]
        )
        until(lambda: "drift" in figures(tmp_path) and run(command.main) == command.DRIFTED)
        assert "brightness" in capsys.readouterr().out
        for part in ("worker", "JVM"):
            ended = server.parts(part)
            ended[0].kill()
            psutil.wait_procs(ended[:1], timeout=LIMIT_S)
            server.wait_ready()
            until(lambda: shown(server, "seefood_drift") == before)


def figures(folder):
    """What the only instance reports of the starter."""
    (status,) = (folder / "release.status").glob("*.json")
    return json.loads(status.read_text())["figures"].get("0.5.0", {})
