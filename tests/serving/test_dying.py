"""What clients are answered when the worker dies, hangs or fails under a photo, in each way: its sender, and those beside it."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scripts.archive.build import build, provenance_of
from scripts.archive.pack import pack
from scripts.archive.read import unpack
from scripts.atomic import write_json
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.serving.server import Server
from tests.serving.workers import values

pytestmark = [pytest.mark.server, pytest.mark.slow]

# what the handler does with a batch that holds a photo at whose end a way of dying stands
WAYS = """
        import os, signal
        ends = [bytes(next(iter(request.fields.values()), b""))[-20:].partition(b"die by ") for request in requests]
        how = next((end[2].decode() for end in ends if end[1]), "")
        if how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))
        if how in ("SIGTERM", "hang"):
            time.sleep(100)
        if how == "exit":
            os._exit(0)
        if how == "memory":
            raise MemoryError
        if how == "raise":
            raise RuntimeError
"""
# the status and type that its sender gets, when it has been asked for twice: the door's table (scripts/door/README.md)
ANSWERS = {
    "raise": (500, "ModelError"),
    "memory": (503, "UnavailableError"),
    "SIGKILL": (503, "UnavailableError"),
    "SIGSEGV": (503, "UnavailableError"),
    "SIGTERM": (503, "UnavailableError"),
    "exit": (503, "UnavailableError"),
    "hang": (503, "UnavailableError"),
}
BESIDE = 6  # ordinary photos that come at the same time


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dying")
    unpack(build(ROOT / "model_store" / "starter", "1.0.0", folder / "good"), folder / "parts")
    handler, config = folder / "parts" / "seefood_handler.py", folder / "parts" / "model-config.yaml"
    counted = "        self.metrics.batch(len(requests))\n"
    assert counted in handler.read_text()
    handler.write_text(handler.read_text().replace(counted, counted + WAYS))
    shorter = re.sub(r"responseTimeout: \d+", "responseTimeout: 4", config.read_text())
    config.write_text(re.sub(r"batch_cpu_s: [\d.]+", "batch_cpu_s: 0.5", shorter))
    write_json(folder / "parts" / "provenance.json", provenance_of(folder / "parts"))
    (folder / "model_store").mkdir()
    pack(folder / "parts", folder / "model_store" / "seefood-1.0.0.mar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_CHECK_S", "3600")  # its photo would share a batch
        server = Server(folder / "model_store", free_port()).wait_ready()
    yield server
    server.end()


def retries(server):
    return values(httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics", timeout=LIMIT_S).text)["seefood_door_retries_total"]


@pytest.mark.parametrize("way", ANSWERS)
def test_photo_under_which_the_worker_ends_gets_its_status_and_those_beside_it_their_answers(server, photo, way):
    def send(content):
        return httpx.post(server.url, content=content, timeout=LIMIT_S)

    before, started = retries(server), time.monotonic()
    with ThreadPoolExecutor(1 + BESIDE) as pool:
        cause = pool.submit(send, photo + f"die by {way}".encode())
        beside = [answer.status_code for answer in pool.map(send, [photo] * BESIDE)]
        answer = cause.result()
    print(f"\n{way}: {answer.status_code} {answer.json()['message']!r}, all answered after {time.monotonic() - started:.1f} s")
    assert (answer.status_code, answer.json()["type"]) == ANSWERS[way]
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    assert beside == [200] * BESIDE
    assert retries(server) > before
    assert send(photo).status_code == 200
    assert f"\n| {answer.status_code} | " in (ROOT / "scripts" / "door" / "README.md").read_text()
