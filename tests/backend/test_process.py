"""TorchServe's folder and environment: for its user alone, with no secret, and with sockets that fit."""

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.backend.torchserve import native, process
from scripts.backend.torchserve.environment import FOLDER, java_home, passed_on, server_environment
from scripts.backend.torchserve.native import has_unix_sockets, native_folder, take_out
from scripts.backend.torchserve.process import ServeError, make_private
from scripts.backend.torchserve.sockets import (
    Addresses,
    choose_addresses,
    make_short_folder,
    remove_short_folder,
)
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
    "OTEL_EXPORTER_OTLP_HEADERS",
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
ADDRESSES = Addresses("unix:/x/inference", "unix:/x/management", "unix:/x/metrics")
HARMLESS = ["LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"]


def test_environment_of_torchserve_holds_what_it_needs_and_no_secret(tmp_path, monkeypatch):
    for name in [*SECRETS, *HARMLESS]:
        monkeypatch.setenv(name, f"value of {name}")
    monkeypatch.setenv("HOME", "/home/somebody")  # where ~/.aws is
    environment = server_environment(tmp_path, ADDRESSES, Settings())
    assert not set(SECRETS).intersection(environment)
    ours = f"{tmp_path / 'native'}:"
    assert {name: environment[name].removeprefix(ours) for name in HARMLESS} == {name: f"value of {name}" for name in HARMLESS}
    assert not [value for value in environment.values() if "/home/somebody" in value]
    assert f":{os.environ['PATH']}:" in environment["PATH"]
    assert environment["TS_MANAGEMENT_ADDRESS"] == "unix:/x/management"
    assert environment["SEEFOOD_PHOTO_DIR"] == "/x"
    on_ports = server_environment(tmp_path, Addresses(*["http://127.0.0.1:1"] * 3), Settings())
    assert "SEEFOOD_PHOTO_DIR" not in on_ports


def test_what_is_passed_on_is_named():
    assert passed_on({"PATH": "/bin", "PATH_TO_KEY": "x", "MY_LANG": "x", "LC_X": "y"}) == {"PATH": "/bin", "LC_X": "y"}


def make_temp(run_dir):
    return make_short_folder(run_dir / "temp", process.SOCKET_NAME)


def modes(folder):
    return {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")] if not path.is_symlink()}


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
    make_temp(run_dir)
    temp = Path(server_environment(run_dir, ADDRESSES, Settings())["TEMP"])
    assert temp.stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(temp / ".ts.sock.9000"))
    (run_dir / "temp" / "models").mkdir()
    remove_short_folder(run_dir / "temp")
    assert not list(run_dir.iterdir())
    assert not temp.exists()


def test_folder_that_a_killed_server_left_elsewhere_is_removed_by_the_next_start(tmp_path, umask):
    run_dir = tmp_path / ("x" * 90)
    run_dir.mkdir()
    make_temp(run_dir)
    left = (run_dir / "temp").resolve()
    make_temp(run_dir)
    assert not left.exists()
    remove_short_folder(run_dir / "temp")


def test_path_that_is_too_long_everywhere_is_named_with_what_to_do(tmp_path, monkeypatch, umask):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(ServeError, match=rf"no socket fits .*{re.escape(str(long))}.* has \d+ bytes, at most 107 .*set TMPDIR"):
        make_temp(long)
    assert not list(long.iterdir())


@pytest.mark.parametrize("length", [20, 95, 96, 97, 120])
def test_torchserve_listens_on_sockets_that_fit_and_that_its_user_alone_reaches(tmp_path_factory, length, umask):
    parent = tmp_path_factory.mktemp("s")
    run_dir = parent / ("x" * max(1, length - len(str(parent)) - 1))
    run_dir.mkdir()
    addresses = choose_addresses(run_dir)
    assert addresses.private
    folders = {Path(address.removeprefix("unix:")).parent for address in addresses}
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700]
    for address in addresses:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address.removeprefix("unix:"))
    remove_short_folder(run_dir / "sockets")
    assert not [folder for folder in folders if folder.exists()]
    assert not list(run_dir.iterdir())


