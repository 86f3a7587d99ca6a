"""What can go wrong in a rollout, with a real TorchServe: the version before serves throughout, and the status says why."""

import shutil
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from scripts.release.document import entry_of, make, write
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.rollout.rolling import QUICK, Instance, Load, flip_a_byte, get, make_archives, put, release, reversion, truncate

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def archives(exported, tmp_path_factory):
    return make_archives(exported, tmp_path_factory.mktemp("archives"), ["1.0.0", "1.1.0"])


@pytest.fixture
def store(archives, tmp_path):
    store = FolderStore(tmp_path / "release.json")
    for archive in archives.values():
        store.put(archive)
    return store


@pytest.fixture
def start(quick):
    """Start an instance that is ended with the test."""
    started = []

    def begin(store, port=None):
        started.append(Instance(store.address, port or free_port()))
        return started[-1].wait_ready()

    yield begin
    for instance in started:
        instance.__exit__()


@pytest.fixture(scope="module")
def module_store(archives, tmp_path_factory):
    store = FolderStore(tmp_path_factory.mktemp("release") / "release.json")
    for archive in archives.values():
        store.put(archive)
    return store


@pytest.fixture(scope="module")
def instance(quick, module_store, archives):
    release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    with Instance(module_store.address, free_port()).wait_ready() as instance:
        yield instance


def leftovers(instance):
    """Names in the folders that versions come through."""
    run_dir = ROOT / "build" / f"serve-{instance.port}"
    unpacked = sorted(path.name.rsplit("-", 1)[0] for path in (run_dir / "unpacked").iterdir())
    links = len(list((run_dir / "temp" / "models").iterdir()))
    return unpacked, links, [path.name for path in run_dir.iterdir() if path.name.endswith(".part") or path.name == "wrong"]


def broken_version(kind, archives, store):
    """(document, the reason that the status must give): a release of 2.0.0 that must not get far."""
    folder = store.folder
    good = {"1.0.0": entry_of(archives["1.0.0"])}
    (folder / "seefood-2.0.0.mar").unlink(missing_ok=True)
    if kind == "no archive":
        entry = {"archive": "seefood-2.0.0.mar", "sha256": "0" * 64}
        return make(good | {"2.0.0": entry}, "2.0.0", "baking", kind), "the archive is not there"
    fault = kind if kind in ("raises", "hangs", "answers wrong") else None
    archive = reversion(archives["1.0.0"], "2.0.0", folder, fault)
    shutil.rmtree(folder / "work-2.0.0", ignore_errors=True)
    entry = entry_of(archive)
    reason = {
        "raises": "no such luck",
        "hangs": "not ready within 40 s",
        "answers wrong": "answered incorrectly: probability off by",
    }.get(kind, "")
    if kind == "wrong checksum":
        flip_a_byte(archive, "index_to_name.json")
        reason = "does not match the release document's"
    if kind == "truncated":
        truncate(archive)
        reason = "does not match the release document's"
    if kind == "changed, with its checksum":
        flip_a_byte(archive, "handler/preprocess.py")
        entry, reason = entry_of(archive), "handler/preprocess.py was changed"
    return make(good | {"2.0.0": entry}, "2.0.0", "baking", kind), reason


@pytest.mark.parametrize(
    "kind",
    [
        "wrong checksum",
        "truncated",
        "raises",
        "answers wrong",
        pytest.param("no archive", marks=pytest.mark.slow),
        pytest.param("changed, with its checksum", marks=pytest.mark.slow),
    ],
)
def test_bad_version_never_becomes_default_and_nothing_of_it_stays(instance, module_store, archives, kind):
    bad_version_stays_out(instance, module_store, archives, kind)


@pytest.mark.slow
def test_version_that_hangs_is_given_up(start, store, archives, monkeypatch):
    monkeypatch.setenv("SEEFOOD_LOAD_TIMEOUT_S", "40")
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    bad_version_stays_out(start(store), store, archives, "hangs")


