"""The loop, end to end: 200 wrong answers of a server corrected by people, retrained on, released, and asked of that server again.

A bare repository, moto's S3 for DVC and for the release, a real server, real photos, and a champion of twelve photos a class.
"""

import csv
import json
import random
import re
import time

import boto3
import httpx
import pytest

from scripts.command import run as run_command
from scripts.rollout import rollout
from tests.conftest import SHARED, free_port, needs_photos
from tests.retrain.project import Project
from tests.rollout.rolling import QUICK, Instance
from tests.training.test_dvc import s3  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.server, needs_photos]
RELEASE = "s3://models/release.json"
WRONG = 200
# of each class: to train on, to choose the epoch by, never touched, and of those that people send
TRAIN, VAL, TEST, SENT = 12, 10, 40, 80
PARAMS = {
    "model": "mobilenetv2_035",
    "model_args": {"pad_type": "same"},
    "weights": str(SHARED / "weights/mobilenetv2_035_imagenet.pth"),
    "spec": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 128, 128], "crop_pct": 0.95},
    "train_size": 128,
    "crop_scale_min": 0.5,
    "augment": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_off_epoch": 0,
    "epochs": 12,
    "global_batch_size": 32,
    "workers": 0,
    "lr": 0.001,
    "head_lr": 0.003,
    "warmup_epochs": 1.0,
    "ema_decay": 0.9,
    "precision": "float32",
    "label_smoothing": 0.0,
}


@pytest.fixture(scope="module")
def photos():
    """Of each class, its photos in a fixed order."""
    found = {folder.name: sorted(folder.iterdir()) for folder in sorted((SHARED / "data/food10").iterdir()) if folder.is_dir()}
    for of_class in found.values():
        random.Random(0).shuffle(of_class)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory, s3, photos, tiny_params):  # noqa: F811
    folder = tmp_path_factory.mktemp("loop") / "seefood"
    project = Project(folder, s3, "loop")
    for label, of_class in photos.items():
        start = 0
        for split, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
            (folder / "data/food" / split / label).mkdir(parents=True)
            for photo in of_class[start : start + count]:
                (folder / "data/food" / split / label / photo.name).write_bytes(photo.read_bytes())
            start += count
    project.train_champion(tiny_params.model_dump() | PARAMS)
    return project


@pytest.fixture
def server(project, s3, tmp_path, monkeypatch):  # noqa: F811
    """`make serve RELEASE=s3://...` that keeps each photo, with the champion released."""
    for name, value in {**QUICK, "SEEFOOD_STALE_S": "60", "SEEFOOD_CHECK_TIMEOUT_S": "60", "SEEFOOD_BAKE_S": "5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("SEEFOOD_CAPTURE_SHARE", "1")
    monkeypatch.setenv("SEEFOOD_CAPTURE_DIR", str(tmp_path / "captured"))
    monkeypatch.chdir(project.folder)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="models")
    client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    client.close()
    roll_out(monkeypatch, "1.0.0", "--unwatched")
    with Instance(RELEASE, free_port()) as instance:
        yield instance.wait_ready()


def roll_out(monkeypatch, version, *options):
    monkeypatch.setattr("sys.argv", ["rollout", "--release", RELEASE, "--model-store", "model_store", "start", version, *options])
    assert run_command(rollout.main) == 0


def label_of(server, photo, request_id="x"):
    """What the server takes a photo for."""
    answer = httpx.post(server.url, content=photo.read_bytes(), headers={"x-request-id": request_id}, timeout=60).raise_for_status()
    return answer.json()["predictions"][0]["label"]


def share_right(server, photos):
    """The share of (photo, class) pairs that the server names correctly."""
    return sum(label_of(server, photo) == label for photo, label in photos) / len(photos)


def wrong_answers(server, photos):
    """The first WRONG photos that the server takes for something else, each with its class, which is fed back."""
    wrong = []
    sent = [(photo, label) for label, of_class in photos.items() for photo in of_class[TRAIN + VAL + TEST :][:SENT]]
    random.Random(1).shuffle(sent)
    for number, (photo, label) in enumerate(sent):
        if label_of(server, photo, f"photo-{number}") != label:
            url = server.url.replace("/predictions/seefood", "/feedback")
            httpx.post(url, json={"id": f"photo-{number}", "label": label}, timeout=60).raise_for_status()
            wrong.append((photo, label))
            if len(wrong) == WRONG:
                return wrong, number + 1
    raise AssertionError(f"only {len(wrong)} of {len(sent)} answers are wrong")


def reviewed(captured, path):
    """A list path,label of the photos with feedback, as make review writes it."""
    rows = [(file.with_suffix(".photo"), json.loads(file.read_text())["label"]) for file in sorted(captured.rglob("*.feedback"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return len(rows)


def test_at_least_half_of_what_was_wrong_is_right_after_retraining(project, server, photos, tmp_path, monkeypatch):
    untouched = [(photo, label) for label, of_class in photos.items() for photo in of_class[TRAIN + VAL : TRAIN + VAL + TEST]]
    wrong, asked = wrong_answers(server, photos)
    before = share_right(server, untouched)
    assert share_right(server, wrong) == 0
    assert reviewed(tmp_path / "captured", project.folder / "build/review/labels.csv") == WRONG

    start = time.monotonic()
    said = project.retrain("--photos", str(tmp_path / "captured"))
    seconds = time.monotonic() - start
    assert "1.1.0 is packed" in said
    project.commit("Retraining")
    roll_out(monkeypatch, "1.1.0", "--shadow", "50")

    after, right = share_right(server, untouched), share_right(server, wrong)
    report = (project.folder / "build/retrain/report.md").read_text()
    print(report)
    print(f"{WRONG} wrong of {asked} answers; right after retraining: {right:.3f}, which is memory in part: they were trained on")
    print(f"{len(untouched)} photos that were never trained on nor chosen by: {before:.3f} before, {after:.3f} after")
    print(f"make retrain took {seconds:.0f} s")
    assert right >= 0.5
    assert after > before
    assert re.search(r"Both versions agree on \d+ of \d+ photos", report)
