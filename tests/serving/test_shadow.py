"""Which photos two versions are asked, in which order, and how much a status may hold. No server."""

from types import SimpleNamespace

import pytest

from scripts.serving.reporter import MAX_CLASSES, status_of
from scripts.serving.shadow import shadow_of
from scripts.settings import Settings

CAPTURED = SimpleNamespace(last=lambda count: [b"captured"] * count)


def loaded(*versions):
    """Versions that have a golden photo in common, and one of their own."""
    return {
        version: SimpleNamespace(golden=SimpleNamespace(photos=[b"same", version.encode()]), description={"labels": [version]})
        for version in versions
    }


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
        health=SimpleNamespace(readiness=lambda: (True, {}), worker_restarts={}),
        state="reconciled",
        problems={},
        default="1.0.0",
        loaded={"1.0.0": None},
        shadow=None,
    )
    figures = status_of(instance, {"1.0.0": total, "0.9.0": total}, 0)["figures"]
    assert len(figures["1.0.0"]["answers"]["classes"]) == MAX_CLASSES
    assert f"dish {3 * MAX_CLASSES - 1}" in figures["1.0.0"]["answers"]["classes"]
    assert "answers" not in figures["0.9.0"]
