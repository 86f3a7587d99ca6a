"""Parts that are stopped, killed or have no room, under a real server: what clients see, and when it answers again.

The table of it all is printed at the end (pytest -s).
"""

import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from scripts.serving.ports import PortError, check_ports
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.serving.faults import LONG_S, Clients, disk_or_folder, idle_connections, port_taken, stalled_upload
from tests.serving.server import Server, status_of
from tests.serving.workers import values
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow]
RECOVERY_S = 15  # from the cause's end to the next right answer, where the machine has nothing else to do
HELD_S = 12  # a cause that goes away by itself is held for so long: longer than it takes to be not ready
TABLE: list[tuple[str, str, float, float]] = []


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\n\n| cause | clients saw | longest wait | answers again after |\n|---|---|---|---|")
    for row in TABLE:
        print("| {} | {} | {:.1f} s | {:.1f} s |".format(*row))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk of its own for what the server writes, or a folder where mounting is not allowed."""
    with disk_or_folder(tmp_path_factory.mktemp("disk"), "64m") as folder:
        yield folder


@pytest.fixture(scope="module")
def server(model_store, disk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_MIN_FREE_BYTES", "0")
        started = time.monotonic()
        server = Server(model_store, free_port(), "--run-dir", str(disk / "run")).wait_ready()
    # this machine's own measure: a start is some 6 s where nothing else runs
    server.limit_s = max(RECOVERY_S, 4 * (time.monotonic() - started))
    yield server
    server.end()


def wait_not_ready(server):
    until(lambda: status_of(server.readyz) == 503, lambda: server.output)


def repairs(server):
    return server.output.count("repair: ")


@contextlib.contextmanager
def stopped(process):
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def killed(server, disk, name):
    server.part(name).kill()


def stopped_for_a_while(server, disk, name):
    with stopped(server.part(name)):
        if name in ("serve", "door"):  # without them nobody says that it is not ready
            time.sleep(HELD_S)
        else:
            wait_not_ready(server)


def stopped_for_good(server, disk, name):
    """Until the next repair's log line, which is the end of a cause that does not go away."""
    before = repairs(server)
    server.part(name).suspend()
    until(lambda: repairs(server) > before, lambda: server.output)


def killed_and_its_port_taken(server, disk, name):
    said = len(server.output)
    server.part(name).kill()
    with port_taken(server.port):
        time.sleep(HELD_S)
    assert f"'127.0.0.1', {server.port}" in server.output[said:]  # whoever runs it reads which port it is


def full_disk(server, disk, name):
    if not disk.is_mount():
        pytest.skip("this machine does not let tests mount a disk")
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    server.part(name).kill()
    time.sleep(HELD_S)
    filler.unlink()


def few_files(server, disk, name):
    process = server.part(name)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 20, before[1]))
    with idle_connections(str((disk / "run" / "sockets").resolve() / "inference"), 60):
        wait_not_ready(server)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.rlimit(resource.RLIMIT_NOFILE, before)


# what clients may see of it: right answers, to come later, or (while nobody is there who could answer) a broken connection
RIGHT = {200}
LATER = RIGHT | {503}
BROKEN = LATER | {"ConnectError", "ReadError", "WriteError", "RemoteProtocolError"}
CAUSES = {
    "worker: SIGKILL": (killed, "worker", RIGHT),
    "worker: SIGSTOP, then SIGCONT": (stopped_for_a_while, "worker", RIGHT),
    "worker: SIGSTOP, until it is restarted": (stopped_for_good, "worker", RIGHT),
    "JVM: SIGKILL": (killed, "JVM", LATER),
    "JVM: SIGSTOP, then SIGCONT": (stopped_for_a_while, "JVM", RIGHT),
    "JVM: SIGSTOP, until it is restarted": (stopped_for_good, "JVM", LATER),
    "serve: SIGSTOP, then SIGCONT": (stopped_for_a_while, "serve", RIGHT),
    "door: SIGKILL": (killed, "door", BROKEN),
    "door: SIGKILL, its port taken for 12 s": (killed_and_its_port_taken, "door", BROKEN),
    "door: SIGSTOP, then SIGCONT": (stopped_for_a_while, "door", RIGHT),
    "door: SIGSTOP, until it is restarted": (stopped_for_good, "door", BROKEN),
    "disk full, worker: SIGKILL": (full_disk, "worker", RIGHT),
    "disk full, JVM: SIGKILL": (full_disk, "JVM", LATER),
    "JVM: no file left for a connection": (few_files, "JVM", RIGHT),
}


def note(cause, clients, began, recovered_s):
    """How many of the requests since then got what; a row of the table."""
    seen, longest_s = clients.seen(began)
    TABLE.append((cause, ", ".join(f"{count} x {status}" for status, count in seen.most_common()), longest_s, recovered_s))
    return seen


