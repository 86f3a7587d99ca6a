"""Rollouts of real models on real photos: ten that were trained again stay, five that are broken are undone."""

import json
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from handler.preprocess import Spec, preprocess
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, SHARED, free_port, needs_photos
from tests.rollout.retrained import FAULTS, FEATURES, answers, archive, starter, trained_again
from tests.rollout.rolling import QUICK, Instance, release

pytestmark = [pytest.mark.server, pytest.mark.slow, needs_photos]
PHOTOS, ASKED = 700, 120


def sample():
    """(photos, class numbers), shuffled."""
    paths = sorted((SHARED / "data" / "food10").glob("*/*.jpg"))
    random.Random(5).shuffle(paths)
    names = sorted({path.parent.name for path in paths})
    return [path.read_bytes() for path in paths[:PHOTOS]], [names.index(path.parent.name) for path in paths[:PHOTOS]]


def test_ten_versions_trained_again_stay_and_five_broken_ones_are_undone(tmp_path, monkeypatch):
    for name, value in {**QUICK, "SEEFOOD_CAPTURE_SHARE": "1", "SEEFOOD_BAKE_PHOTOS": str(ASKED)}.items():
        monkeypatch.setenv(name, value)
    photos, classes = sample()
    model, spec = starter()
    crops = np.stack([preprocess(photo, Spec.from_dict(spec)) for photo in photos])
    (features,) = answers(model, crops, FEATURES)
    archives = {"1.0.0": archive(model, spec, "1.0.0", tmp_path)}
    for seed in range(10):
        version = f"1.{seed + 1}.0"
        archives[version] = archive(trained_again(features, np.asarray(classes), seed), spec, version, tmp_path)
    for i, fault in enumerate(FAULTS):
        model, spec = starter()
        fault(model, spec)
        archives[f"2.{i}.0"] = archive(model, spec, f"2.{i}.0", tmp_path)

    store = FolderStore(tmp_path / "release" / "release.json")
    store.put(archives["1.0.0"])
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    table, wrong = [], []
    with Instance(store.address, free_port()) as instance, ThreadPoolExecutor(2) as pool:
        instance.wait_ready()

        def served(photo):
            httpx.post(instance.url, content=photo, timeout=LIMIT_S).raise_for_status()

        list(pool.map(served, photos[-ASKED:]))
        for version in list(archives)[1:]:
            command = [sys.executable, "-m", "scripts.rollout.rollout", "--release", store.address]
            command += ["--model-store", str(tmp_path), "start", version]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
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
