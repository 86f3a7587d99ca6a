"""Signals of the last answers: kept by workers, read by the server's process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from handler.locks import alone
from handler.recent import ROWS, Recent, is_held, read
from handler.signals import COLUMNS, PROFILE, Profile, components, save_profiles
from scripts.serving.drift import FOLDER, KEPT_VERSIONS, DriftMetrics, measured, start_anew
from scripts.steps import Steps
from tests.conftest import ROOT
from tests.drift.test_statistics import profile_of, rows_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A workers' folder, with a profile beside it."""
    monkeypatch.setenv("SEEFOOD_DRIFT_DIR", str(tmp_path / FOLDER))
    start_anew(tmp_path)
    profile_of(rows_of(np.random.default_rng(0), 300)).save(tmp_path / PROFILE)
    return tmp_path / FOLDER


def numbered(first, count):
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], len(COLUMNS), axis=1)


def test_last_answers_of_all_workers_are_read_and_the_oldest_go(folder):
    one, two = (Recent.open("1.0.0", folder.parent / PROFILE) for _ in range(2))
    one.add(numbered(0, 3))
    two.add(numbered(3, 2))
    assert read(folder, "1.0.0")[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(list(folder.glob("*.recent"))) == 2
    for start in range(0, ROWS + 8, 8):
        one.add(numbered(start, 8))
    assert sorted(read(folder, "1.0.0")[:, 0])[-1] == ROWS + 7
    assert len(read(folder, "1.0.0")) == ROWS + 2
    assert len(read(folder, "1.0.0-rc")) == 0


def test_worker_that_follows_a_killed_one_goes_on_with_its_file(folder):
    code = (
        "import os, signal, sys; from pathlib import Path; import numpy as np; from handler.recent import Recent\n"
        "rows = np.repeat(np.arange(5, dtype=np.float32)[:, None], int(sys.argv[2]), axis=1)\n"
        "Recent.open('1.0.0', Path(sys.argv[1])).add(rows); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(folder.parent / PROFILE), str(len(COLUMNS))]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (path,) = folder.glob("*.recent")
    assert not is_held(path)
    following = Recent.open("1.0.0", folder.parent / PROFILE)
    assert is_held(path)
    following.add(numbered(5, 1))
    assert read(folder, "1.0.0")[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert list(folder.glob("*.recent")) == [path]


def test_a_full_disk_costs_the_worker_its_drift_alone(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert Recent.open("1.0.0", folder.parent / PROFILE) is None
    monkeypatch.delenv("SEEFOOD_DRIFT_DIR")
    assert Recent.open("1.0.0", folder.parent / PROFILE) is None


def test_drift_is_shown_by_version_signal_and_window_while_a_worker_runs(folder):
    worker = Recent.open("1.0.0", folder.parent / PROFILE)
    rows = rows_of(np.random.default_rng(1), 600)
    worker.add(rows[:50])
    assert measured(folder) == {}  # too few
    rows[:, COLUMNS.index("brightness")] += 2
    worker.add(rows)
    drift_family, accuracy = DriftMetrics(folder).collect()
    values = {(s.labels["signal"], s.labels["window"]): s.value for s in drift_family.samples}
    assert values["brightness", "500"] > 4 > values["contrast", "500"]
    assert {s.labels["window"] for s in accuracy.samples} == {"500", "5000"}
    assert {s.labels["version"] for s in accuracy.samples} == {"1.0.0"}
    worker.close()
    assert measured(folder) == {}


def test_another_archive_of_the_same_version_begins_anew_and_old_versions_are_forgotten(folder):
    Recent.open("1.0.0", folder.parent / PROFILE).add(numbered(0, 3))
    profile_of(rows_of(np.random.default_rng(1), 300)).save(folder.parent / PROFILE)
    held = Recent.open("1.0.0", folder.parent / PROFILE)
    assert len(read(folder, "1.0.0")) == 0
    for number in range(KEPT_VERSIONS + 3):
        Recent.open(f"1.{number}.1", folder.parent / PROFILE).close()
    held.add(numbered(0, 1))
    measured(folder)
    assert len(list(folder.glob(f"*_{PROFILE}"))) == KEPT_VERSIONS + 1
    assert len(read(folder, "1.0.0")) == 1
    start_anew(folder.parent)
    assert not list(folder.iterdir())


@contextlib.contextmanager
def again_and_again(look):
    """A thread that looks, as scrapes do, with what it raised at the end."""
    stop, raised = threading.Event(), []

    def run():
        while not stop.is_set():
            try:
                look()
            except Exception as error:
                raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not raised


def test_worker_that_starts_while_somebody_looks_goes_on_with_its_file_all_the_same(folder):
    Recent.open("1.0.0", folder.parent / PROFILE).close()
    (path,) = folder.glob("*.recent")
    with again_and_again(lambda: is_held(path)):
        for _ in range(50):
            Recent.open("1.0.0", folder.parent / PROFILE).close()
    assert list(folder.glob("*.recent")) == [path]
    assert not is_held(folder / "none.recent")


def test_version_that_starts_again_while_old_ones_are_forgotten_keeps_its_files(folder, monkeypatch):
    monkeypatch.setattr("scripts.serving.drift.KEPT_VERSIONS", 1)
    Recent.open("2.0.0", folder.parent / PROFILE).close()
    with again_and_again(lambda: measured(folder)):
        for _ in range(50):
            worker = Recent.open("1.0.0", folder.parent / PROFILE)
            assert (folder / f"1.0.0_{PROFILE}").is_file()
            assert len(list(folder.glob("1.0.0_*.recent"))) == 1
            os.utime(folder / f"1.0.0_{PROFILE}", (0, 0))  # the oldest of all
            worker.close()


def test_process_that_stands_still_with_the_folder_holds_nobody_up(folder, monkeypatch):
    monkeypatch.setattr("handler.recent.LOCK_S", 0.1)
    with alone(folder, 0):
        assert Recent.open("1.0.0", folder.parent / PROFILE) is None
        assert measured(folder) == {}
    assert Recent.open("1.0.0", folder.parent / PROFILE) is not None


def test_newest_answers_are_the_last_ones_although_the_clock_was_set_back(folder, monkeypatch):
    one, two = (Recent.open("1.0.0", folder.parent / PROFILE) for _ in range(2))
    for number, (worker, now) in enumerate([(one, 2e9), (two, 1e9), (one, 5e8), (two, 1.0)]):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        worker.add(numbered(2 * number, 2))
    assert read(folder, "1.0.0")[:, 0].tolist() == list(range(8))


def test_folder_begins_anew_whatever_was_in_its_place(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / FOLDER).symlink_to(elsewhere)
    start_anew(tmp_path)
    assert not (tmp_path / FOLDER).is_symlink()
    assert (elsewhere / "kept").exists()
    (tmp_path / FOLDER).rmdir()
    for make in ((tmp_path / FOLDER).touch, lambda: (tmp_path / FOLDER).symlink_to(tmp_path / "nowhere")):
        make()
        start_anew(tmp_path)
        assert list((tmp_path / FOLDER).iterdir()) == []
        (tmp_path / FOLDER).rmdir()


def test_reference_that_is_damaged_while_a_worker_runs_is_logged_once(folder, capsys, monkeypatch):
    monkeypatch.setattr("scripts.serving.drift.CACHED_S", 0.0)
    worker = Recent.open("1.0.0", folder.parent / PROFILE)
    worker.add(rows_of(np.random.default_rng(1), 200))
    reference = folder / f"1.0.0_{PROFILE}"
    whole = reference.read_bytes()
    metrics = DriftMetrics(folder, Steps(True))
    for content in (whole[:200], whole[:200], b"", whole):
        reference.write_bytes(content)
        found = metrics.now()
    assert found
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["step"], line["version"]) for line in lines] == [("drift cannot be measured", "1.0.0")] * 2
    assert "cannot be read" in lines[0]["why"]
    worker.close()


def test_each_program_has_its_own_reference_and_another_is_refused(folder):
    rng = np.random.default_rng(0)
    both = {name: profile_of(rows_of(rng, 300)) for name in ("bf16", "f32")}
    both["f32"] = Profile(both["f32"].rows, both["bf16"].mean, both["bf16"].basis, both["bf16"].variances, 0.7)
    path = folder.parent / PROFILE
    save_profiles(path, both)
    assert Profile.load(path, "f32").threshold == 0.7
    np.testing.assert_array_equal(Profile.load(path, "bf16").rows, both["bf16"].rows)
    with pytest.raises(ValueError, match=r"is of the programs \['bf16', 'f32'\], expected int8"):
        Profile.load(path, "int8")
    worker = Recent.open("1.0.0", path, "f32")
    np.testing.assert_array_equal(Profile.load(folder / f"1.0.0_{PROFILE}").rows, both["f32"].rows)
    assert Profile.load(folder / f"1.0.0_{PROFILE}").threshold == 0.7
    worker.close()


def test_profile_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    features = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    profile = Profile(numbered(0, 30), *components(features, 4), 0.5)
    profile.save(tmp_path / PROFILE)
    again = Profile.load(tmp_path / PROFILE)
    np.testing.assert_array_equal(again.rows, profile.rows)
    np.testing.assert_allclose(again.basis, profile.basis, atol=1e-3)
    assert Profile.load(tmp_path / "none.npz") is None
    (tmp_path / PROFILE).write_bytes((tmp_path / PROFILE).read_bytes()[:300])
    with pytest.raises(ValueError, match="profile.npz cannot be read: .*: export again"):
        Profile.load(tmp_path / PROFILE)


def test_two_archives_of_one_version_number_have_files_of_their_own_and_those_of_the_ended_one_go(folder):
    first = Recent.of("seefood", "1.0.0", folder.parent / PROFILE, None)
    first.add(rows_of(np.random.default_rng(2), 150))
    profile_of(rows_of(np.random.default_rng(1), 300)).save(folder.parent / PROFILE)
    second = Recent.of("seefood", "1.0.0", folder.parent / PROFILE, None)
    other = Recent.of("flowers", "1.0.0", folder.parent / PROFILE, None)
    assert len(list(folder.glob("*.recent"))) == 3
    assert {key[:2] for key in measured(folder)} == {("seefood", "1.0.0")}  # the new one has answered nothing yet
    first.close()
    assert measured(folder) == {}
    assert len(list(folder.glob("seefood@1.0.0@*.recent"))) == len(list(folder.glob("flowers@1.0.0@*.recent"))) == 1
    second.add(rows_of(np.random.default_rng(3), 150))
    assert {key[:2] for key in measured(folder)} == {("seefood", "1.0.0")}
    other.close()
    second.close()
    measured(folder)
    assert len(list(folder.glob("*.recent"))) == 2  # a rollback finds them
