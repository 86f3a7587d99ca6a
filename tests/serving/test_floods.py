"""A busy server is a ready one: floods of the heaviest photos and of heat maps, and looks at /readyz meanwhile (pytest -s)."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from handler.preprocess import Spec, preprocess
from scripts.settings import Settings
from tests.conftest import LIMIT_S, bytes_of, picture_bytes
from tests.serving.server import serving_starter

pytestmark = [pytest.mark.server, pytest.mark.slow]
FLOOD_S = 30
ALONE_S = 0.5  # for the flat photo, where the machine has nothing else to do (AMD EPYC)


def flat(side):
    """A few bytes that unpack to side x side pixels."""
    photo = bytes_of(Image.new("RGB", (side, side)), "WEBP", lossless=True)
    assert len(photo) < 10_000
    return photo


# over the limit, at the limit, and what is costly in another way
FLOODS = {
    "refused": (10, "predictions", lambda: flat(9400)),
    "costly": (10, "predictions", lambda: flat(4470)),
    "heat maps": (16, "explanations", lambda: picture_bytes(1)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    photo, started = flat(4470), time.monotonic()
    preprocess(photo, Spec((3, 224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.95, "center"))
    slow = max(1.0, (time.monotonic() - started) / ALONE_S)
    print(f"\nthis machine takes {slow:.1f} times as long as one with nothing else to do")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_STALL_S", str(slow * Settings.stall_s))
        patch.setenv("SEEFOOD_REPAIR_S", str(slow * Settings.repair_s))
        with serving_starter(tmp_path_factory.mktemp("model_store")) as server:
            yield server


def look(port, stop):
    """{(status, why): how often} at /readyz, until `stop` is set."""
    seen = Counter()
    while not stop.wait(0.2):
        response = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10)
        seen[response.status_code, response.json().get("why", "")] += 1
    return seen


@pytest.mark.parametrize("kind", FLOODS)
def test_flood_leaves_a_healthy_server_ready_and_an_ordinary_client_answered(server, kind):
    clients, route, make = FLOODS[kind]
    photo, ordinary = make(), picture_bytes(2)
    url, stop, end = server.url.replace("predictions", route), threading.Event(), time.monotonic() + FLOOD_S

    def send(_):
        got = Counter()
        while time.monotonic() < end:
            answer = httpx.post(url, content=photo, timeout=LIMIT_S)
            got[answer.status_code] += 1
            assert (int(answer.headers.get("retry-after", 0)) >= 1) == (answer.status_code == 503)
        return got

    def ask():
        """(statuses, longest seconds) of a client that sends an ordinary photo, one after the other."""
        got, longest_s = Counter(), 0.0
        while time.monotonic() < end:
            started = time.monotonic()
            got[httpx.post(server.url, content=ordinary, timeout=LIMIT_S).status_code] += 1
            longest_s = max(longest_s, time.monotonic() - started)
        return got, longest_s

    with ThreadPoolExecutor(clients + 2) as pool:
        looks, asked = pool.submit(look, server.port, stop), pool.submit(ask)
        answers = sum(pool.map(send, range(clients)), Counter())
        stop.set()
    seen, (got, longest_s) = looks.result(), asked.result()
    print(f"\n{clients} clients, {kind}: {dict(answers)}; an ordinary one: {dict(got)}, at most {longest_s:.1f} s")
    print(f"looks at /readyz: {dict(seen)}")
    assert answers.keys() <= {200, 413, 503}
    assert set(got) == {200}
    assert set(seen) == {(200, "")}
