"""The image, built and run for real on a Docker daemon, as hardened as on ECS; and docker-compose.yml."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scripts.archive.build import build
from scripts.backend.torchserve.sockets import SOCKET_PATH_BYTES
from scripts.release.address import open_store
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.hostile_files import webp_lossless
from tests.project.containers import build_image, docker_daemon, need_base_image
from tests.rollout.rolling import QUICK, Load, get, make_archives, release, reversion
from tests.serving.server import status_of
from tests.waiting import until
from training.export.export import export
from training.model import Checkpoint

pytestmark = [pytest.mark.container, pytest.mark.slow]

TAG = "under-test"
IMAGE = f"seefood:{TAG}"
SECRET = "canary-2f7c1e"  # what must not be found in the image
MAX_BYTES = 1.6e9
HARDENED = [
    "--read-only",
    "--tmpfs=/tmp:size=512m,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=512",
    "--memory=2g",
    "--stop-timeout=90",
]


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """A daemon that has our images."""
    # not in pytest's own folder: a daemon's socket must have a short path
    folder = tmp_path_factory.mktemp("docker")
    with docker_daemon(folder / "d") as docker:
        need_base_image(docker)
        build_image(docker, folder / "build", TAG, SECRET)
        yield docker


class Container:
    """A server in a container, with a folder of archives and their release document."""

    def __init__(self, docker, store, *options, **settings):
        self.docker, self.store, self.port = docker, store, free_port()
        environment = [f"--env={name}={value}" for name, value in {**QUICK, **settings}.items()]
        ports = [f"--publish=127.0.0.1:{self.port}:8080"]
        volume = [f"--volume={store.folder}:/opt/seefood/model_store"] if store else []
        self.name = docker("run", "--detach", *HARDENED, *ports, *volume, *environment, *options, IMAGE).split()[-1][:12]

    def wait_for(self, condition):
        return until(condition, lambda: self.log)

    def wait_ready(self):
        self.wait_for(lambda: self.ready)
        return self

    @property
    def ready(self):
        return get(f"http://127.0.0.1:{self.port}/readyz")[0] == 200

    @property
    def log(self):
        return self.docker("logs", self.name)

    def state(self, what="{{json .State}}"):
        return json.loads(self.docker("inspect", "--format", what, self.name))

    def inside(self, program):
        """What a Python program that runs in the container prints."""
        return self.docker("exec", self.name, "python", "-c", program).strip()

    def peak_mb(self):
        """The most memory that it has had, by its control group, of version 2 or 1."""
        places = ("memory.peak", "memory/memory.max_usage_in_bytes")
        program = (
            f"import pathlib\nfor p in {places}:\n p = pathlib.Path('/sys/fs/cgroup') / p\n if p.exists(): print(p.read_text())"
        )
        return int(self.inside(program).split()[0]) // 10**6

    def kill(self, word):
        """SIGKILL for each process with this in its command line, the first one excepted."""
        program = (
            "import psutil\nfor process in psutil.process_iter(['cmdline']):\n"
            f" if process.pid != 1 and any({word!r} in part for part in process.info['cmdline'] or ()): process.kill()"
        )
        self.docker("exec", self.name, "python", "-c", program, check=False)  # which may be ended with the container

    def ask(self):
        return httpx.post(f"http://127.0.0.1:{self.port}/predictions/seefood", content=picture_bytes(1), timeout=LIMIT_S).json()


@pytest.fixture
def run(docker):
    """Start a container that is removed with the test."""
    started = []

    def begin(store=None, *options, **settings):
        started.append(Container(docker, store, *options, **settings))
        return started[-1]

    yield begin
    for container in started:
        docker("rm", "--force", container.name)


@pytest.fixture(scope="module")
def archives(exported, tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    archives = make_archives(exported, folder, ["1.0.0", "1.1.0"])
    for version, format_name in {"2.0.0": "onnxruntime", "3.0.0": "torch"}.items():
        export(Checkpoint.load(tiny_run / "checkpoint.pt"), folder / format_name, format_name=format_name)
        archives[version] = build(folder / format_name, version, folder, model="seefood")
    return archives


def store_in(folder, archives):
    """A store that the container's user may write to, with 1.0.0 released."""
    folder.mkdir()
    folder.chmod(0o777)
    store = FolderStore(folder / "release.json")
    for archive in archives.values():
        store.put(archive)
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    for path in folder.iterdir():
        path.chmod(0o666)
    return store


