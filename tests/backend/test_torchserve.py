"""What surrounds TorchServe: the patched classes and the guard that ends all its processes."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from scripts.backend.torchserve import frontend_patch
from scripts.backend.torchserve.process import FOLDER
from tests.conftest import LIMIT_S

# a parent and a child that ignore SIGTERM if told so, and end with the guard's help alone
FAMILY = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(child.pid, flush=True)
time.sleep(3600)
"""


def test_patch_changes_a_few_bytes_of_two_classes_and_leaves_the_jar(tmp_path):
    jar = Path(importlib.util.find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    before = jar.read_bytes()
    frontend_patch.write_patched_jar(tmp_path / "patched.jar")
    assert jar.read_bytes() == before
    with zipfile.ZipFile(jar) as content, zipfile.ZipFile(tmp_path / "patched.jar") as written:
        assert set(written.namelist()) == set(frontend_patch.PATCHES)
        for name in written.namelist():
            installed, patched = content.read(name), written.read(name)
            assert patched[:8] == installed[:8]  # the magic number and the version
            assert abs(len(installed) - len(patched)) + sum(a != b for a, b in zip(installed, patched, strict=False)) > 0
            assert abs(len(installed) - len(patched)) < 40


def test_another_torchserve_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(frontend_patch.PATCHES, "org/pytorch/serve/wlm/Model.class", (re.compile(b"not in there"), b""))
    with pytest.raises(ValueError, match=r"this TorchServe is not 0\.12\.0"):
        frontend_patch.write_patched_jar(tmp_path / "patched.jar")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "seconds", "byte"), [("meek", "3600", b""), ("stubborn", "0.5", b""), ("stubborn", "3600", b"!")])
def test_guard_ends_the_whole_family_when_its_pipe_closes(kind, seconds, byte):
    command = [sys.executable, str(FOLDER / "guard.py"), seconds, sys.executable, "-c", FAMILY, kind]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    with guard.stdout as output, guard.stdin as pipe:
        grandchild = psutil.Process(int(output.readline()))
        family = psutil.Process(guard.pid).children(recursive=True)
        assert grandchild in family
        pipe.write(byte)
    assert guard.wait(LIMIT_S) != 0
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]


def test_guard_ends_the_rest_when_its_command_has_ended():
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3e3)']).pid, flush=True)"
    command = [sys.executable, str(FOLDER / "guard.py"), "3600", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as guard:
        left = int(guard.stdout.readline())
        assert guard.wait(LIMIT_S) == 0
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
