"""A real server in places and ends that are not the usual ones: long paths, read-only folders, closed terminals."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.backend.test_process import SECRETS
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.serving.server import Server, status_of
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def checkout(tmp_path):
    """checkout(path): a copy of what serves, in a folder of any name."""

    def copy(path):
        for name in ("scripts", "handler", "web"):
            shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "config.properties", path)
        return path

    return copy


def server_of(checkout, monkeypatch, model_store, *arguments):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    return Server(model_store, free_port(), *arguments)


def environment_of(process):
    return Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")


def test_server_in_a_long_path_answers_and_its_workers_have_no_secret_and_its_files_no_reader(
    checkout, model_store, photo, tmp_path, monkeypatch
):
    for name in SECRETS:
        if not name.startswith("SEEFOOD_RELEASE"):
            monkeypatch.setenv(name, "hush-" + name)
    monkeypatch.delenv("ECS_CONTAINER_METADATA_URI_V4")
    monkeypatch.delenv("JAVA_TOOL_OPTIONS")
    monkeypatch.delenv("PYTHONSTARTUP")
    monkeypatch.setenv("SEEFOOD_CAPTURE_SHARE", "1")
    folder = checkout(tmp_path / ("long-" * 20) / "checkout")
    server = server_of(folder, monkeypatch, model_store).wait_ready()
    assert status_of(server.url, method="POST", content=photo) == 200
    family, door = server.family(), server.part("door")
    assert {server.part("JVM"), server.part("worker"), door} <= set(family)
    for process in family:
        secrets = {value.partition("=")[0] for value in environment_of(process) if "hush" in value}
        # the door asks those who manage models for the one, and shows a collector of traces the other
        own = {"SEEFOOD_MANAGEMENT_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"}
        assert secrets == (own if process == door else set()), process.cmdline()
    assert {path.name for path in (folder / "build").iterdir()} == {f"serve-{server.port}", "front-end"}
    run_dir = folder / "build" / f"serve-{server.port}"
    assert len(str(run_dir)) > 107
    assert list((run_dir / "captured").iterdir())
    folders = [run_dir, *((run_dir / name).resolve() for name in ("temp", "sockets"))]
    for path in [one for folder in folders for one in (folder, *folder.rglob("*"))]:
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path
    assert server.end()[1] == 0
    assert not any(folder.exists() for folder in folders[1:])


@pytest.fixture
def read_only(mount_disk, tmp_path):
    """read_only(folder): the folder mounted read-only. Skips where mounting is not allowed."""
    mount_disk(tmp_path / "probe", "64k")
    mounted = []

    def mount(folder):
        for options in ("bind", "remount,bind,ro"):
            subprocess.run(["mount", "-o", options, folder, folder], check=True)
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_read_only_checkout_serves_and_writes_to_the_users_folder(checkout, model_store, photo, tmp_path, monkeypatch, read_only):
    folder = checkout(tmp_path / "checkout")
    shutil.copytree(model_store, folder / "model_store")
    (folder / "model_store" / "release.json").unlink(missing_ok=True)
    read_only(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = server_of(folder, monkeypatch, folder / "model_store").wait_ready()
    assert status_of(server.url, method="POST", content=photo) == 200
    stop = [sys.executable, "-m", "scripts.serving.serve", "--stop", "--port", str(server.port)]
    subprocess.run(stop, check=True, capture_output=True)
    output = server.wait()
    assert re.search(r"note: \S+/model_store is read-only, so seefood-1\.0\.0\.mar is served whatever is rolled out", output)
    assert "cannot be written" not in output
    assert {path.name for path in (tmp_path / "state" / "seefood").iterdir()} == {f"serve-{server.port}", "front-end"}


def test_closed_terminal_ends_a_server_in_order(model_store, photo, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(port), "--model-store", str(model_store)]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, command, {**os.environ, "SEEFOOD_GRACE_S": "2"})
    # what it prints stays in the terminal: a thread that reads would hold it open
    process = psutil.Process(child)
    until(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200 or process.status() == psutil.STATUS_ZOMBIE)
    family = process.children(recursive=True)
    url = f"http://127.0.0.1:{port}/predictions/seefood"
    os.close(terminal)
    answers = [httpx.post(url, content=photo).status_code for _ in range(5)]  # it still serves for the two seconds
    assert answers == [200] * 5
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
    assert not (ROOT / "build" / f"serve-{port}" / "serve.pid").exists()


def test_server_in_a_folder_that_may_hold_no_programs_answers_on_loopback_and_says_so(model_store, photo, tmp_path, mount_disk):
    disk = mount_disk(tmp_path / "disk", "512m,noexec")
    server = Server(model_store, free_port(), "--run-dir", str(disk / "run")).wait_ready()
    assert status_of(server.url, method="POST", content=photo) == 200
    output, status = server.end()
    assert status == 0
    assert re.search(rf"TorchServe is on loopback: why=.*{disk / 'run'} may hold no programs \(noexec\)", output)
