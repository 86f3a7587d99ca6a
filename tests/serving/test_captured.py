"""Where photos are kept: a folder for the server's user alone, or a server that does not start and says why."""

import os
import re

import pytest

from scripts.backend.torchserve.sockets import ServeError
from scripts.serving.captured import with_captured
from scripts.settings import Settings


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_folder_is_the_servers_own_unless_another_is_named(tmp_path, umask):
    assert with_captured(Settings(), tmp_path).capture_dir == str(tmp_path / "captured")
    named = Settings(capture_share=1, capture_dir=str(tmp_path / "volume" / "photos"))
    assert with_captured(named, tmp_path) == named
    assert (tmp_path / "volume" / "photos").stat().st_mode & 0o777 == 0o700


def test_nothing_is_made_where_no_photo_is_kept(tmp_path):
    with_captured(Settings(capture_dir=str(tmp_path / "photos")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_relative_folder_means_the_same_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_captured(Settings(capture_share=1, capture_dir="photos"), tmp_path / "run").capture_dir == str(tmp_path / "photos")


def test_folder_that_others_may_look_into_is_refused_and_left_as_it_is(tmp_path, umask):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ServeError, match=rf"{re.escape(str(tmp_path))}/photos, .*: chmod 700 it, or name a new folder"):
        with_captured(Settings(capture_share=0.1, capture_dir=str(tmp_path / "photos")), tmp_path)
    assert (tmp_path / "photos").stat().st_mode & 0o777 == 0o755


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "photos").touch()
    with pytest.raises(ServeError, match="photos cannot be kept in .*/photos: File exists: choose SEEFOOD_CAPTURE_DIR"):
        with_captured(Settings(capture_share=1, capture_dir=str(tmp_path / "photos")), tmp_path)
