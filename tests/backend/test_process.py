"""TorchServe's folder and environment: for its user alone, with no secret, and with sockets that fit."""

import os
import re
import socket
from pathlib import Path

import pytest

from scripts.backend.torchserve import process
from scripts.backend.torchserve.environment import passed_on, server_environment
from scripts.backend.torchserve.process import ServeError, make_private
from scripts.settings import Settings

SECRETS = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "ECS_CONTAINER_METADATA_URI_V4",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_PASSWORD",
    "SEEFOOD_RELEASE",
    "SEEFOOD_MANAGEMENT_TOKEN",
    "SEEFOOD_INFERENCE_TOKEN",
    "GITHUB_TOKEN",
    "PIP_INDEX_URL",
    "https_proxy",
    "DATABASE_URL",
    "JAVA_TOOL_OPTIONS",
    "PYTHONSTARTUP",
    "TS_KEYSTORE_PASS",
    "TORCH_HUB_TOKEN",
    "CUDA_API_KEY",
    "a name that nobody thought of",
]
HARMLESS = ["LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"]


def test_environment_of_torchserve_holds_what_it_needs_and_no_secret(tmp_path, monkeypatch):
    for name in [*SECRETS, *HARMLESS]:
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.setenv("HOME", "/home/somebody")  # where ~/.aws is
    environment = server_environment(tmp_path, "127.0.0.1", 8080, Settings())
    assert not set(SECRETS).intersection(environment)
    assert {name: environment[name] for name in HARMLESS} == {name: f"value of {name}" for name in HARMLESS}
    assert not [value for value in environment.values() if "/home/somebody" in value]
    assert environment["PATH"].endswith(os.environ["PATH"])


def test_what_is_passed_on_is_named():
    assert passed_on({"PATH": "/bin", "PATH_TO_KEY": "x", "MY_LANG": "x", "LC_X": "y"}) == {"PATH": "/bin", "LC_X": "y"}


def modes(folder):
    return {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")] if not path.is_symlink()}


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_folder_and_what_lies_in_it_are_made_private_and_so_is_what_comes(tmp_path, umask):
    run_dir = tmp_path / "run"
    for name in ("logs", "captured", "unpacked/a/handler", "archives", "own"):
        (run_dir / name).mkdir(parents=True)
        (run_dir / name / "file").touch()
    for name in ("good-1.json", "serve.pid"):
        (run_dir / name).touch()
    (run_dir / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch()
    make_private(run_dir)
    (run_dir / "logs" / "new").touch()
    (run_dir / "new").mkdir()
    assert modes(run_dir) == {0}
    assert (tmp_path / "elsewhere").stat().st_mode & 0o077 == 0o044


def test_folder_of_all_is_left_as_it_is(tmp_path, umask):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    with pytest.raises(ServeError, match=r"/tmp is not this user's own: choose another --run-dir"):
        make_private(tmp_path / "tmp")
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, umask):
    (tmp_path / "file").touch()
    with pytest.raises(ServeError, match=rf"{tmp_path}/file/run cannot be written: Not a directory: choose another folder"):
        make_private(tmp_path / "file" / "run")


def test_full_disk_at_the_start_is_named_with_what_to_do(tmp_path, mount_disk, umask):
    disk = mount_disk(tmp_path / "disk", "16k")
    with pytest.raises(ServeError, match=rf"{disk}\S* cannot be written: No space left on device: make room there"):
        process._prepare(disk / "run", 0)
    with pytest.raises(ServeError, match=r"the disk is full: \d+ MB are free in \S+, 1000000000 MB are needed: make room there"):
        process._prepare(tmp_path / "run", 10**15)


@pytest.mark.parametrize("length", [20, 60, 92, 93, 120, 200])
def test_socket_of_a_worker_fits_however_long_the_path_is(tmp_path_factory, length, umask):
    parent = tmp_path_factory.mktemp("s")
    run_dir = parent / ("x" * max(1, length - len(str(parent)) - 1))
    run_dir.mkdir()
    process._make_temp(run_dir)
    temp = Path(server_environment(run_dir, "127.0.0.1", 8080, Settings())["TEMP"])
    assert temp.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(temp / ".ts.sock.9000"))
    (run_dir / "temp" / "models").mkdir()
    process._remove_temp(run_dir)
    assert not list(run_dir.iterdir())
    assert not temp.exists()


def test_folder_that_a_killed_server_left_elsewhere_is_removed_by_the_next_start(tmp_path, umask):
    run_dir = tmp_path / ("x" * 90)
    run_dir.mkdir()
    process._make_temp(run_dir)
    left = (run_dir / "temp").resolve()
    process._make_temp(run_dir)
    assert not left.exists()
    process._remove_temp(run_dir)


def test_path_that_is_too_long_everywhere_is_named_with_what_to_do(tmp_path, monkeypatch, umask):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(ServeError, match=rf"no socket fits .*{re.escape(str(long))}.* has \d+ bytes, at most 107 .*set TMPDIR"):
        process._make_temp(long)
    assert not list(long.iterdir())
