"""The commit and the version of the data that a run records, in every kind of checkout, with a real git."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from training.tracking import provenance
from training.tracking.provenance import dvc_version, git_commit

PERSON = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-C", str(folder), *PERSON, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, as that of this code."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("1")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "CHECKOUT", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_commit_is_that_of_the_code_wherever_the_command_runs(checkout, tmp_path, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_commit() == f"{commit} clean"
    git(tmp_path, "init", "-q")  # another repository around it, which is the current folder, too
    assert git_commit() == f"{commit} clean"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook
    assert git_commit() == f"{commit} clean"
    (checkout / "code.py").write_text("2")
    assert git_commit() == f"{commit} dirty"


def test_shallow_clone_and_a_folder_of_another_owner_have_a_commit(checkout, tmp_path, monkeypatch, capfd):
    commit = git(checkout, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{checkout}", "shallow")
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path / "shallow")
    assert git_commit() == f"{commit} clean"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    if os.geteuid() == 0:
        for path in [tmp_path / "shallow", *(tmp_path / "shallow").rglob("*")]:
            os.chown(path, 12345, 12345)
    assert git_commit() == f"{commit} clean"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["zip", "zip within another repository", "no commit", "no git", "damaged"])
def test_where_there_is_no_commit_the_reason_is_said_once(checkout, tmp_path, monkeypatch, capfd, kind):
    if kind.startswith("zip"):
        shutil.rmtree(checkout / ".git")
    if kind == "zip within another repository":
        git(tmp_path, "init", "-q")
    if kind == "no commit":
        git(checkout, "update-ref", "-d", "HEAD")
    if kind == "no git":
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    if kind == "damaged":
        (checkout / ".git" / "HEAD").write_text("x")
    assert git_commit() == "unknown"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("tracking: the commit of the code is not recorded: ")
    monkeypatch.setenv("RANK", "1")
    git_commit()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\nouts:\n=======\n", "outs: []", "outs:\n- path: data\n", "3", "", "\xff\xfe"])
def test_dvc_file_that_is_damaged_ends_no_training(tmp_path, text, capfd):
    (tmp_path / "data").mkdir()
    assert dvc_version(tmp_path / "data") == "not tracked"
    Path(tmp_path / "data.dvc").write_bytes(text.encode("latin-1"))
    assert dvc_version(tmp_path / "data") == "unknown"
    assert "data.dvc is not as DVC writes it" in capfd.readouterr().err
