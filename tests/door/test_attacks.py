"""Attacks on the door, and an ordinary client beside each: all its photos are answered, memory is bounded, readiness stays true.

pytest -s prints what was seen.
"""

import resource
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scripts.bench.attacks import ATTACKS, MEGABYTE
from tests.conftest import LIMIT_S

pytestmark = [pytest.mark.server, pytest.mark.slow]
ATTACK_S = 20.0
# more than before the attack: bodies that are held (128 MB), their copies while they are read, and what Python keeps of it
DOOR_MB, JVM_MB = 400, 350


def memory_mb(server) -> dict[str, int]:
    return {name: server.part(name).memory_info().rss // MEGABYTE for name in ("door", "JVM")}


def ordinary(server, photo: bytes, stop: threading.Event) -> tuple[Counter[int], list[float], Counter[int]]:
    """(statuses of photos, their seconds, answers of /readyz), one after the other, each on a new connection."""
    statuses: Counter[int] = Counter()
    ready: Counter[int] = Counter()
    seconds: list[float] = []
    while not stop.is_set():
        started = time.monotonic()
        statuses[httpx.post(server.url, content=photo, timeout=LIMIT_S).status_code] += 1
        seconds.append(time.monotonic() - started)
        ready[httpx.get(f"http://127.0.0.1:{server.port}/readyz", timeout=LIMIT_S).status_code] += 1
    return statuses, seconds, ready


@pytest.mark.parametrize("name", ATTACKS)
def test_ordinary_client_beside_an_attack_gets_every_answer(server, photo, name):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 12_000)), hard))
    before, stop = memory_mb(server), threading.Event()
    most = dict(before)
    with ThreadPoolExecutor(2) as pool:
        attack, client = pool.submit(ATTACKS[name], server.port, stop), pool.submit(ordinary, server, photo, stop)
        end = time.monotonic() + ATTACK_S
        while time.monotonic() < end:
            most = {process: max(mb, most.get(process, 0)) for process, mb in memory_mb(server).items()}
            time.sleep(0.2)
        stop.set()
        seen, (statuses, seconds, ready) = attack.result(), client.result()
    print(f"\n{name}: {dict(seen)}; an ordinary client: {dict(statuses)}, at most {max(seconds):.2f} s; /readyz {dict(ready)}")
    print(f"memory in MB, before and at most: {before} {most}")
    assert set(statuses) == {200}
    assert set(ready) == {200}
    assert most["door"] - before["door"] < DOOR_MB
    assert most["JVM"] - before["JVM"] < JVM_MB
    assert not {status for status in seen if isinstance(status, int) and status >= 500 and status != 503}
