"""`make rollout` and its like against a real TorchServe: no request fails, and what is worse than before does not stay."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import httpx
import psutil
import pytest

from scripts.backend.torchserve.process import java_home
from scripts.release.address import open_store
from scripts.release.document import parse
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.rollout.rolling import QUICK, Instance, Load, make_archives, p99_ms, release, reversion
from tests.waiting import until

pytestmark = pytest.mark.server
VERSIONS = ["1.0.0", "1.1.0", "1.2.0"]


@pytest.fixture(scope="module")
def archives(exported, tmp_path_factory):
    archives = make_archives(exported, tmp_path_factory.mktemp("archives"), VERSIONS)
    for version, fault in {
        "2.0.0": "fails after a while",
        "2.1.0": "is very slow",
        "2.2.0": "raises",
        "2.3.0": "hangs",
        "2.4.0": "hangs after a while",
    }.items():
        archives[version] = reversion(archives["1.0.0"], version, archives["1.0.0"].parent, fault)
    return archives


@pytest.fixture(scope="module")
def instance(archives, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUICK, "SEEFOOD_CAPTURE_SHARE": "1"}.items():
            patch.setenv(name, value)
        store = FolderStore(tmp_path_factory.mktemp("release") / "release.json")
        store.put(archives["1.0.0"])
        release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
        with Instance(store.address, free_port()) as instance:
            instance.wait_ready()
            yield instance


@pytest.fixture
def store(instance, archives):
    """Its store, with 1.0.0 served and released."""
    store = open_store(instance.release)
    document = release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    instance.wait_state("reconciled", document)
    return store


def command(instance, archives, *arguments):
    store = ["--release", instance.release, "--model-store", str(archives["1.0.0"].parent)]
    return [sys.executable, "-m", "scripts.rollout.rollout", *store, *map(str, arguments)]


def run(instance, archives, *arguments):
    """(exit status, all that it printed) of a rollout command."""
    done = subprocess.run(command(instance, archives, *arguments), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stdout + done.stderr


def version_served(instance):
    return httpx.post(instance.url, content=picture_bytes(1), timeout=LIMIT_S).json()["version"]


def roll_under_load(instance, archives, steps, clients, requests=0):
    """(answers since the first step began, [(begun, ended, old, new)]): each step is a version, or None for a rollback.

    So many `requests` are answered at least, as many between one step and the next.
    """
    load, windows = Load(instance.port, clients), []
    instance.wait_for(lambda: len(load.answers) >= 100)
    for number, step in enumerate(steps, 1):
        old, begun = version_served(instance), time.monotonic()
        status, output = run(instance, archives, *(["start", step] if step else ["back"]))
        assert status == 0, output
        windows.append((begun, time.monotonic(), old, version_served(instance)))
        assert windows[-1][3] == (step or windows[-2][2])
        wanted = requests * number // len(steps)
        instance.wait_for(lambda wanted=wanted: sum(answer[0] >= windows[0][0] for answer in load.answers) >= wanted)
    return [answer for answer in load.stop() if answer[0] >= windows[0][0]], windows


def legal(begun, ended, windows):
    """The versions that may answer a request of that time."""
    versions = {windows[0][2]} if begun < windows[0][1] else set()
    for start, end, old, new in windows:
        if ended < start:
            break
        if begun < end:  # it met the change
            versions |= {old, new}
        else:
            versions = {new}
    return versions


def check_answers(answers, windows):
    assert not [answer for answer in answers if answer[2] != 200][:3]
    for begun, ended, _, version in answers:
        assert version in legal(begun, ended, windows), (begun, ended, version, windows)


def test_rollouts_and_rollback_under_load_fail_no_request(instance, store, archives):
    answers, windows = roll_under_load(instance, archives, ["1.1.0", None], clients=3)
    check_answers(answers, windows)
    assert {answer[3] for answer in answers} == {"1.0.0", "1.1.0"}
    assert instance.registered() == ["1.0.0"]


REQUESTS = 10_000


@pytest.mark.slow
def test_five_rollouts_and_two_rollbacks_under_16_clients_fail_none_of_10_000_requests(tmp_path, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    archives = make_archives(ROOT / "model_store" / "starter", tmp_path, VERSIONS)
    store = FolderStore(tmp_path / "release.json")
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    steps = ["1.1.0", "1.2.0", None, "1.0.0", "1.2.0", None, "1.1.0"]
    with Instance(store.address, free_port()) as instance:
        instance.wait_ready()
        answers, windows = roll_under_load(instance, archives, steps, clients=16, requests=REQUESTS)
    failed = Counter(answer[2:] for answer in answers if answer[2] != 200)
    # beside those between the rollouts, not those before them alone: what else the machine does comes and goes
    during, between = [], []
    for answer in answers:
        (during if any(answer[0] < end and answer[1] > start for start, end, *_ in windows) else between).append(answer)
    ratio = p99_ms(during) / p99_ms(between)
    took_s = max(answer[1] for answer in answers) - windows[0][0]
    print(f"\n{len(answers)} requests in {took_s:.0f} s, {failed.total()} failed; {len(during)} of them while rolling out")
    print(f"by version: {dict(Counter(answer[3] for answer in answers))}")
    print(f"p99 while rolling out {p99_ms(during):.0f} ms, between {p99_ms(between):.0f} ms: {ratio:.2f} times")
    assert len(answers) >= REQUESTS
    assert not failed
    check_answers(answers, windows)
    assert ratio < 3


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        pytest.param("2.0.0", "it does not answer", marks=pytest.mark.slow),
        pytest.param("2.1.0", "slower", marks=pytest.mark.slow),
        pytest.param("2.4.0", "was not ready: requests wait, and none has been answered", marks=pytest.mark.slow),
        pytest.param("2.2.0", "no such luck", marks=pytest.mark.slow),
    ],
)
def test_version_that_is_worse_is_taken_back_with_the_reason(instance, store, archives, version, reason, monkeypatch):
    monkeypatch.setenv("SEEFOOD_BAKE_S", "15")
    monkeypatch.setenv("SEEFOOD_MIN_REQUESTS", "20")
    monkeypatch.setenv("SEEFOOD_WORSE_P99_S", "0.02")
    load = Load(instance.port, 8)
    instance.wait_for(lambda: len(load.answers) > 400)
    status, output = run(instance, archives, "start", version)
    load.stop()
    assert status == 1, output
    assert reason in output
    assert "1.0.0 is served again" in output
    assert version_served(instance) == "1.0.0"
    assert instance.wait_state("reconciled")["versions"] == ["1.0.0"]
    if version == "2.2.0":
        assert not load.failed


@pytest.mark.slow
def test_rollout_that_takes_too_long_is_taken_back(instance, store, archives, monkeypatch):
    monkeypatch.setenv("SEEFOOD_ROLLOUT_S", "4")
    status, output = run(instance, archives, "start", "2.3.0")
    assert (status, version_served(instance)) == (1, "1.0.0")
    assert re.search(r"not within 4 s: 0 of 1 instance reconciled; test-\d+ is reconciling", output)
    assert "1.0.0 is served again" in output


def test_interrupted_rollout_is_taken_back(instance, store, archives):
    process = subprocess.Popen(
        command(instance, archives, "start", "2.3.0"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    instance.wait_for(lambda: instance.registered() == ["1.0.0", "2.3.0"])
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 130
    assert "1.0.0 is served again" in output
    assert output.endswith("interrupted\n")
    assert instance.registered() == ["1.0.0"]


@pytest.mark.slow
def test_shadow_compares_captured_photos_and_clients_see_nothing(instance, store, archives):
    for i in range(6):
        httpx.post(instance.url, content=picture_bytes(i))
    status, output = run(instance, archives, "start", "1.1.0", "--shadow", 5)
    assert status == 0, output
    assert "1.1.0 and 1.0.0 agree on 5 of 5 captured photos (100.0 %)" in output
    assert re.search(r"a photo at a time: 1.0.0 [\d.]+ ms, 1.1.0 [\d.]+ ms", output)
    assert [parse(text)["stage"] for text in store.history()[:4]] == ["released", "baking", "shadow", "released"]


@pytest.mark.slow
def test_kept_versions_answer_under_their_own_paths(instance, store, archives):
    status, output = run(instance, archives, "start", "1.1.0", "--keep")
    assert status == 0, output
    for version in ("1.0.0", "1.1.0"):
        assert httpx.post(f"{instance.url}/{version}", content=picture_bytes(1)).json()["version"] == version
    assert version_served(instance) == "1.1.0"


@pytest.mark.slow
def test_version_that_clients_name_is_answered_until_it_is_not_there(instance, store, archives):
    load = Load(instance.port, 8, path="/predictions/seefood/1.0.0")
    instance.wait_for(lambda: len(load.answers) > 50)
    status, output = run(instance, archives, "start", "1.1.0")
    assert status == 0, output
    instance.wait_for(lambda: len(load.failed) > 50)
    load.stop()
    assert {(answer[2], b"1.0.0" in answer[3]) for answer in load.failed} == {(404, True)}
    assert min(answer[0] for answer in load.failed) > max(answer[0] for answer in load.answers if answer[2] == 200)


def test_status_and_history_are_tables(instance, store, archives):
    status, output = run(instance, archives, "status")
    assert status == 0
    assert re.search(rf"^{instance.name} +1\.0\.0 +1\.0\.0 +reconciled +yes +\d+ s +openvino/\w+(: .*)?$", output, re.MULTILINE)
    status, output = run(instance, archives, "history")
    assert re.search(r"^\d{4}-\d\d-\d\dT[\d:]+ +released +seefood +1\.0\.0 +1\.0\.0 +\S+@\S+ +a test$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["start", "9.9.9"], "no archive of seefood 9.9.9"),
        (["start", "1.0.0"], "1.0.0 is served already"),
        (["start", "1.1.0", "--canary", "50"], "one instance alone has no canary"),
        (["start", "one"], "version is 'one', expected a semantic version"),
    ],
)
def test_refused_rollout_changes_nothing(instance, store, archives, arguments, reason):
    before = store.read()
    status, output = run(instance, archives, *arguments)
    assert status == 1, output
    assert reason in output
    assert store.read() == before


def test_rollout_without_instances_is_refused_unless_it_is_the_first(archives, tmp_path):
    class Nobody:
        release = str(tmp_path / "release.json")

    status, output = run(Nobody, archives, "start", "1.0.0")
    assert status == 0, output
    status, output = run(Nobody, archives, "start", "1.1.0")
    assert status == 1, output
    assert "no running instance follows" in output
    status, output = run(Nobody, archives, "start", "1.1.0", "--unwatched")
    assert status == 0
    status, output = run(Nobody, archives, "back")
    assert status == 0, output
    assert parse(FolderStore(tmp_path / "release.json").read()[0])["default"] == "1.0.0"


@pytest.mark.slow
def test_fifty_rollouts_leave_nothing_behind(instance, store, archives):
    def sizes():
        run_dir = ROOT / "build" / f"serve-{instance.port}"
        family = [psutil.Process(instance.process.pid), *instance.family()]
        workers = instance.parts("worker")
        by_kind = [process for process in family if process not in workers]
        folders = [len(list(folder.iterdir())) for folder in (run_dir, run_dir / "unpacked", run_dir / "temp" / "models")]
        assert len(list((run_dir / "metrics").iterdir())) < 40  # those of ended workers are merged every 30 s
        return {
            "processes": len(family),
            "threads": sum(process.num_threads() for process in by_kind),
            "files": sum(process.num_fds() for process in by_kind),
            "folders": folders,
            "MB": [(process.name(), round(process.memory_info().rss / 1e6)) for process in by_kind],
        }

    def roll(count):
        for i in range(count):
            version = VERSIONS[(i + 1) % 3]
            document = release(store, {version: archives[version]}, version)
            instance.wait_state("reconciled", document)
        time.sleep(1)
        return sizes()

    for archive in archives.values():
        store.put(archive)
    after = {9: roll(9), 24: roll(15), 59: roll(35)}
    for count, found in after.items():
        print(f"after {count} rollouts: {found}")
    first, last = after[9], after[59]
    assert last["processes"] == first["processes"]
    assert last["folders"] == first["folders"]
    assert last["threads"] <= first["threads"] + 2
    assert last["files"] <= first["files"] + 2
    total = {count: sum(size for _, size in found["MB"]) for count, found in after.items()}
    assert total[59] <= 1.05 * total[9], total


@pytest.fixture
def unmanaged(archives, tmp_path):
    """(address of its predictions, tokens) of a TorchServe without a release document that serves 1.0.0."""
    port = free_port()
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{port + 1}\n"
        f"metrics_address=http://127.0.0.1:{port + 2}\ngrpc_inference_port={free_port()}\ngrpc_management_port={free_port()}\n"
        "enable_model_api=true\nload_models=seefood-1.0.0.mar\ndisable_system_metrics=true\n"
    )
    environment = {"JAVA_HOME": str(java_home()), "TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "LOG_LOCATION": str(tmp_path)}
    environment |= {"METRICS_LOCATION": str(tmp_path), "PATH": f"{ROOT}/.venv/bin:/usr/bin:/bin"}
    server = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
    server += ["--ts-config", "config.properties", "--model-store", str(archives["1.0.0"].parent)]
    with (tmp_path / "console.log").open("w") as console:
        process = subprocess.Popen(server, cwd=tmp_path, env=environment, stdout=console, stderr=subprocess.STDOUT)
    keys, log = tmp_path / "key_file.json", (tmp_path / "console.log").read_text
    try:
        until(lambda: keys.exists() and "inference" in keys.read_text(), log, process)
        tokens = {name: json.loads(keys.read_text())[name]["key"] for name in ("management", "inference")}
        url, headers = f"http://127.0.0.1:{port + 1}/models/seefood", {"authorization": f"Bearer {tokens['management']}"}

        def is_ready():
            with contextlib.suppress(httpx.HTTPError, KeyError, IndexError):
                return httpx.get(url, headers=headers).json()[0]["workers"][0]["status"] == "READY"

        until(is_ready, log, process)
        yield f"http://127.0.0.1:{port}", {f"SEEFOOD_{name.upper()}_TOKEN": token for name, token in tokens.items()}
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=LIMIT_S)
        process.wait(LIMIT_S)


@pytest.mark.slow
def test_torchserve_without_a_release_document_is_rolled_with_its_tokens(unmanaged, archives, monkeypatch):
    url, tokens = unmanaged
    start = [sys.executable, "-m", "scripts.rollout.rollout", "--model-store", str(archives["1.0.0"].parent), "start"]

    def roll(version):
        return subprocess.run([*start, version, "--url", url], capture_output=True, text=True, timeout=LIMIT_S, check=False)

    refused = roll("1.1.0")
    assert refused.returncode == 1
    assert "Token Authorization failed" in refused.stderr
    for name, token in tokens.items():
        monkeypatch.setenv(name, token)
    headers = {"authorization": f"Bearer {tokens['SEEFOOD_MANAGEMENT_TOKEN']}"}
    bad = roll("2.2.0")
    assert bad.returncode == 1
    assert "the version before is still served" in bad.stderr
    done = roll("1.1.0")
    assert done.returncode == 0, done.stderr
    management = httpx.URL(url).copy_with(port=httpx.URL(url).port + 1)
    models = httpx.get(management.join("/models/seefood/all"), headers=headers).json()
    assert [model["modelVersion"] for model in models] == ["1.1.0"]
    assert roll("1.1.0").returncode == 1
