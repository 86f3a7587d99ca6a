"""Weights in the loss, drawn classes and groups in whole runs: the same on any number of processes, and through an interruption."""

import csv
import json
import os
import signal

import pytest

from tests.training.test_exact import (
    assert_trained_alike,
    finish,
    history,
    params,  # noqa: F401 # a fixture
    run_train,
    same_bits,
    weights,
)
from training.data.sets import read_data, write_prepared
from training.evaluation.evaluate import evaluate, print_summary
from training.evaluation.report import write_report
from training.loop import train
from training.model import Checkpoint
from training.resume import Stopped, load_state

pytestmark = pytest.mark.slow
BALANCED = {"class_balance": 0.5, "logit_adjustment": 0.3, "class_weights": {"class_1": 2.0}, "model": "test_vit"}


@pytest.fixture(scope="module")
def listed(tmp_path_factory, generated):
    """A long tail of the generated pictures in a list, with weights and groups, prepared."""
    folder = tmp_path_factory.mktemp("listed")
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "weight", "group"])
        for number, label in enumerate(("class_0", "class_1", "class_2", "class_3")):
            for photo in sorted((generated / label).iterdir())[: 30 - 7 * number]:
                rows.writerow([photo, label, 0.5 + int(photo.stem) % 4, f"camera {int(photo.stem) % 2}"])
    write_prepared(read_data(folder / "photos.csv", 0.2, 0), 0.2, 0, folder / "split.json")
    return folder / "split.json"


@pytest.fixture(scope="module")
def weighted(tmp_path_factory, listed, params):  # noqa: F811
    """(parameters, folder of a run of one process)."""
    params, out = params.model_copy(update=BALANCED), tmp_path_factory.mktemp("weighted") / "one"
    train("food", listed, params, out)
    return params, out


def test_weighted_run_is_the_same_on_two_processes_and_in_two_parts(tmp_path, listed, weighted):
    params, one = weighted  # noqa: F811
    two = run_train(params, listed, tmp_path / "two", processes=2)
    train("food", listed, params.model_copy(update={"accumulate": 2}), tmp_path / "parts")
    finish(two)
    for other in ("two", "parts"):
        assert_trained_alike(one, tmp_path / other)


def test_weighted_run_goes_on_bit_for_bit_after_a_signal(tmp_path, listed, weighted):
    params, one = weighted  # noqa: F811
    with pytest.raises(Stopped):
        train("food", listed, params, tmp_path / "run", on_step=lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM))
    train("food", listed, params, tmp_path / "run")
    assert same_bits(load_state(tmp_path / "run" / "last.pt"), load_state(one / "last.pt"))
    assert same_bits(history(tmp_path / "run"), history(one))


@pytest.mark.parametrize("changed", [{"class_balance": 0.0}, {"logit_adjustment": 0.0}, {"class_weights": {}}, "weight"], ids=str)
def test_each_kind_of_weight_changes_what_is_learnt(tmp_path, listed, weighted, changed):
    params, one = weighted  # noqa: F811
    root = listed
    if changed == "weight":
        content = json.loads(listed.read_text())
        content |= {side: [row[:4] for row in content[side]] for side in ("train", "held_out")}
        root = tmp_path / "plain.json"
        root.write_text(json.dumps(content))
    train("food", root, params if changed == "weight" else params.model_copy(update=changed), tmp_path / "run")
    assert not same_bits(weights(tmp_path / "run"), weights(one))


def test_evaluation_and_report_show_each_group(weighted, listed, tmp_path, capsys):
    _, one = weighted
    evaluate(Checkpoint.load(one / "checkpoint.pt"), listed, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "per_group.csv").read_text().splitlines()))
    assert {row["group"] for row in rows} == {"camera 0", "camera 1"} == set(metrics["top1_per_group"])
    assert sum(int(row["photos"]) for row in rows) == metrics["photos"]
    hits = sum(int(row["photos"]) * float(row["top1"]) for row in rows)
    assert hits / metrics["photos"] == pytest.approx(metrics["top1"], abs=1e-3)
    assert all(float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"]) for row in rows)
    print_summary(tmp_path)
    assert "group camera 0: top-1" in capsys.readouterr().out
    evaluate(Checkpoint.load(one / "checkpoint.pt"), listed, one)
    assert "Groups, lowest top-1 first" in write_report(one).read_text()