def bad_version_stays_out(instance, store, archives, kind):
    before = release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", before)
    load = Load(instance.port, 2)
    document, reason = broken_version(kind, archives, store)
    put(store, write(document))
    status = instance.wait_state("failed", document)
    assert reason in status["why"]
    assert (status["default"], status["versions"], status["ready"]) == ("1.0.0", ["1.0.0"], True)
    again = release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", again)
    assert {answer[2:] for answer in load.stop()} == {(200, "1.0.0")}
    assert instance.registered() == ["1.0.0"]
    assert len(instance.parts("worker")) == 1
    assert leftovers(instance) == (["seefood-1.0.0"], 1, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        pytest.param("{}", "'versions' is a required property", marks=pytest.mark.slow),
        pytest.param('{"model": "seefood"}', "'default' is a required property", marks=pytest.mark.slow),
    ],
)
def test_invalid_document_leaves_the_one_before_in_force(instance, module_store, archives, text, reason):
    before = release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", before)
    put(module_store, text)
    assert reason in instance.wait_state("failed")["why"]
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.0.0"
    after = release(module_store, {"1.1.0": archives["1.1.0"]}, "1.1.0")
    assert instance.wait_state("reconciled", after)["default"] == "1.1.0"


@pytest.mark.slow
def test_document_whose_default_is_missing_is_refused_by_name(instance, module_store, archives):
    document = release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", document)
    put(module_store, write({**document, "default": "9.9.9"}))
    assert "default version is 9.9.9, its versions are ['1.0.0']" in instance.wait_state("failed")["why"]


@pytest.mark.slow
def test_same_version_with_other_content_is_refused(instance, module_store, archives):
    document = release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", document)
    other = make({"1.0.0": {"archive": "seefood-1.0.0.mar", "sha256": "1" * 64}}, "1.0.0", "released", "other bytes")
    put(module_store, write(other))
    assert "a version never changes" in instance.wait_state("failed", other)["why"]
    assert httpx.post(instance.url, content=picture_bytes(1)).status_code == 200


@pytest.mark.slow
def test_killed_worker_is_replaced_and_counted(instance, module_store, archives):
    document = release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", document)
    instance.wait_for(lambda: instance.ready)
    worker = instance.part("worker")
    worker.kill()
    # the next worker is waited for
    assert httpx.post(instance.url, content=picture_bytes(1), timeout=LIMIT_S).json()["version"] == "1.0.0"
    instance.wait_for(lambda: instance.status()["worker_restarts"] == {"1.0.0": 1})
    assert instance.part("worker").pid != worker.pid
    instance.wait_for(lambda: instance.ready)


@pytest.mark.slow
def test_killed_jvm_is_replaced_with_all_its_versions(instance, module_store, archives):
    document = release(module_store, archives, "1.1.0")
    instance.wait_state("reconciled", document)
    instance.part("JVM").kill()
    instance.wait_for(lambda: not instance.ready)
    instance.wait_for(lambda: instance.ready)
    instance.wait_state("reconciled", document)
    assert instance.registered() == ["1.0.0", "1.1.0"]
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.1.0"
    assert "TorchServe ended by itself" in instance.output


