"""A real Prometheus with the shipped rules scrapes a real server: dashboards' queries have answers, alerts come and go.

Every rule runs with the windows and times that it is shipped with. How soon each alert came is printed at the end (pytest -s).
SeefoodFailuresAtLowTraffic needs a quarter of an hour: test_alerts.py has it.
"""

import contextlib
import io
import itertools
import math
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from PIL import Image, ImageEnhance

from scripts.archive.build import build
from scripts.drift.statistics import WINDOWS
from scripts.monitoring.dashboards import dashboards
from scripts.release.document import make, parse, write
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, ROOT, bytes_of, free_port
from tests.drift.test_real_photos import DATA, unseen_photos
from tests.monitoring.live import needs_prometheus, prometheus
from tests.monitoring.test_alerts import alerts
from tests.rollout.rolling import put
from tests.serving.faults import disk_or_folder
from tests.serving.server import Server
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow, needs_prometheus]

FIRES_S = 120  # from the cause to the alert, where the machine has nothing else to do
START_S = 10  # of a server there
DISH = (ROOT / "model_store" / "starter" / "bibimbap.jpg").read_bytes()
TABLE: list[tuple[str, str, float]] = []


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\n\n| cause | alert | after |\n|---|---|---|")
    for row in TABLE:
        print("| {} | {} | {:.0f} s |".format(*row))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of its own for what the server writes, or a folder where mounting is not allowed."""
    with disk_or_folder(tmp_path_factory.mktemp("disk"), "600m") as folder:
        yield folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, disk):
    """The starter, served."""
    folder, started = tmp_path_factory.mktemp("model_store"), time.monotonic()
    build(ROOT / "model_store" / "starter", "0.5.0", folder)
    server = Server(folder, free_port(), "--run-dir", str(disk / "run")).wait_ready()
    server.store, server.disk = FolderStore(folder / "release.json"), disk
    server.limit_s = FIRES_S * max(1, (time.monotonic() - started) / START_S)
    yield server
    server.end()


@pytest.fixture(scope="module")
def watching(server, tmp_path_factory):
    with prometheus(tmp_path_factory.mktemp("prometheus"), server.port) as found:
        yield found


def send(server, photo, route="predictions"):
    with contextlib.suppress(httpx.TransportError):
        return httpx.post(server.url.replace("predictions", route), content=photo, timeout=LIMIT_S).status_code


@contextlib.contextmanager
def sending(server, photos, clients=4, pause_s=0.2):
    """So many clients that send photos, again and again."""
    stop = threading.Event()

    def run(number):
        while not stop.wait(pause_s):
            send(server, photos[number % len(photos)])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT_S)


def queries():
    """{dashboard and panel: query} with what Grafana would fill in."""
    for dashboard in dashboards().values():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"].replace("$__rate_interval", "1m").replace("$__range", "15m").replace("$instance", ".*")
                assert "$" not in expr
                yield f"{dashboard['title']}: {panel['title']} {target['refId']}", expr


def test_every_query_of_the_dashboards_has_an_answer(server, watching):
    silent = dict(queries())
    began = time.monotonic()

    def answered():
        for name, expr in list(silent.items()):
            if any(not math.isnan(value) for value in watching.values(expr)):
                del silent[name]
        return not silent

    with sending(server, [DISH], clients=2):
        send(server, b"no photo")
        send(server, DISH, "explanations")
        until(answered, lambda: list(silent), pause_s=0.5)
    TABLE.append(("traffic", "all queries answered", time.monotonic() - began))


@contextlib.contextmanager
def held(server, name):
    """Each process of that part is stopped, as soon as it is there."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.5):
            for process in server.parts(name):
                with contextlib.suppress(psutil.Error):
                    process.suspend()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for process in server.parts(name):
            with contextlib.suppress(psutil.Error):
                process.resume()


@contextlib.contextmanager
def nothing_answers(server, watching):
    # as many as it takes: each waits for up to 55 s until it has failed
    with held(server, "JVM"), sending(server, [DISH], clients=12):
        yield


@contextlib.contextmanager
def killed_worker(server, watching):
    with sending(server, [DISH]):
        server.part("worker").kill()
        yield


@contextlib.contextmanager
def stopped_server(server, watching):
    process = server.part("serve")
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextlib.contextmanager
def flood(server, watching):
    costly = bytes_of(Image.new("RGB", (4470, 4470)), "WEBP", lossless=True)
    with sending(server, [costly], clients=32, pause_s=0.1):
        yield


