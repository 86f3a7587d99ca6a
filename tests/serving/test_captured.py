"""Where photos are kept: a folder for the server's user alone, or a server that does not start and says why."""

import os
import re

import pytest

from scripts.backend.torchserve.sockets import ServeError
from scripts.release.folder_store import FolderStore
from scripts.serving.captured import with_captured
from scripts.serving.desired import DesiredState
from scripts.serving.health import Health
from scripts.serving.instance import Instance
from scripts.settings import Settings
from scripts.steps import Steps


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


@pytest.mark.parametrize("store_is_there", [True, False])
def test_old_photos_go_whatever_becomes_of_the_release(tmp_path, store_is_there):
    photo = tmp_path / "captured" / "ab" / "1-ab.photo"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"pixels")
    os.utime(photo, (1, 1))
    store = tmp_path / "store"
    if store_is_there:
        store.mkdir()
        (store / "release.json").write_text("{")
    settings, steps = Settings(), Steps(False)
    desired = DesiredState("one", FolderStore(store / "release.json"), tmp_path, settings, steps)
    Instance(desired, tmp_path, Health(settings, steps), settings, steps).poll()
    assert not photo.exists()