@pytest.mark.slow
def test_jvm_killed_again_while_it_loads_what_it_served_comes_back_all_the_same(instance, module_store, archives):
    document = release(module_store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", document)
    for _ in range(2):
        starts = instance.output.count("TorchServe is up")
        instance.part("JVM").kill()
        instance.wait_for(lambda starts=starts: instance.output.count("TorchServe is up") > starts)
        instance.wait_for(lambda: instance.parts("worker"))  # it loads
    instance.wait_for(lambda: instance.ready)
    instance.wait_state("reconciled", document)
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.0.0"


@pytest.mark.slow
def test_somebody_elses_change_in_torchserve_is_undone(instance, module_store, archives):
    document = release(module_store, archives, "1.1.0")
    instance.wait_state("reconciled", document)
    management = f"{instance.management}/seefood"
    httpx.put(f"{management}/1.0.0/set-default").raise_for_status()
    # the door names the version that it asks: clients see nothing of it
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.1.0"
    instance.wait_for(lambda: httpx.get(management).json()[0]["modelVersion"] == "1.1.0")
    httpx.delete(f"{management}/1.0.0").raise_for_status()
    instance.wait_for(lambda: instance.registered() == ["1.0.0", "1.1.0"])


@pytest.mark.slow
def test_sixteen_requests_in_flight_are_answered_before_sigterm_ends_it(start, store, archives):
    slow = reversion(archives["1.0.0"], "3.0.0", store.folder, "is slow")
    release(store, {"3.0.0": slow}, "3.0.0")
    instance = start(store)
    # one by one as they come: several batches of 0.3 s
    load = Load(instance.port, 16)
    instance.wait_for(lambda: len(load.answers) > 16)
    load.over.set()
    time.sleep(0.05)
    family = instance.family()
    begun = time.monotonic()
    instance.process.send_signal(signal.SIGTERM)
    assert instance.process.wait(LIMIT_S) == 0
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
    answers = load.stop()
    assert sum(ended > begun for _, ended, *_ in answers) == 16
    assert not load.failed
    assert instance.status() is None


@pytest.mark.slow
def test_grace_serves_on_though_not_ready_and_a_second_signal_ends_it(start, store, archives, monkeypatch):
    monkeypatch.setenv("SEEFOOD_GRACE_S", "30")
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance = start(store)
    family = instance.family()
    instance.process.terminate()
    instance.wait_for(lambda: get(instance.readyz) == (503, {"ready": False, "version": "1.0.0", "why": "draining"}))
    assert httpx.post(instance.url, content=picture_bytes(1)).status_code == 200
    instance.process.terminate()
    assert instance.process.wait(LIMIT_S) == 0
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_rollout_it_leaves_no_process_and_reconciles_when_started_again(start, store, archives):
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    port = free_port()
    instance = start(store, port)
    family = instance.family()
    document = release(store, archives, "1.1.0", "baking")
    instance.wait_for(lambda: "fetching: version=1.1.0" in instance.output)
    time.sleep(0.3)
    instance.process.kill()
    instance.process.wait(LIMIT_S)
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1], "orphans"
    assert not get(f"http://127.0.0.1:{port}/livez")[0]
    again = start(store, port)
    assert again.wait_state("reconciled", document)["default"] == "1.1.0"


@pytest.mark.slow
def test_bad_release_at_the_start_falls_back_to_the_last_good_one(start, store, archives):
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    port = free_port()
    first = start(store, port)
    first.wait_state("reconciled")
    first.end()
    document, reason = broken_version("raises", archives, store)
    bad = make({"2.0.0": document["versions"]["2.0.0"]}, "2.0.0", "released", "bad alone")
    put(store, write(bad))
    instance = start(store, port)
    assert reason in instance.wait_state("failed", bad)["why"]
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.0.0"
    instance.wait_for(lambda: instance.status()["default"] == "1.0.0")


@pytest.mark.slow
def test_full_disk_while_fetching_is_reported_and_passes(mount_disk, start, store, archives, monkeypatch):
    port = free_port()
    run_dir = mount_disk(ROOT / "build" / f"serve-{port}", "40m")
    monkeypatch.setenv("SEEFOOD_MIN_FREE_BYTES", "0")
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance = start(store, port)
    filler = run_dir / "filler"
    with filler.open("wb") as file:
        room = shutil.disk_usage(run_dir).free - 50_000
        file.write(bytes(room))
    document = release(store, archives, "1.1.0", "baking")
    assert "the disk is full" in instance.wait_state("failed", document)["why"]
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.0.0"
    filler.unlink()
    assert instance.wait_state("reconciled", document)["default"] == "1.1.0"
    instance.end()


@pytest.mark.slow
def test_new_instance_serves_another_version_where_the_wanted_one_cannot_be(start, store, archives):
    document, reason = broken_version("raises", archives, store)
    put(store, write(document))
    instance = start(store)
    status = instance.wait_state("failed", document)
    assert reason in status["why"]
    assert httpx.post(instance.url, content=picture_bytes(1)).json()["version"] == "1.0.0"


@pytest.mark.slow
def test_no_release_can_be_served_ends_with_the_reason(quick, store, archives):
    document, reason = broken_version("raises", archives, store)
    put(store, write(make({"2.0.0": document["versions"]["2.0.0"]}, "2.0.0", "released", "bad alone")))
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--release", store.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert reason in done.stderr
