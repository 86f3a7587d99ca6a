"""What the front end starts from: an archive of its classes, which is used where it is whole and for this very Java and jar."""

import os
import shutil
from pathlib import Path

import pytest

from handler.locks import alone
from scripts.backend.torchserve import class_data, front_end, process
from scripts.backend.torchserve.environment import java_home
from scripts.backend.torchserve.front_end import PATCHED, FrontEnd, note_checksum
from scripts.backend.torchserve.process import ServeError, TorchServe, make_private
from scripts.backend.torchserve.sockets import choose_addresses, remove_short_folder
from scripts.settings import Settings
from tests.waiting import until

SHARED = "-XX:SharedArchiveFile="


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """The folder that stands for `build`; no image's files are found."""
    monkeypatch.setattr(front_end, "own_folder", lambda: tmp_path / "own")
    monkeypatch.setattr(front_end, "image_folder", lambda: tmp_path / "image")
    return tmp_path / "own"


@pytest.fixture
def java(tmp_path):
    """A Java that is none, of which its version is known."""
    (tmp_path / "java").mkdir()
    (tmp_path / "java" / "release").write_text('JAVA_VERSION="17.0.1"')
    return tmp_path / "java"


def with_archive(java, content=b"classes"):
    """The front end on this Java, with an archive in its place."""
    made = FrontEnd(java)
    made.archive.parent.mkdir(parents=True, exist_ok=True)
    made.archive.write_bytes(content)
    note_checksum(made.archive)
    return made


def shared(command):
    """The archive that a command names, if it names one."""
    found = [word.removeprefix(SHARED) for word in command if word.startswith(SHARED)]
    assert len(found) < 2
    return Path(found[0]) if found else None


def test_archive_is_named_once_it_is_there(java, tmp_path):
    (tmp_path / "own").mkdir()
    assert shared(FrontEnd(java).command(tmp_path)) is None
    assert FrontEnd(java).lacks_archive
    made = with_archive(java)
    assert shared(FrontEnd(java).command(tmp_path)) == made.archive
    assert not FrontEnd(java).lacks_archive


@pytest.mark.parametrize("damage", ["cut off", "changed", "no checksum", "a checksum of nothing", "gone"])
def test_damaged_archive_is_left_out_and_made_again(java, tmp_path, damage):
    path = with_archive(java).archive
    checksum = path.with_name(path.name + ".sha256")
    if damage == "cut off":
        path.write_bytes(b"class")
    elif damage == "changed":
        path.write_bytes(b"Classes")
    elif damage == "no checksum":
        checksum.unlink()
    elif damage == "a checksum of nothing":
        checksum.write_bytes(b"\xff")
    else:
        path.unlink()
    assert shared(FrontEnd(java).command(tmp_path)) is None
    assert FrontEnd(java).lacks_archive


def test_archive_of_another_java_jar_or_options_is_not_used(java, tmp_path, monkeypatch):
    with_archive(java)
    other = shutil.copytree(java, tmp_path / "other")
    assert shared(FrontEnd(other).command(tmp_path)) is None
    (java / "release").write_text('JAVA_VERSION="17.0.2"')
    assert shared(FrontEnd(java).command(tmp_path)) is None
    (java / "release").write_text('JAVA_VERSION="17.0.1"')
    with monkeypatch.context() as patch:
        patch.setattr(front_end, "vm_args", lambda: ["-XX:+UseG1GC"])
        assert shared(FrontEnd(java).command(tmp_path)) is None
    with monkeypatch.context() as patch:
        patch.setattr(front_end, "WRITTEN_AT", 0)
        assert shared(FrontEnd(java).command(tmp_path)) is None
    assert shared(FrontEnd(java).command(tmp_path)) is not None
    (java / "release").unlink()  # of no known version
    assert shared(FrontEnd(java).command(tmp_path)) is None
    assert not FrontEnd(java).lacks_archive


