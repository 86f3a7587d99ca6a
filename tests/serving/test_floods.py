"""A busy server is a ready one: floods of the heaviest photos and of heat maps, and looks at /readyz meanwhile (pytest -s)."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from handler.preprocess import Spec, preprocess
from scripts.archive.build import build
from scripts.settings import Settings, ports_of
from tests.conftest import ROOT, bytes_of, free_port, picture_bytes
from tests.serving.server import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]
FLOOD_S = 30
ALONE_S = 2.0  # for the flat photo, where the machine has nothing else to do (AMD EPYC)


@pytest.fixture(scope="module")
def flat():
    """A few bytes that unpack to 88 megapixels."""
    photo = bytes_of(Image.new("RGB", (9400, 9400)), "WEBP", lossless=True)
    assert len(photo) < 10_000
    return photo


@pytest.fixture(scope="module")
def server(flat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model_store")
    build(ROOT / "model_store" / "starter", "0.2.0", folder)
    started = time.monotonic()
    preprocess(flat, Spec((3, 224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.95, "center"))
    slow = max(1.0, (time.monotonic() - started) / ALONE_S)
    print(f"\nthis machine takes {slow:.1f} times as long as one with nothing else to do")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_STALL_S", str(slow * Settings.stall_s))
        patch.setenv("SEEFOOD_REPAIR_S", str(slow * Settings.repair_s))
        server = Server(folder, free_port()).wait_ready()
    yield server
    server.end()


def look(port, stop):
    """{(status, why): how often} at /readyz, until `stop` is set."""
    seen = Counter()
    while not stop.wait(0.2):
        response = httpx.get(f"http://127.0.0.1:{ports_of(port)['health']}/readyz", timeout=10)
        seen[response.status_code, response.json().get("why", "")] += 1
    return seen


@pytest.mark.parametrize(("clients", "route", "kind"), [(10, "predictions", "flat"), (16, "explanations", "picture")])
def test_flood_leaves_a_healthy_server_ready(server, flat, clients, route, kind):
    photo = flat if kind == "flat" else picture_bytes(1)
    url, stop, end = server.url.replace("predictions", route), threading.Event(), time.monotonic() + FLOOD_S

    def send(_):
        got = Counter()
        while time.monotonic() < end:
            got[httpx.post(url, content=photo, timeout=600).status_code] += 1
        return got

    with ThreadPoolExecutor(clients + 1) as pool:
        looks = pool.submit(look, server.port, stop)
        answers = sum(pool.map(send, range(clients)), Counter())
        stop.set()
    seen = looks.result()
    print(f"\n{clients} clients on /{route} with {kind}: {dict(answers)}; looks at /readyz: {dict(seen)}")
    assert set(seen) == {(200, "")}