@pytest.fixture
def store(archives, tmp_path):
    return store_in(tmp_path / "model_store", archives)


@pytest.fixture(scope="module")
def served(docker, archives, tmp_path_factory):
    """A container that serves 1.0.0 for several tests."""
    container = Container(docker, store_in(tmp_path_factory.mktemp("served") / "model_store", archives))
    yield container.wait_ready()
    docker("rm", "--force", container.name)


# the door's, beside those of the worker and TorchServe
NEEDED = ("openvino", "onnxruntime", "torch", "ts", "starlette", "uvicorn", "httptools", "uvloop", "multipart")


def test_image_is_small_and_has_what_it_needs_and_no_more(docker):
    (about,) = json.loads(docker("image", "inspect", IMAGE))
    print(f"{about['Size'] / 1e9:.2f} GB")
    print(docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE))
    assert about["Size"] <= MAX_BYTES
    assert about["Config"]["User"] == "10001:10001"
    labels = about["Config"]["Labels"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert labels["org.opencontainers.image.version"] == TAG
    assert labels["org.opencontainers.image.revision"] == commit
    program = (
        "import importlib.util as u, shutil, torch; print(torch.version.cuda); "
        f"print([n for n in {NEEDED} if not u.find_spec(n)]); "
        "print([n for n in ('torchvision', 'timm', 'mlflow', 'dvc', 'pip', 'uv', 'training', 'pytest') if u.find_spec(n)]); "
        "print([n for n in ('cc', 'gcc', 'make', 'git', 'curl') if shutil.which(n)], shutil.which('kill'))"
    )
    output = docker("run", "--rm", "--entrypoint", "python", IMAGE, "-c", program)
    # TorchServe runs kill for workers that take their time
    assert output.split("\n")[:4] == ["None", "[]", "[]", "[] /usr/bin/kill"]


def test_no_layer_holds_a_build_secret(docker):
    with subprocess.Popen([docker.client, "save", IMAGE], stdout=subprocess.PIPE, env=docker.environment) as saved:
        assert saved.stdout
        searched, found, tail = 0, False, b""
        while block := saved.stdout.read(1 << 24):
            found |= SECRET.encode() in tail + block
            searched, tail = searched + len(block), block[-100:]
    assert searched > 1e8
    assert not found
    assert SECRET not in docker("history", "--no-trunc", IMAGE)


def test_devcontainer_has_what_make_setup_needs(docker):
    program = "whoami; make --version; git --version; python3 -m venv /tmp/v && /tmp/v/bin/pip --version"
    output = docker("run", "--rm", f"seefood-dev:{TAG}", "sh", "-ec", program)
    assert output.startswith("dev\nGNU Make")
    about = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (about["build"]["target"], about["remoteUser"]) == ("dev", "dev")


def test_hardened_it_gets_ready_answers_and_can_write_nowhere_else(served):
    container = served
    answer = container.ask()
    assert (answer["version"], len(answer["predictions"])) == ("1.0.0", 4)
    container.wait_for(lambda: container.state()["Health"]["Status"] == "healthy")
    status = container.inside("print(open('/proc/1/status').read())")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert container.inside("print(open('/proc/1/comm').read())") == "tini"
    refused = "for path in ('/x', '/opt/seefood/x', '/opt/venv/x'):\n try: open(path, 'w')\n except OSError as e: print(e.errno)"
    assert container.inside(refused).split() == ["30", "30", "30"]


def test_one_port_is_open_to_others_and_torchserve_listens_on_sockets_of_its_user_alone(served):
    listening = json.loads(
        served.inside(
            "import json, psutil; print(json.dumps([c.laddr for c in psutil.net_connections('tcp') if c.status == 'LISTEN']))"
        )
    )
    assert sorted(map(tuple, listening)) == [("0.0.0.0", 8080), ("127.0.0.1", 8081), ("127.0.0.1", 8082)]
    mode, *sockets = served.inside(
        "import pathlib, stat\nfolder = pathlib.Path('/tmp/seefood/sockets')\nprint(oct(folder.stat().st_mode))\n"
        "for path in folder.iterdir(): print(path.resolve() if path.is_socket() else 'no socket')"
    ).split()
    assert mode == "0o40700"
    assert {path.rpartition("/")[2] for path in sockets} >= {"inference", "management"}
    assert max(len(path.encode()) for path in sockets) <= SOCKET_PATH_BYTES
    # on the tmpfs, the one place that can be written to
    assert "tmpfs" in served.inside("print([m for m in open('/proc/mounts') if m.split()[1] == '/tmp'])")


def test_java_maps_its_classes_from_the_archive_of_the_image(served):
    mapped = served.inside(
        "import pathlib, psutil\n(java,) = [p.pid for p in psutil.process_iter() if p.name() == 'java']\n"
        "print({line.split()[-1] for line in pathlib.Path(f'/proc/{java}/maps').read_text().splitlines() if '.jsa' in line})"
    )
    assert "/ts/frontend/front-end/" in mapped


def test_smoke_passes_through_the_door(served):
    command = [sys.executable, "-m", "scripts.rollout.smoke", "--release", served.store.address]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{served.port}"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_by_https_it_answers_and_its_health_check_follows(run, store):
    container = run(store, SEEFOOD_TLS="true")
    url = f"https://127.0.0.1:{container.port}"
    container.wait_for(lambda: container.state()["Health"]["Status"] == "healthy")
    cert = container.inside("print(open('/tmp/seefood/tls/cert.pem').read())")
    context = ssl.create_default_context(cadata=cert)
    answer = httpx.post(f"{url}/predictions/seefood", content=picture_bytes(1), timeout=LIMIT_S, verify=context)
    assert answer.json()["version"] == "1.0.0"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{container.port}/readyz")


def test_killed_worker_comes_back(served):
    container = served
    container.kill("model_service_worker")
    # the request under which it dies, and what comes before the next one is there, get an error
    container.wait_for(lambda: container.ask().get("version") == "1.0.0")
    container.wait_ready()
    assert container.state()["Running"]


def test_rollout_inside_fails_no_request_and_changes_the_export_format(served, archives):
    container, store = served, served.store
    load = Load(container.port, 4)
    for version in ("2.0.0", "3.0.0"):
        command = [
            sys.executable,
            "-m",
            "scripts.rollout.rollout",
            "--release",
            store.address,
            "--model-store",
            str(archives["1.0.0"].parent),
        ]
        environment = {**os.environ, **QUICK}
        done = subprocess.run(
            [*command, "start", version], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + container.log
        assert container.ask()["version"] == version
    answers = load.stop()
    assert len(answers) > 100
    assert not load.failed, container.log


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(run, store, archives):
    slow = reversion(archives["1.0.0"], "4.0.0", store.folder, "is slow")
    release(store, {"4.0.0": slow}, "4.0.0")
    container = run(store).wait_ready()
    load = Load(container.port, 16)
    container.wait_for(lambda: len(load.answers) > 16)
    load.over.set()
    begun = time.monotonic()
    container.docker("stop", container.name)
    answers = load.stop()
    assert sum(ended > begun for _, ended, *_ in answers) >= 8
    assert not load.failed
    state = container.state()
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert "stopped by SIGTERM: no process left" in container.log


def test_restarted_it_serves_what_is_released(run, store, archives):
    container = run(store, "--restart", "unless-stopped").wait_ready()
    release(store, {"1.1.0": archives["1.1.0"]}, "1.1.0")
    container.docker("restart", container.name)
    container.wait_ready()
    container.wait_for(lambda: container.ask()["version"] == "1.1.0")
    # what a crash looks like: the daemon starts it again
    before = container.state()["StartedAt"]
    container.kill("scripts.serving.serve")
    container.wait_for(lambda: container.state()["StartedAt"] != before)
    container.wait_ready()
    assert container.ask()["version"] == "1.1.0"


def test_stays_within_its_memory_while_two_versions_are_loaded_and_big_photos_come(run, store, archives):
    container = run(store, "--memory", "1536m", "--memory-swap", "1536m").wait_ready()
    load = Load(container.port, 8, [picture_bytes(i, (4000, 3000)) for i in range(4)])
    release(store, {"1.0.0": archives["1.0.0"], "1.1.0": archives["1.1.0"]}, "1.1.0")
    container.wait_for(lambda: container.ask()["version"] == "1.1.0")
    container.wait_for(lambda: len(load.answers) > 100)
    print(container.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container.name))
    load.stop()
    assert not load.failed
    assert not container.state()["OOMKilled"]


def test_costly_photos_take_no_more_than_their_budget(run, store):
    """Tiny files of many pixels, eight at a time: over a limit, and at the limit, in the memory that `make run-image` gives."""
    container = run(store, "--memory=3328m", "--memory-swap=3328m").wait_ready()
    container.ask()
    before = container.peak_mb()
    seen = {}
    with ThreadPoolExecutor(8) as clients:
        for side in (9400, 4449):
            photo, url = webp_lossless(side, side), f"http://127.0.0.1:{container.port}/predictions/seefood"
            answers = clients.map(lambda _, photo=photo, url=url: httpx.post(url, content=photo, timeout=LIMIT_S), range(24))
            seen[side] = Counter(answer.status_code for answer in answers)
            print(f"24 x {side} x {side}, {len(photo)} bytes: {dict(seen[side])}, {before} -> {container.peak_mb()} MB at the peak")
    assert seen[9400] == {413: 24}
    assert set(seen[4449]) <= {200, 503}
    assert seen[4449][200] >= 1
    assert container.peak_mb() < 3328 / 2
    assert container.ready
    assert not container.state()["OOMKilled"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--env=SEEFOOD_GRACE=15"], "SEEFOOD_GRACE is set, expected one of"),
        (["--env=SEEFOOD_GRACE_S=soon"], "SEEFOOD_GRACE_S is 'soon', expected a number"),
        (["--env=SEEFOOD_RELEASE=s3://bucket"], "s3://bucket"),
        ([], "no archive"),
    ],
)
def test_wrong_configuration_ends_it_with_the_reason(run, options, reason):
    container = run(None, *options)
    container.wait_for(lambda: not container.state()["Running"])
    assert container.state()["ExitCode"] == 1
    assert reason in container.log
    assert "Traceback" not in container.log


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose here")
def test_compose_serves_what_is_released_on_its_s3_and_mlflow_takes_runs(docker, archives, monkeypatch):
    compose = ["docker-compose", "--project-name", "seefood-under-test"]
    docker.environment["SEEFOOD_TAG"] = TAG
    try:
        docker.run(*compose, "up", "--detach", "--no-build")
        for name, value in {
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "laptop",
            "AWS_SECRET_ACCESS_KEY": "laptop",
        }.items():
            monkeypatch.setenv(name, value)
        until(lambda: docker.run(*compose, "ps", "buckets")[1].count("Exit 0"))
        store = open_store("s3://seefood/release.json")
        store.put(archives["1.0.0"])
        release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
        until(lambda: get("http://127.0.0.1:8080/readyz")[0] == 200)
        smoke = [sys.executable, "-m", "scripts.rollout.smoke", "--release", "s3://seefood/release.json", "http://127.0.0.1:8080"]
        done = subprocess.run(smoke, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: status_of("http://127.0.0.1:5000/health") == 200)
    except BaseException:
        print(docker.run(*compose, "logs", "--tail", "20", check=False)[1])
        raise
    finally:
        docker.run(*compose, "down", "--volumes", check=False)
