"""Archives on their way from a store: what the release document says decides, whatever lies in the cache."""

import json
import os
import subprocess
import sys
import time
import zipfile

import pytest

from handler.parts import check_parts, checksums
from scripts.archive.pack import pack
from scripts.atomic import write_json
from scripts.release.document import entry_of
from scripts.release.fetch import fetch, remove_old
from scripts.release.folder_store import FolderStore
from scripts.settings import Settings
from scripts.steps import Steps


def archive_of(folder, version="1.0.0", code="answer = 42\n"):
    """A small archive in a folder: one file of code, and its list."""
    parts = folder / "parts"
    (parts / "handler").mkdir(parents=True, exist_ok=True)
    (parts / "handler" / "a.py").write_text(code)
    (parts / "provenance.json").unlink(missing_ok=True)
    write_json(parts / "provenance.json", {"model": "seefood", "version": version, "parts": checksums(parts)})
    (folder / "store").mkdir(exist_ok=True)
    pack(parts, folder / "store" / f"seefood-{version}.mar")
    return folder / "store" / f"seefood-{version}.mar"


@pytest.fixture
def cache(tmp_path):
    """cache(): the folder of 1.0.0 as fetched into tmp_path/run, from tmp_path/store."""
    entry, store, run_dir = entry_of(archive_of(tmp_path)), FolderStore(tmp_path / "store" / "release.json"), tmp_path / "run"
    run_dir.mkdir()
    return lambda entry=entry: fetch(store, run_dir, "1.0.0", entry, Settings(min_free_bytes=0), Steps(False))


def list_again(folder):
    """Make an unpacked archive's own list fit what is in it."""
    write_json(folder / "provenance.json", json.loads((folder / "provenance.json").read_text()) | {"parts": checksums(folder)})


def change_code(folder):
    (folder / "handler" / "a.py").write_text("answer = 43\n")
    list_again(folder)


def add_code(folder):
    (folder / "handler" / "b.py").write_text("import os\n")
    list_again(folder)


def plant_cache(folder):
    (folder / "handler" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"code")


def link_elsewhere(folder):
    (folder / "handler" / "a.py").unlink()
    (folder / "handler" / "a.py").symlink_to("/etc/hostname")


@pytest.mark.parametrize("tamper", [change_code, add_code, plant_cache, link_elsewhere])
def test_unpacked_archive_that_was_changed_with_its_own_list_is_never_used(cache, tamper):
    folder = cache()
    original = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tamper(folder)
    assert cache() == folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == original


