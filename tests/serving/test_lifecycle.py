"""A real TorchServe from start to end: signals, `--stop`, restarts, JSON logs, archives that cannot be served, other models."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from scripts.archive.build import build, provenance_of
from scripts.archive.pack import pack
from scripts.archive.read import unpack
from scripts.atomic import write_json
from scripts.backend.torchserve.process import PID_FILE
from scripts.release.document import entry_of, make, parse, write
from scripts.release.folder_store import FolderStore
from scripts.serving.serve import stop
from scripts.settings import Settings
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.serving.server import Server, status_of
from tests.waiting import until

pytestmark = pytest.mark.server


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything_and_leaves_logs_and_what_the_next_start_uses(model_store, signal_number):
    server = Server(model_store, free_port()).wait_ready()
    output, status = server.end(signal_number)
    assert status == 0
    assert f"stopped by {signal_number.name}" in output
    assert output.index("fetching: ") < output.index("TorchServe is up: ")  # while Java starts
    run_dir = ROOT / "build" / f"serve-{server.port}"
    assert {re.sub("-.*", "", path.name) for path in run_dir.iterdir()} == {
        *("logs", "archives", "drift", "native", "unpacked", "good", "programs")
    }
    for folder in ("archives", "unpacked"):
        assert [path.name.startswith("seefood-1.0.0-") for path in (run_dir / folder).iterdir()] == [True]
    shutil.rmtree(run_dir)


@pytest.mark.slow
def test_signal_while_starting_leaves_no_process(model_store):
    server = Server(model_store, free_port()).wait_output("starting TorchServe")
    time.sleep(0.5)
    _, status = server.end()
    assert status == 0


@pytest.mark.slow
def test_stop_command_ends_it_from_elsewhere(model_store):
    server = Server(model_store, free_port()).wait_ready()
    stop = [sys.executable, "-m", "scripts.serving.serve", "--stop", "--port", str(server.port)]
    done = subprocess.run(stop, capture_output=True, text=True, check=True)
    assert f"the server on port {server.port} has stopped" in done.stdout
    assert "stopped by SIGTERM" in server.wait()
    assert server.process.returncode == 0
    again = subprocess.run(stop, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr == f"error: no server is running on port {server.port}\n"


def test_stop_command_ends_one_that_has_only_begun_to_start(model_store):
    server = Server(model_store, free_port())
    run_dir = ROOT / "build" / f"serve-{server.port}"
    until((run_dir / PID_FILE).exists)
    stop(server.port, run_dir, Settings())
    assert "stopped by SIGTERM: no process left" in server.wait()
    assert server.process.returncode == 0
    assert not {PID_FILE, "metrics", "sockets", "temp"} & {path.name for path in run_dir.iterdir()}
    shutil.rmtree(run_dir)


def test_server_in_the_folder_of_another_is_refused_and_the_other_can_still_be_stopped(model_store, tmp_path):
    (tmp_path / PID_FILE).write_text("1")
    (tmp_path / "temp").mkdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "scripts.serving.serve", "--model-store", str(model_store), "--run-dir", str(tmp_path)]
        done = subprocess.run([*command, "--port", str(free_port())], capture_output=True, text=True, check=False)
    finally:
        os.close(folder)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: another server runs in {tmp_path}, or has begun to: stop it first, or choose another --port or --run-dir\n",
    )
    assert (tmp_path / PID_FILE).read_text() == "1"
    assert (tmp_path / "temp").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("other labels", "label map has 1 names"),
        ("changed labels", "index_to_name.json was changed"),
        ("renamed", r"seefood-3\.0\.1\.mar contains seefood 3\.0\.2 but is named seefood 3\.0\.1"),
    ],
)
def test_archive_that_cannot_be_served_ends_with_what_is_wrong_with_it(exported, tmp_path, damage, reason):
    parts, version = tmp_path / "parts", "3.0.2" if damage == "renamed" else "3.0.1"
    unpack(build(exported, version, tmp_path / "good"), parts)
    if damage != "renamed":
        (parts / "index_to_name.json").write_text('{"0": "soup"}')
    if damage == "other labels":
        write_json(parts / "provenance.json", provenance_of(parts))
    build(exported, "3.0.0", tmp_path)
    pack(parts, tmp_path / "seefood-3.0.1.mar")
    server = Server(tmp_path, free_port())
    output = server.wait()
    assert server.process.returncode == 1
    assert re.search(f"error: nothing can be served: .*{reason}", output)


@pytest.mark.slow
def test_ended_torchserve_is_started_again_and_predictions_come_back(model_store, photo):
    server = Server(model_store, free_port()).wait_ready()
    health = f"http://127.0.0.1:{server.port}"
    assert (status_of(f"{health}/readyz"), status_of(f"{health}/livez")) == (200, 200)
    server.part("JVM").kill()
    for wanted in (503, 200):
        until(lambda wanted=wanted: status_of(server.readyz) == wanted, lambda: server.output)
    assert status_of(f"{health}/livez") == 200
    assert status_of(server.url, method="POST", content=photo) == 200
    output, status = server.end()
    assert status == 0
    assert "TorchServe ended by itself" in output


@pytest.mark.slow
def test_full_disk_is_reported(model_store, mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "disk", "20m")
    for folder in ("scripts", "handler", "web"):
        shutil.copytree(ROOT / folder, disk / folder)
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--model-store", str(model_store)]
    environment = {**os.environ, "PYTHONPATH": str(disk)}
    done = subprocess.run(command, cwd=disk, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr


@pytest.mark.slow
def test_every_line_of_json_logs_is_a_json_object(model_store, tmp_path, monkeypatch):
    """From the first step to the last: the note on a newer archive, the announcement and the end, too."""
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    archive = shutil.copy(model_store / "seefood-1.0.0.mar", tmp_path)
    FolderStore(tmp_path / "release.json").write(write(make({"1.0.0": entry_of(Path(archive))}, "1.0.0", "released", "x")), None)
    shutil.copy(archive, tmp_path / "seefood-1.1.0.mar")
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:1")
    server = Server(tmp_path, free_port()).wait_ready()
    server.wait_output('"serving"')  # ready a moment before it says so
    output, status = server.end()
    lines = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert all(line.keys() >= {"at", "step"} for line in lines)
    steps = {line["step"]: line for line in lines}
    assert steps["newer archive"]["archive"] == "seefood-1.1.0.mar"
    assert (steps["serving"]["model"], steps["serving"]["version"]) == ("seefood", "1.0.0")
    assert lines[-1]["step"] == "stopped"
    assert lines[-1]["why"] == "SIGTERM"


@pytest.mark.slow
def test_readiness_names_the_version_with_json_logs_as_with_text(model_store, monkeypatch):
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    server = Server(model_store, free_port()).wait_ready()
    readiness = httpx.get(f"http://127.0.0.1:{server.port}/readyz").json()
    assert readiness == {"ready": True, "version": "1.0.0"}
    server.end()


@pytest.mark.slow
def test_a_model_of_any_name_is_served_under_that_name(exported, tmp_path, photo):
    build(ROOT / "model_store" / "starter", "0.5.0", tmp_path)
    build(exported, "1.0.0", tmp_path, model="flowers")
    unnamed = Server(tmp_path, free_port())
    assert "holds the models flowers, seefood: choose one" in unnamed.wait()
    assert unnamed.process.returncode == 1
    server = Server(tmp_path, free_port(), "--model", "flowers", model="flowers").wait_ready()
    answer = httpx.post(server.url, content=photo).json()
    assert (answer["model"], answer["version"]) == ("flowers", "1.0.0")
    assert status_of(server.url.replace("flowers", "seefood"), method="POST", content=photo) == 404
    assert parse((tmp_path / "release.json").read_text())["model"] == "flowers"
    server.wait_output(f"curl {server.url} -T")
    server.end()
    again = Server(tmp_path, server.port, model="flowers").wait_ready()  # the document names the model from now on
    again.end()


@pytest.mark.slow
def test_another_model_than_the_released_one_is_refused_by_both_names(exported, tmp_path):
    archive = build(exported, "1.0.0", tmp_path, model="flowers")
    document = make({"1.0.0": entry_of(archive)}, "1.0.0", "released", "rolled out")
    FolderStore(tmp_path / "release.json").write(write(document), None)
    for arguments in ([], ["--release", str(tmp_path / "release.json")]):
        server = Server(tmp_path, free_port(), "--model", "seefood", *arguments)
        output = server.wait()
        assert server.process.returncode == 1
        assert re.search("error: .*flowers.*seefood", output), output
