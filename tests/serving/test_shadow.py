"""Which photos two versions are asked, in which order, and how much a status may hold. No server."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from handler import data_set
from scripts.serving.captured import Captured
from scripts.serving.reporter import MAX_CLASSES, status_of
from scripts.serving.shadow import shadow_of
from scripts.settings import Settings

CAPTURED = SimpleNamespace(uncorrected=lambda count, seen, model: [b"captured"] * count)


def loaded(*versions, folder=Path("none")):
    """Versions that have a golden photo in common, and one of their own."""

    def one(version):
        golden = SimpleNamespace(photos=[b"same", version.encode()])
        return SimpleNamespace(golden=golden, description={"labels": [version]}, folder=folder / version)

    return {version: one(version) for version in versions}


def keep(folder, number, photo, feedback=False):
    """A captured photo, and feedback on it."""
    place = folder / f"{number % 256:02x}"
    place.mkdir(exist_ok=True)
    path = place / f"{1_700_000_000_000_000_000 + number}-{number:02x}.photo"
    path.write_bytes(photo)
    if feedback:
        path.with_suffix(".feedback").write_text("{}")


def test_newest_photos_are_asked_first_without_those_that_a_retrained_version_rightly_answers_otherwise(tmp_path):
    captured, folders = tmp_path / "captured", tmp_path / "versions"
    captured.mkdir()
    for number in range(9):
        keep(captured, number, b"photo %d" % number, feedback=number in (2, 7))
    keep(captured, 20, b"photo 7")  # sent again
    for version, seen in {"1.0.0": [b"photo 5"], "1.1.0": [b"photo 5", b"photo 6"]}.items():
        (folders / version).mkdir(parents=True)
        data_set.save(folders / version / data_set.SEEN, [(hashlib.sha256(photo).hexdigest(), Path("x.jpg")) for photo in seen])
    document = {"model": "seefood", "stage": "baking", "default": "1.1.0", "shadow": {"version": "1.0.0", "photos": 4}}
    kept = Captured(captured, 10**6, 3600)
    shadow = shadow_of(document, loaded("1.0.0", "1.1.0", folder=folders), kept, Settings())
    assert shadow.captured == [b"photo 8", b"photo 4", b"photo 3", b"photo 1"]
    # what another model answered is none of its photos
    for path in list(captured.rglob("*.photo"))[:]:
        if path.read_bytes() in (b"photo 8", b"photo 3"):
            path.with_suffix(".json").write_text('{"model": "flowers"}')
    assert shadow_of(document, loaded("1.0.0", "1.1.0", folder=folders), kept, Settings()).captured == [
        b"photo 4",
        b"photo 1",
        b"photo 0",
    ]


def test_photo_that_was_ingested_is_told_by_its_files_name_too(tmp_path):
    # make ingest encodes anew, and names the file by the photo that it was given
    given, encoded = (hashlib.sha256(photo).hexdigest() for photo in (b"given", b"encoded"))
    data_set.save(tmp_path / data_set.SEEN, [(encoded, tmp_path / "ramen" / f"{given[:16]}.jpg"), ("", Path("IMG_1.jpg"))])
    assert data_set.load(tmp_path) == {data_set.number_of(b"given"), data_set.number_of(b"encoded")}
    assert data_set.load(tmp_path / "of an earlier version") == frozenset()


@pytest.mark.parametrize(
    ("stage", "default", "other"), [("shadow", "1.0.0", "1.1.0"), ("canary", "1.0.0", "1.1.0"), ("baking", "1.1.0", "1.0.0")]
)
def test_old_version_is_first_in_each_stage_and_each_golden_photo_is_asked_once(stage, default, other):
    document = {"model": "seefood", "stage": stage, "default": default, "shadow": {"version": other, "photos": 3}}
    shadow = shadow_of(document, loaded("1.0.0", "1.1.0"), CAPTURED, Settings(bake_photos_s=7, rollout_s=100))
    assert shadow.versions == ("1.0.0", "1.1.0")
    assert shadow.golden == [b"same", b"1.0.0", b"1.1.0"]
    assert len(shadow.captured) == 3
    assert shadow.limit_s == (50 if stage == "shadow" else 7)
    assert shadow.timeout_s <= shadow.limit_s


def test_status_holds_the_most_frequent_classes_of_loaded_versions():
    answers = {"classes": {f"dish {i}": i for i in range(3 * MAX_CLASSES)}, "unsure": 1, "probabilities": {}, "probability": 1}
    total = {"outcomes": {"answered": 1}, "seconds": {}, "answers": answers}
    instance = SimpleNamespace(
        desired=SimpleNamespace(document=None, instance="a"),
        health=SimpleNamespace(of=lambda model: {"ready": True}, models={}),
        state_of=lambda model: "reconciled",
        released=[
            SimpleNamespace(name="seefood", release=None, all_problems=[], default="1.0.0", loaded={"1.0.0": None}, shadow=None)
        ],
    )
    figures = status_of(instance, {"seefood": {"1.0.0": total, "0.9.0": total}}, {})["figures"]
    assert len(figures["1.0.0"]["answers"]["classes"]) == MAX_CLASSES
    assert f"dish {3 * MAX_CLASSES - 1}" in figures["1.0.0"]["answers"]["classes"]
    assert "answers" not in figures["0.9.0"]
