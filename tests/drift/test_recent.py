"""Signals of the last answers: kept by workers, read by the server's process."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from handler.recent import ROWS, Recent, is_held, read
from handler.signals import COLUMNS, PROFILE, Profile, components
from scripts.serving.drift import FOLDER, KEPT_VERSIONS, DriftMetrics, measured, start_anew
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
