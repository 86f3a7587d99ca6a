"""Rollouts of real models on real photos: ten that were trained again stay, five that are broken are undone."""

import json
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, SHARED, free_port, needs_photos
from tests.rollout.retrained import FAULTS, archive, features_of, one_class, trained_again
from tests.rollout.rolling import QUICK, Instance, release
from training.data.sets import read_data

pytestmark = [pytest.mark.server, pytest.mark.slow, needs_photos]
TRAINED, ASKED = 400, 100

# without a limit that other work on the machine could exceed
CAPTURE = {"SEEFOOD_CAPTURE_SHARE": "1", "SEEFOOD_BAKE_PHOTOS": str(ASKED), "SEEFOOD_BAKE_PHOTOS_S": "200"}


def sample():
    """(photos, class numbers) that the starter was not trained on: it is too sure of those that it was trained on."""
    photos = list(read_data(SHARED / "data" / "food10", 0.15, 0, quiet=True).held_out)  # as in model_store/starter/params.yaml
    random.Random(5).shuffle(photos)
    photos = photos[: TRAINED + ASKED]
    return [photo.path.read_bytes() for photo in photos], np.array([photo.index for photo in photos])


def make_archives(photos, classes, folder):
    """{version: archive}: 1.0.0, ten trained again, and one of each fault."""
    features = features_of(photos)
    first, *others = (trained_again(features, classes, seed) for seed in range(11))
    exports = {"1.0.0": first} | {f"1.{i + 1}.0": other for i, other in enumerate(others)}
    exports |= {f"2.{i}.0": fault(first) for i, fault in enumerate(FAULTS)}
    return {version: archive(export, version, folder) for version, export in exports.items()}


def start(store, folder, version, *options):
    """A rollout, ended."""
    command = [sys.executable, "-m", "scripts.rollout.rollout", "--release", store.address, "--model-store", str(folder)]
    command += ["start", version, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def asks(instance):
    """A function that sends a photo and returns the status."""
    return lambda photo: httpx.post(instance.url, content=photo, timeout=LIMIT_S).raise_for_status().status_code


def test_without_captured_photos_and_with_few_requests_a_version_of_one_class_does_not_pass(tmp_path, monkeypatch):
    for name, setting in QUICK.items():
        monkeypatch.setenv(name, setting)
    photos, classes = sample()
    good = trained_again(features_of(photos[:100]), classes[:100], 0)
    always = one_class(good)
    slightly = replace(good, weight=0.01 * good.weight)
    versions = {"1.0.0": good, "1.0.1": good, "2.0.0": always, "2.1.0": slightly}
    archives = {version: archive(export, version, tmp_path) for version, export in versions.items()}
    store = FolderStore(tmp_path / "release" / "release.json")
    store.put(archives["1.0.0"])
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    with Instance(store.address, free_port()) as instance, ThreadPoolExecutor(2) as pool:
        instance.wait_ready()
        assert set(pool.map(asks(instance), photos[-30:])) == {200}
        for version in ("2.0.0", "2.1.0"):
            done = start(store, tmp_path, version)
            assert done.returncode == 1, done.stdout
            assert f"the answers of {version} are not judged: " in done.stderr, done.stderr
            print(done.stderr)
            assert "1.0.0 is served again" in done.stderr
        done = start(store, tmp_path, "1.0.1")  # the same network
        assert done.returncode == 0, done.stderr


def test_ten_versions_trained_again_stay_and_five_broken_ones_are_undone(tmp_path, monkeypatch):
    for name, setting in {**QUICK, **CAPTURE}.items():
        monkeypatch.setenv(name, setting)
    photos, classes = sample()
    archives = make_archives(photos[:TRAINED], classes[:TRAINED], tmp_path)
    store = FolderStore(tmp_path / "release" / "release.json")
    store.put(archives["1.0.0"])
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    table, wrong = [], []
    with Instance(store.address, free_port()) as instance, ThreadPoolExecutor(2) as pool:
        instance.wait_ready()
        list(pool.map(asks(instance), photos[-ASKED:]))
        for version in list(archives)[1:]:
            done = start(store, tmp_path, version)
            found = re.search(r"compared by the same photos: .*", done.stdout)
            reason = re.search(r"is worse: (.*)", done.stderr)
            what = FAULTS[int(version.split(".")[1])].__name__ if version[0] == "2" else "trained again"
            table.append(f"| {version} | {what} | {'restored' if done.returncode else 'stays'} | {reason[1] if reason else ''} |")
            print(table[-1], json.dumps(found[0] if found else done.stdout + done.stderr), flush=True)
            if bool(reason) != (version[0] == "2"):
                wrong.append(table[-1])
            if done.returncode == 0:
                instance.wait_state("reconciled", release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0"))
    assert not wrong
