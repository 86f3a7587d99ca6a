"""Half an hour of ordinary photos raises no alert: a real Prometheus with the shipped rules, a real server, real photos.

`pytest -s tests/monitoring/test_ordinary.py` prints what was seen; ORDINARY_MINUTES=5 takes less. The photos are neither in the
starter's training set nor in its reference, two of them a second.
"""

import itertools
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scripts.drift.statistics import THRESHOLD
from tests.conftest import LIMIT_S
from tests.drift.test_real_photos import DATA, unseen_photos
from tests.monitoring.live import needs_prometheus, prometheus
from tests.serving.server import serving_starter

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    needs_prometheus,
    pytest.mark.skipif(not (DATA / "food10").is_dir(), reason="needs the real photos"),
]

MINUTES = float(os.environ.get("ORDINARY_MINUTES", "30"))
EVERY_S = 0.5


def photos_for_ever():
    """The photos in an order of their own each time round."""
    contents, rng = [photo.path.read_bytes() for photo in unseen_photos()], random.Random(0)
    while True:
        yield from rng.sample(contents, len(contents))


def test_ordinary_load_raises_no_alert(tmp_path):
    with serving_starter(tmp_path) as server, prometheus(tmp_path / "prometheus", server.port) as watching:
        began, statuses = time.monotonic(), []
        with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=LIMIT_S) as client:
            for number, content in enumerate(
                itertools.takewhile(lambda _: time.monotonic() < began + 60 * MINUTES, photos_for_ever())
            ):
                statuses.append(pool.submit(lambda content=content: client.post(server.url, content=content).status_code))
                time.sleep(max(0.0, began + (number + 1) * EVERY_S - time.monotonic()))
        window = f"[{MINUTES + 2:.0f}m]"
        fired = watching.ask("query", query=f'count_over_time(ALERTS{{alertstate="firing"}}{window})')["result"]
        pending = watching.ask("query", query=f'count by (alertname) (count_over_time(ALERTS{{alertstate="pending"}}{window}))')[
            "result"
        ]
        drift = max(watching.values(f'max_over_time(seefood_drift{{window="500"}}{window})'), default=None)
        p99 = watching.values(f"max_over_time(instance:seefood_door_answer_seconds:p99_2m{window})")
        print(f"\n{len(statuses)} photos in {(time.monotonic() - began) / 60:.1f} min; alerts: {[one['metric'] for one in fired]}")
        print(f"pending meanwhile: {sorted(one['metric']['alertname'] for one in pending)}; p99 of two minutes at most {p99} s")
        print(f"the largest drift of the last 500 photos: {drift}, {THRESHOLD:g} is an alarm")
        assert {status.result() for status in statuses} == {200}
        assert not fired