def test_code_is_compiled_for_its_workers_who_take_it_for_the_same_source_alone(cache):
    folder = cache()
    (compiled,) = (folder / "handler" / "__pycache__").iterdir()
    assert check_parts(folder)["version"] == "1.0.0"
    code = f"import sys; sys.path.insert(0, {str(folder / 'handler')!r}); import a; print(a.answer)"
    for source, answer, is_used in (("answer = 42\n", 42, True), ("answer = 43\n", 43, False)):
        (folder / "handler" / "a.py").write_text(source)
        done = subprocess.run([sys.executable, "-v", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == f"{answer}\n"
        assert (f"{compiled} matches" in done.stderr) == is_used


def test_code_that_cannot_be_compiled_is_left_to_the_worker(tmp_path):
    archive, run_dir = archive_of(tmp_path, code="answer = (\n"), tmp_path / "run"
    run_dir.mkdir()
    store = FolderStore(tmp_path / "store" / "release.json")
    folder = fetch(store, run_dir, "1.0.0", entry_of(archive), Settings(min_free_bytes=0), Steps(False))
    assert not list(folder.rglob("*.pyc"))


def test_cached_archive_saves_the_way_to_the_store_as_long_as_it_is_the_released_one(cache, tmp_path, capsys):
    cache()
    (tmp_path / "store" / "seefood-1.0.0.mar").rename(tmp_path / "away.mar")
    capsys.readouterr()
    assert (cache() / "handler" / "a.py").read_text() == "answer = 42\n"
    assert "fetching" not in capsys.readouterr().out


def test_cached_archive_that_was_changed_is_fetched_again_and_without_the_store_not_used(cache, tmp_path, capsys):
    folder = cache()
    (cached,) = (tmp_path / "run" / "archives").iterdir()
    cached.write_bytes(archive_of(tmp_path / "other", code="answer = 43\n").read_bytes())
    assert (cache() / "handler" / "a.py").read_text() == "answer = 42\n"
    cached.write_bytes((tmp_path / "other" / "store" / "seefood-1.0.0.mar").read_bytes())
    (tmp_path / "store" / "seefood-1.0.0.mar").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such archive: '.*store/seefood-1\.0\.0\.mar'"):
        cache()
    assert (folder / "handler" / "a.py").read_text() == "answer = 42\n"


def test_archive_with_another_checksum_is_not_unpacked_to_find_out_why(cache, tmp_path, monkeypatch):
    bomb = tmp_path / "store" / "seefood-1.0.0.mar"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(50_000_000))
    monkeypatch.setattr("scripts.release.fetch.unpack", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(
        ValueError, match=r"seefood-1\.0\.0\.mar: sha256 \w{12} does not match the release document's \w{12}: it was"
    ):
        cache()
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_pipe_or_device_in_the_store_is_no_archive(cache, tmp_path):
    (tmp_path / "store" / "seefood-1.0.0.mar").unlink()
    os.mkfifo(tmp_path / "store" / "seefood-1.0.0.mar")
    with pytest.raises(FileNotFoundError):
        cache()
    (tmp_path / "store" / "seefood-1.0.0.mar").unlink()
    (tmp_path / "store" / "seefood-1.0.0.mar").symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError):
        cache()


def test_archive_larger_than_any_is_not_fetched(cache, tmp_path):
    with (tmp_path / "store" / "seefood-1.0.0.mar").open("wb") as file:
        file.truncate(9 * 1024**3)  # takes no room: a hole
    with pytest.raises(ValueError, match=r"has 9,663,676,416 bytes, an archive has at most 8,589,934,592"):
        cache()


@pytest.mark.parametrize("moment", ["fetched", "unpacked"])
def test_full_disk_is_named_with_what_to_do_and_no_half_file_stays(tmp_path, mount_disk, moment):
    code = "".join(f"{os.urandom(30).hex()}\n" for _ in range(10_000))
    archive = archive_of(tmp_path, code=code)
    disk = mount_disk(tmp_path / "disk", "64k" if moment == "fetched" else "560k")
    store = FolderStore(tmp_path / "store" / "release.json")
    with pytest.raises(OSError, match=r"the disk is full: \d+ MB are free in .*disk.* MB are needed: make room there") as caught:
        fetch(store, disk, "1.0.0", entry_of(archive), Settings(min_free_bytes=0), Steps(False))
    assert "No space left" not in caught.value.strerror
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ([] if moment == "fetched" else list_of_cached(disk))


def list_of_cached(disk):
    return [path.name for path in (disk / "archives").glob("*.mar")]


def test_old_archives_go_but_for_the_newest_and_folders_that_are_not_loaded_at_once(tmp_path):
    store = FolderStore(tmp_path / "store" / "release.json")
    (tmp_path / "run").mkdir()
    folders = []
    for i in range(5):
        entry = entry_of(archive_of(tmp_path, f"1.0.{i}"))
        folders.append(fetch(store, tmp_path / "run", f"1.0.{i}", entry, Settings(min_free_bytes=0), Steps(False)))
    for i, path in enumerate(sorted((tmp_path / "run" / "archives").iterdir())):
        os.utime(path, (time.time() + i,) * 2)
        (tmp_path / "run" / "programs" / path.stem).mkdir(parents=True)
    (tmp_path / "run" / "programs" / "lock").touch()
    remove_old(tmp_path / "run", [folders[0]], 2)
    assert list((tmp_path / "run" / "unpacked").iterdir()) == [folders[0]]
    kept = [path.name[:13] for path in sorted((tmp_path / "run" / "archives").iterdir())]
    assert kept == ["seefood-1.0.0", "seefood-1.0.3", "seefood-1.0.4"]
    assert [path.name[:13] for path in sorted((tmp_path / "run" / "programs").iterdir())] == ["lock", *kept]