def test_archive_of_an_image_comes_before_the_own_one(java, tmp_path):
    made = FrontEnd(java, tmp_path / "image")
    made.archive.parent.mkdir(parents=True)
    made.archive.write_bytes(b"classes of the image")
    note_checksum(made.archive)
    with_archive(java)
    assert shared(FrontEnd(java).command(tmp_path)) == made.archive
    assert made.archive.is_relative_to(tmp_path / "image")


def test_patched_jar_is_written_once_for_all_and_again_where_it_is_damaged(java, tmp_path):
    first = FrontEnd(java).class_path(tmp_path)
    path = Path(first[1].partition(":")[0])
    content, status = path.read_bytes(), path.stat()
    assert FrontEnd(java).class_path(tmp_path / "elsewhere") == first
    assert path.stat().st_ino == status.st_ino
    path.write_bytes(content[:-1])
    assert FrontEnd(java).class_path(tmp_path) == first
    assert path.read_bytes() == content
    assert path.stat().st_mtime == status.st_mtime  # which Java compares with what is in an archive of classes


def test_without_a_folder_that_can_be_written_the_jar_is_the_servers_own(java, tmp_path):
    (tmp_path / "own").touch()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    made = FrontEnd(java)
    assert made.class_path(run_dir)[1].startswith(f"{run_dir / PATCHED}:")
    assert shared(made.command(run_dir)) is None
    assert not made.lacks_archive  # none could be made


def test_archive_with_which_it_ends_at_the_start_is_forgotten(java, own, tmp_path, monkeypatch, umask):
    (java / "bin").mkdir()
    (java / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    (java / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(java))
    made, run_dir = with_archive(java), tmp_path / "run"
    make_private(run_dir)
    torchserve = TorchServe(run_dir, choose_addresses(run_dir), Settings(min_free_bytes=0))
    try:
        with pytest.raises(ServeError, match="TorchServe ended while starting"):
            torchserve.wait_until_up()
    finally:
        torchserve.stop(now=True)
        remove_short_folder(run_dir / "sockets")
    assert FrontEnd(java).lacks_archive
    assert not made.archive.exists()


def test_one_process_at_a_time_makes_an_archive(java):
    made = FrontEnd(java)
    made.archive.parent.mkdir(parents=True)
    with alone(made.archive.parent, 0), pytest.raises(TimeoutError):
        class_data.make(made)


@pytest.mark.slow
@pytest.mark.server
def test_front_end_maps_its_classes_from_the_archive_that_was_made_in_the_background(own, tmp_path, umask, monkeypatch):
    own.mkdir()
    # with an ordinary priority: beside other tests it would have nothing of the CPU
    monkeypatch.setattr(process, "CLASS_DATA", [word for word in process.CLASS_DATA if word != "--nice"])
    run_dir = tmp_path / "run"
    make_private(run_dir)

    def maps_archive(keep=False):
        """Start TorchServe; whether its Java has the archive in memory."""
        torchserve = TorchServe(run_dir, choose_addresses(run_dir), Settings(min_free_bytes=0))
        try:
            torchserve.wait_until_up()
            if keep:
                os.umask(0o022)  # as where an image is built
                torchserve.keep_classes()
                until(lambda: not FrontEnd(java_home()).lacks_archive, read_log, torchserve._maker)
            (pid,) = Path(f"/proc/{torchserve.process.pid}/task/{torchserve.process.pid}/children").read_text().split()
            return str(torchserve.front_end.archive) in Path(f"/proc/{pid}/maps").read_text()
        finally:
            torchserve.stop()
            remove_short_folder(run_dir / "sockets")

    def read_log():
        return (run_dir / "logs" / "classes.log").read_text()

    assert not maps_archive(keep=True)
    assert maps_archive()
    archive = FrontEnd(java_home()).archive
    assert {path.stat().st_mode & 0o444 for path in archive.parent.iterdir() if path.name.startswith("classes-")} == {0o444}
    archive.chmod(0o600)
    with archive.open("r+b") as file:  # in the middle of its classes, where Java itself would not look
        file.seek(archive.stat().st_size // 2)
        file.write(bytes(64 * 1024))
    assert not maps_archive()
