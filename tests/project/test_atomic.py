import os
import signal
import subprocess
import sys

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


def test_what_a_killed_process_left_is_replaced(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom scripts.atomic import aside\n"
        "with aside(Path(sys.argv[1])) as part:\n    part.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.txt"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["a.txt.part"]
    write_text(path, "whole")
    assert names(tmp_path) == ["a.txt"]


def test_folder_of_a_process_killed_between_its_renames_comes_back(tmp_path):
    (tmp_path / "b.old.part").mkdir()
    (tmp_path / "b.old.part" / "x").write_text("old")
    with aside(tmp_path / "b") as part:
        assert names(tmp_path / "b") == ["x"]
        part.mkdir()
        (part / "y").write_text("new")
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == ["y"]


def test_full_disk_leaves_the_file_as_it_was(tmp_path, mount_disk):
    disk = mount_disk(tmp_path / "disk", "64k")
    write_text(disk / "a.txt", "old")
    source = tmp_path / "large"
    source.write_bytes(os.urandom(200_000))
    with pytest.raises(OSError, match="No space left"):
        copy(source, disk / "a.txt")
    assert (disk / "a.txt").read_text() == "old"
    assert names(disk) == ["a.txt"]