@contextlib.contextmanager
def noise(server, watching):
    random.seed(1)
    pictures = [bytes_of(Image.frombytes("RGB", (256, 256), random.randbytes(256 * 256 * 3)), "JPEG") for _ in range(4)]
    with sending(server, pictures):
        yield


def ordinary_photos():
    return [photo.path.read_bytes() for photo in unseen_photos()]


def all_of(server, photos):
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda photo: send(server, photo), photos)) == {200}


def fill_window(server):
    """Ordinary photos take the places of what drift was found in; nothing where they are not here."""
    if (DATA / "food10").is_dir():
        all_of(server, itertools.islice(itertools.cycle(ordinary_photos()), WINDOWS[0]))


@contextlib.contextmanager
def darkened(server, watching):
    """Clients' photos get dark, after 500 ordinary ones; at the end as many ordinary ones fill the window again."""
    if not (DATA / "food10").is_dir():
        pytest.skip("needs the real photos")
    ordinary = ordinary_photos()
    dark = [bytes_of(ImageEnhance.Brightness(Image.open(io.BytesIO(one)).convert("RGB")).enhance(0.4), "JPEG") for one in ordinary]
    fill_window(server)
    watching.wait(lambda: "SeefoodDrift" not in watching.alerts())
    with sending(server, dark, clients=2):
        all_of(server, dark)
        yield
    began = time.monotonic()
    fill_window(server)
    assert watching.wait(lambda: "SeefoodDrift" not in watching.alerts()) < server.limit_s
    TABLE.append(("500 ordinary photos after darkened ones", "SeefoodDrift clears", time.monotonic() - began))


@contextlib.contextmanager
def release_without_archive(server, watching):
    before = server.store.read()[0]
    versions = parse(before)["versions"] | {"9.9.9": {"archive": "seefood-9.9.9.mar", "sha256": "0" * 64}}
    put(server.store, write(make(versions, "9.9.9", "released", "a test")))
    yield
    put(server.store, before)


@contextlib.contextmanager
def little_room(server, watching):
    if not server.disk.is_mount():
        pytest.skip("this machine does not let tests mount a disk")
    filler = server.disk / "filler"
    filler.write_bytes(bytes(400 * 1024 * 1024))
    yield
    filler.unlink()


@contextlib.contextmanager
def no_targets(server, watching):
    before = watching.targets.read_text()
    watching.targets.write_text("[]")
    yield
    watching.targets.write_text(before)


CAUSES = {
    "a killed worker": (killed_worker, ["SeefoodRestarts"]),
    "too little room on the disk": (little_room, ["SeefoodDisk"]),
    "a release whose archive is not there": (release_without_archive, ["SeefoodReleaseLag"]),
    "darkened photos": (darkened, ["SeefoodDrift"]),
    "pictures of noise": (noise, ["SeefoodUnsure"]),
    "TorchServe hangs, and each one that follows it": (nothing_answers, ["SeefoodNotReady", "SeefoodFailures"]),
    "32 clients send the costliest photos": (flood, ["SeefoodSlow", "SeefoodShed", "SeefoodQueue"]),
    "a stopped server": (stopped_server, ["SeefoodDown"]),
    "a file of targets without one": (no_targets, ["SeefoodNoTargets"]),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_alert_comes_within_two_minutes_of_its_cause(server, watching, cause):
    happen, names = CAUSES[cause]
    if "SeefoodDrift" in names:
        fill_window(server)  # the other tests send one dish again and again, which is drift
    watching.wait(lambda: not watching.alerts().keys() & names and server_is_ready(server))
    with happen(server, watching):
        began, missing = time.monotonic(), set(names)

        def come():
            for name, alert in watching.alerts().items():
                if name in missing:
                    missing.remove(name)
                    TABLE.append((cause, name, time.monotonic() - began))
                    assert re.search(r"\{\{|<no value>|<error", str(alert["annotations"])) is None
            return not missing

        assert watching.wait(come) < server.limit_s


def server_is_ready(server):
    return send_look(server) == 200


def send_look(server):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(server.readyz, timeout=30).status_code


def test_all_alerts_clear_once_their_causes_have_gone(server, watching):
    watching.wait(lambda: server_is_ready(server))
    fill_window(server)
    drift = set() if (DATA / "food10").is_dir() else {"SeefoodDrift"}
    took_s = watching.wait(lambda: not watching.alerts().keys() - drift)
    assert took_s < server.limit_s + 120
    TABLE.append(("the last cause has gone", "none fires", took_s))


def test_every_alert_has_a_cause_here():
    assert {name for _, names in CAUSES.values() for name in names} | {"SeefoodFailuresAtLowTraffic"} == set(alerts())
