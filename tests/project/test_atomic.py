import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from scripts.atomic import aside, copy, write_json, write_text
from tests.conftest import ROOT


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_after_any_exception_all_is_as_it_was(tmp_path, error):
    path, folder = tmp_path / "a.txt", tmp_path / "b"
    path.write_text("old")
    folder.mkdir()
    (folder / "x").write_text("old")

    def write_half(target, is_folder):
        with aside(target) as part:
            if is_folder:
                part.mkdir()
            (part / "y" if is_folder else part).write_text("half")
            raise error

    for target in (path, folder):
        with pytest.raises(error):
            write_half(target, target is folder)
    assert path.read_text() == "old"
    assert names(folder) == ["x"]
    assert names(tmp_path) == ["a.txt", "b"]


def test_folder_takes_the_place_of_a_folder_wholly(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "x").write_text("old")
    with aside(folder) as part:
        part.mkdir()
        (part / "y").write_text("new")
    assert names(tmp_path) == ["b"]
    assert names(folder) == ["y"]


KILLED = """
import os, signal, sys
from pathlib import Path
from scripts import atomic

path = Path(sys.argv[1])
if sys.argv[2] == "between":
    atomic._remove = lambda path: os.kill(os.getpid(), signal.SIGKILL) if path.name.endswith(".old.part") else None
    Path.replace = lambda path, target, replace=Path.replace: (
        os.kill(os.getpid(), signal.SIGKILL) if path.name.endswith(".part") else replace(path, target)
    )
with atomic.aside(path) as part:
    if sys.argv[2] == "between":
        part.mkdir()
    else:
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path, moment):
    """Beside `path`, what a process left that was killed at this moment."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    return [left for left in path.parent.iterdir() if left.name.endswith(".part")]


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "a.txt"
    assert len(killed(path, "writing")) == 1
    write_text(path, "whole")
    assert names(tmp_path) == ["a.txt"]


def test_folder_of_a_process_killed_between_its_renames_comes_back(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "x").write_text("old")
    assert len(killed(folder, "between")) == 2
    assert not folder.exists()
    with aside(folder) as part:
        assert names(folder) == ["x"]
        part.mkdir()
        (part / "y").write_text("new")
    assert names(tmp_path) == ["b"]
    assert names(folder) == ["y"]


def test_of_many_who_write_at_a_time_each_is_whole(tmp_path):
    path, contents = tmp_path / "a.txt", [str(digit) * 200_000 for digit in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_text, path), contents * 5))  # raises what a writer raises
        assert path.read_text() in contents
    assert names(tmp_path) == ["a.txt"]


def test_full_disk_leaves_the_file_as_it_was(tmp_path, mount_disk):
    disk = mount_disk(tmp_path / "disk", "64k")
    write_text(disk / "a.txt", "old")
    source = tmp_path / "large"
    source.write_bytes(os.urandom(200_000))
    with pytest.raises(OSError, match="No space left"):
        copy(source, disk / "a.txt")
    assert (disk / "a.txt").read_text() == "old"
    assert names(disk) == ["a.txt"]
