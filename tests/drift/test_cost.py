"""What drift costs a worker and a scrape: the figures in scripts/monitoring/README.md, by `pytest -s tests/drift/test_cost.py`."""

import time

import numpy as np
import psutil
import pytest

from handler.recent import ROWS, Recent
from handler.signals import COLUMNS, PROFILE
from scripts.archive.build import build
from scripts.archive.read import load_handler, unpack
from scripts.serving.drift import FOLDER, measured, start_anew
from tests.conftest import ROOT
from tests.offline_context import OfflineContext

STARTER = ROOT / "model_store" / "starter"
ROUNDS, BATCHES, BATCH = 12, 3, 8

pytestmark = pytest.mark.slow


def cpu_so_far():
    """Seconds of this process and of those that decode for it."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def cpu_s(handler, requests):
    """Of a photo, decoding and all."""
    began = cpu_so_far()
    for _ in range(BATCHES):
        handler.handle([dict(request) for request in requests], OfflineContext())
    return (cpu_so_far() - began) / (BATCHES * len(requests))


def test_recording_costs_less_than_a_hundredth_of_a_photo_and_a_scrape_little(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEFOOD_DRIFT_DIR", str(tmp_path / FOLDER))
    start_anew(tmp_path)
    unpack(build(STARTER, "0.2.0", tmp_path), tmp_path / "archive")
    handler = load_handler(tmp_path / "archive")
    recent, requests = handler.recent, [{"body": (STARTER / "bibimbap.jpg").read_bytes()}] * BATCH
    spent, watched, watch = {True: [], False: []}, [], handler._watch

    def timed(*arguments):
        began = time.thread_time()
        watch(*arguments)
        watched.append(((time.thread_time() - began) / BATCH, handler.recent is not None))

    handler._watch = timed
    for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine meets both
        for recording in spent:
            handler.recent = recent if recording else None
            spent[recording].append(cpu_s(handler, requests))
    # the least of them: what other programs do to the caches and to a shared core only ever adds
    of_watching = min(one for one, recorded in watched if recorded)
    with_it, without = (min(spent[recording]) for recording in (True, False))
    rows = np.random.default_rng(0).normal(size=(ROWS, len(COLUMNS))).astype(np.float32)
    rows[:, 0] = 3
    recent.add(rows)
    Recent.open("0.2.0", STARTER / PROFILE).add(rows)
    scrapes = []
    for _ in range(5):
        began = time.process_time()
        assert measured(tmp_path / FOLDER)
        scrapes.append(time.process_time() - began)
    scrape_s = min(scrapes)
    print(f"\nCPU a photo: {without * 1e3:.2f} ms without recording, {with_it * 1e3:.2f} ms with it")
    print(f"the recording alone {of_watching * 1e6:.0f} us a photo; a scrape of two full files {scrape_s * 1e3:.0f} ms")
    assert of_watching < without / 100
    assert scrape_s < 0.5
