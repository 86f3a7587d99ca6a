"""What drift costs a worker and a scrape: the figures in scripts/monitoring/README.md, by `pytest -s tests/drift/test_cost.py`."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from handler.recent import ROWS, Recent
from handler.signals import COLUMNS, PROFILE
from scripts.archive.build import build
from scripts.archive.read import load_handler, unpack
from scripts.serving.drift import FOLDER, measured, start_anew
from tests.conftest import LIMIT_S, ROOT, modules_of_a_worker
from tests.offline_context import OfflineContext
from tests.serving.server import serving_starter

STARTER = ROOT / "model_store" / "starter"
ROUNDS, BATCH = 60, 8
CLIENTS, PHOTOS = 8, 600

pytestmark = [pytest.mark.slow, pytest.mark.server]


def served_s(folder):
    """CPU that a photo takes of all processes of a server that many clients keep busy."""
    photo = (STARTER / "bibimbap.jpg").read_bytes()
    with serving_starter(folder) as server, ThreadPoolExecutor(CLIENTS) as clients, httpx.Client(timeout=LIMIT_S) as client:

        def cpu_so_far():
            times = [process.cpu_times() for process in (psutil.Process(server.process.pid), *server.family())]
            return sum(one.user + one.system for one in times)

        def ask(_):
            client.post(server.url, content=photo).raise_for_status()

        list(clients.map(ask, range(PHOTOS)))  # warm
        began = cpu_so_far()
        list(clients.map(ask, range(PHOTOS)))
        return (cpu_so_far() - began) / PHOTOS


@pytest.fixture
def _modules():
    with modules_of_a_worker():
        yield


@pytest.mark.usefixtures("_modules")
def test_recording_costs_less_than_a_fiftieth_of_what_a_photo_costs_a_server_and_a_scrape_little(tmp_path, monkeypatch):
    photo_s = served_s(tmp_path / "served")
    monkeypatch.setenv("SEEFOOD_DRIFT_DIR", str(tmp_path / FOLDER))
    start_anew(tmp_path)
    unpack(build(STARTER, "0.5.0", tmp_path), tmp_path / "archive")
    handler = load_handler(tmp_path / "archive")
    recent, requests = handler.watch._recent, [{"body": (STARTER / "bibimbap.jpg").read_bytes()}] * BATCH
    watched, keep = [], handler.watch._keep

    def timed(*arguments):
        began = time.thread_time()
        keep(*arguments)
        watched.append((time.thread_time() - began) / BATCH)

    handler.watch._keep = timed
    for _ in range(ROUNDS):
        handler.handle([dict(request) for request in requests], OfflineContext())
    handler.watch.finish()
    of_watching = min(watched)  # what other programs do to the caches and to a shared core only ever adds
    rows = np.random.default_rng(0).normal(size=(ROWS, len(COLUMNS))).astype(np.float32)
    rows[:, 0] = 3
    recent.add(rows)
    Recent.open("0.5.0", STARTER / PROFILE).add(rows)
    scrapes = []
    for _ in range(5):
        began = time.process_time()
        assert measured(tmp_path / FOLDER)
        scrapes.append(time.process_time() - began)
    scrape_s = min(scrapes)
    print(f"\nCPU a photo, of all processes of a server: {photo_s * 1e3:.1f} ms, of which {of_watching * 1e6:.0f} us for drift")
    print(f"a scrape of two full files {scrape_s * 1e3:.0f} ms")
    assert of_watching < photo_s / 50
    assert scrape_s < 0.5