@pytest.mark.parametrize("cause", CAUSES)
def test_no_request_hangs_and_answers_come_back(server, photo, disk, cause):
    happen, name, expected = CAUSES[cause]
    server.wait_ready()
    with Clients(server.url, photo) as clients:
        began = time.monotonic()
        clients.wait_right(began)
        happen(server, disk, name)
        ended = time.monotonic()
        recovered_s = clients.wait_right(ended)
    server.wait_ready()
    assert note(cause, clients, began, recovered_s).keys() <= expected
    assert recovered_s < server.limit_s


def counted(server, name):
    """The sum of one metric of the server."""
    return values(httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics", timeout=LONG_S).text)[name]


def test_photo_under_which_the_worker_is_killed_is_asked_for_again(server, photo):
    server.wait_ready()
    before, worker = counted(server, "seefood_door_retries_total"), server.part("worker")
    with ThreadPoolExecutor(1) as pool, stopped(worker):
        answer = pool.submit(httpx.post, server.url, content=photo, timeout=LONG_S)
        until(lambda: counted(server, "seefood_door_running_requests") == 1, lambda: server.output)
        worker.kill()
        assert answer.result().status_code == 200
    assert counted(server, "seefood_door_retries_total") == before + 1


def ports_are_free(port):
    try:
        check_ports("127.0.0.1", port)
    except PortError:
        return False
    return True


def test_killed_server_leaves_no_process_and_the_next_one_serves(model_store, photo):
    server = Server(model_store, free_port()).wait_ready()
    family = server.family()
    with Clients(server.url, photo) as clients:
        began = time.monotonic()
        clients.wait_right(began)
        with stalled_upload(server.port):
            server.process.send_signal(signal.SIGKILL)
            server.wait()
            until(lambda: ports_are_free(server.port), lambda: server.output)
            assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
        ended = time.monotonic()
        again = Server(model_store, server.port).wait_ready()
        recovered_s = clients.wait_right(ended)
    seen = note("serve: SIGKILL, until it is started", clients, began, recovered_s)
    again.end()
    shutil.rmtree(ROOT / "build" / f"serve-{server.port}")
    assert seen.keys() <= BROKEN


def test_400_idle_connections_beside_300_descriptors_cost_no_answer(model_store, photo, monkeypatch):
    monkeypatch.setenv("SEEFOOD_OPEN_FILES", "300")
    server = Server(model_store, free_port(), before=["prlimit", "--nofile=300:300"]).wait_ready()
    with idle_connections(("127.0.0.1", server.port), 400):
        for _ in range(20):
            assert status_of(server.url, method="POST", content=photo) == 200
            assert status_of(server.readyz) == 200
    server.end()


def test_too_few_files_are_refused_at_start(model_store):
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--model-store", str(model_store)]
    done = subprocess.run(["prlimit", "--nofile=200:200", *command], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 200 files may be open at a time (ulimit -Hn), expected at least 1024")


@pytest.fixture
def register(server, disk):
    """Register the served archive's folder by hand, under a name, as another version if one is named."""

    def register(name, version):
        served = next(path for path in (disk / "run" / "unpacked").iterdir() if path.name.startswith("seefood-1.0.0"))
        copy = served.with_name(f"by-hand-{version}")
        shutil.copytree(served, copy, dirs_exist_ok=True)
        manifest = copy / "MAR-INF" / "MANIFEST.json"
        manifest.write_text(manifest.read_text().replace('"1.0.0"', f'"{version}"'))
        # not synchronous: its worker will not start, for its parts were changed
        params = {"url": copy.name, "model_name": name, "synchronous": "false"}
        httpx.post(server.management, params=params, timeout=LONG_S).raise_for_status()

    return register


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_scaled_by_hand_are_scaled_back(server, photo, workers):
    server.wait_ready()
    version = f"{server.management}/seefood/1.0.0"
    httpx.put(version, params={"min_worker": str(workers), "max_worker": str(workers)}, timeout=LONG_S).raise_for_status()
    server.wait_output(f"they were scaled to {workers} to {workers} by hand")
    until(lambda: [worker["status"] for worker in httpx.get(version).json()[0]["workers"]] == ["READY"], lambda: server.output)
    server.wait_ready()
    assert status_of(server.url, method="POST", content=photo) == 200


def test_models_registered_by_hand_are_unregistered(server, register):
    server.wait_ready()
    register("other", "9.0.0")
    server.wait_output('what=unregistered model=other version=9.0.0 why="it was registered by hand"')
    assert [model["modelName"] for model in httpx.get(server.management).json()["models"]] == ["seefood"]


def test_default_changed_by_hand_is_set_back(server, register, photo):
    server.wait_ready()
    register("seefood", "9.0.1")
    httpx.put(f"{server.management}/seefood/9.0.1/set-default", timeout=LONG_S)
    server.wait_output("what=unregistered model=seefood version=9.0.1")
    server.wait_ready()
    assert httpx.post(server.url, content=photo, timeout=LONG_S).json()["version"] == "1.0.0"
    assert [version["modelVersion"] for version in httpx.get(f"{server.management}/seefood/all").json()] == ["1.0.0"]