@pytest.mark.parametrize(
    ("system", "machine", "has"),
    [
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", True),
        ("Linux", "ppc64le", False),
        ("Darwin", "x86_64", True),
        ("Darwin", "arm64", False),
        ("Windows", "AMD64", False),
    ],
)
def test_unix_sockets_are_used_where_the_jar_has_their_code(system, machine, has):
    assert has_unix_sockets(system, machine) == has


def test_jar_has_the_code_that_unix_sockets_need():
    with zipfile.ZipFile(native.jar()) as content:
        assert {f"META-INF/native/{name}" for name in native.LIBRARIES.values()} <= set(content.namelist())


def test_java_that_says_its_version_in_its_file_is_not_started_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "bin").mkdir()
    java, started = tmp_path / "bin" / "java", tmp_path / "started"
    java.write_text(f"#!/bin/sh\n: > {started}\necho 'openjdk version \"17.0.1\"' >&2\n")
    java.chmod(0o755)
    release = tmp_path / "release"
    for text, is_taken, is_started in (
        ('JAVA_VERSION="17.0.15"\n', True, False),
        ('JAVA_VERSION="1.8.0_292"\n', False, False),
        ("IMPLEMENTOR=somebody\n", True, True),
    ):
        release.write_text(text)
        assert (java_home() == tmp_path) == is_taken
        assert started.exists() == is_started
    java.unlink()
    release.write_text('JAVA_VERSION="17.0.15"\n')
    assert java_home() != tmp_path


def test_without_unix_sockets_it_is_loopback_on_three_free_ports(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    addresses = choose_addresses(tmp_path)
    assert not addresses.private
    assert len({int(address.removeprefix("http://127.0.0.1:")) for address in addresses}) == 3
    assert not list(tmp_path.iterdir())


def test_without_a_folder_for_programs_it_is_loopback_unless_the_image_has_one(tmp_path, mount_disk, monkeypatch):
    run_dir = mount_disk(tmp_path / "run", "8m,noexec")
    assert native_folder(run_dir) is None
    assert not choose_addresses(run_dir).private
    assert "LD_LIBRARY_PATH" not in server_environment(run_dir, ADDRESSES, Settings())
    prepared = tmp_path / "beside"
    monkeypatch.setattr(native, "prepared_folder", lambda: prepared)
    take_out(prepared)
    assert choose_addresses(run_dir).private
    assert server_environment(run_dir, ADDRESSES, Settings())["LD_LIBRARY_PATH"] == str(prepared)


def test_library_of_the_sockets_can_be_loaded_and_is_taken_out_once(tmp_path):
    folder = native_folder(tmp_path)
    take_out(folder)
    (library,) = folder.iterdir()
    ctypes.CDLL(str(library))
    written = library.stat().st_mtime_ns
    take_out(folder)
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]


def test_worker_that_does_not_end_is_killed_where_the_machine_has_no_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = server_environment(tmp_path, ADDRESSES, Settings())["PATH"]
    with subprocess.Popen(["/bin/sleep", "100"]) as process:
        # as TorchServe calls it: by its name, from the path
        subprocess.run(["kill", "-9", str(process.pid)], env={"PATH": path}, executable=shutil.which("kill", path=path), check=True)
        assert process.wait() == -9


@pytest.mark.parametrize(
    ("program", "stands_in"),
    [
        ('{"format": "openvino"}', True),
        ('{"format": "onnxruntime-int8"}', True),
        ('{"format": "torch"}', False),
        ('{"programs": {"a": {"format": "openvino"}, "b": {"format": "openvino-int8"}}}', True),
        ('{"programs": {"a": {"format": "openvino"}, "b": {"format": "torch"}}}', False),
        ('{"programs": {}}', False),
        (None, False),
    ],
)
def test_worker_gets_torch_only_if_its_program_needs_it_or_the_archive_is_not_ours(tmp_path, program, stands_in):
    if program:
        (tmp_path / "program.json").write_text(program)
    (tmp_path / "real" / "torch").mkdir(parents=True)
    (tmp_path / "real" / "torch" / "__init__.py").write_text("class Tensor: real = True")
    (tmp_path / "real" / "torch" / "nn.py").write_text("from torch import Tensor")
    path = os.pathsep.join([str(FOLDER / "without_torch"), str(tmp_path / "real")])
    code = "import torch; print(getattr(torch.Tensor, 'real', False))" + ("" if stands_in else "; import torch.nn")
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{not stands_in}\n", done.stderr
