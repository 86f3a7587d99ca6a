import os
import subprocess
import sys

import pytest
import torch
import yaml

from tests.conftest import LIMIT_S, ROOT
from training.loop import train
from training.model import Checkpoint, build, save_whole
from training.recipe import freeze, lr_factor, parameter_groups


def test_training_learns_generated_pictures_and_the_checkpoint_says_how(tiny_run, generated, tiny_params):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    assert checkpoint.metrics["top1"] >= 0.75  # 0.25 by chance
    assert checkpoint.labels == ("class_0", "class_1", "class_2", "class_3")
    assert checkpoint.params == tiny_params.model_dump()
    assert checkpoint.name == "seefood"
    assert checkpoint.spec["input_size"] == [3, 64, 64]
    assert checkpoint.spec.keys() == {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}
    assert checkpoint.data["root"] == str(generated)
    assert checkpoint.data["train"] == len(checkpoint.trained_on) == 120 - checkpoint.data["held_out"]
    assert len(checkpoint.git.split()[0]) == 40 or checkpoint.git == "unknown"
    assert not list(tiny_run.glob("*.part"))


@pytest.mark.slow
def test_same_seed_gives_the_same_weights(tmp_path, generated, tiny_params):
    params = tiny_params.model_copy(update={"epochs": 1, "mixup": 0.2, "augment": "trivial"})
    first, second = (Checkpoint.load(train("food", generated, params, tmp_path / name)) for name in "ab")
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.slow
def test_torchrun_with_two_processes_trains_and_only_rank_0_prints(tmp_path, generated, tiny_params):
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(tiny_params.model_copy(update={"epochs": 1}).model_dump()))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d"),
            *("--rdzv-endpoint=localhost:0", "-m", "training.train", "--model", "food"),
            *("--data", str(generated), "--params", str(params), "--out", str(tmp_path / "run")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1:") == 1
    checkpoint = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.metrics["photos"] == checkpoint.data["held_out"]


@pytest.mark.slow
def test_command_line_trains_on_generated_pictures_and_says_so(tmp_path, tiny_params):
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(tiny_params.model_copy(update={"epochs": 1}).model_dump()))
    command = [sys.executable, "-m", "training.train", "--model", "food", "--params", str(params), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "generated pictures, not photos" in done.stdout
    for shown in ("loss", "accuracy", "images/s", "epoch 1/1"):
        assert shown in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet5O"}, "timm has no model 'resnet5O'"),
        ({"weights": "/nowhere.pth"}, "'/nowhere.pth' does not exist"),
        ({"model_args": {"colour": 1}}, "colour"),
        ({"spec": {"crop_pct": 7}}, "crop_pct is 7"),
        ({"spec": {"crop_percentage": 0.9}}, "unknown .*crop_percentage"),
    ],
)
def test_model_that_cannot_be_built_is_refused_with_the_reason(tiny_params, change, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_params.model_copy(update=change), 4)


def test_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint of this project"):
        Checkpoint.load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="make train writes one"):
        Checkpoint.load(tmp_path / "y.pt")


@pytest.mark.parametrize("model", ["levit_128s", "mobilenetv2_035"])
def test_head_has_its_own_rate_and_norms_do_not_decay(tiny_params, model):
    params = tiny_params.model_copy(update={"model": model, "spec": {}, "head_lr": 0.5})
    classifier, _ = build(params, 7)
    groups = parameter_groups(classifier, params)
    assert sum(len(group["params"]) for group in groups) == len(list(classifier.parameters()))
    head = [p for group in groups if group["lr"] == 0.5 for p in group["params"]]
    assert {p.shape[0] for p in head} >= {7}
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])


def test_frozen_modules_get_no_gradient_and_unknown_ones_are_refused(tiny_params):
    params = tiny_params.model_copy(update={"freeze": ["conv_stem", "blocks.0"]})
    classifier, _ = build(params, 4)
    freeze(classifier, params, 0)
    assert not any(p.requires_grad for p in classifier.network.get_submodule("blocks.0").parameters())
    assert all(p.requires_grad for p in classifier.network.get_submodule("blocks.1").parameters())
    with pytest.raises(ValueError, match="no module 'blocks.99'"):
        freeze(classifier, params.model_copy(update={"freeze": ["blocks.99"]}), 0)


def test_rate_warms_up_then_falls_to_zero():
    rates = [lr_factor(step, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("name", ["Food", "2food", "_food", "food 1", "food.1", "food/1", "", "fööd", "food\n"])
def test_model_name_that_does_not_fit_in_files_and_urls_is_refused_before_anything_is_read(tmp_path, tiny_params, name):
    with pytest.raises(ValueError, match="model name is .*, expected lower-case letters, digits, _ and -, a letter first"):
        train(name, tmp_path / "no data", tiny_params, tmp_path / "run")


@pytest.mark.slow
def test_command_without_a_model_name_is_wrong(tmp_path):
    command = [sys.executable, "-m", "training.train", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: --model is missing" in done.stderr


def test_checkpoint_that_is_older_than_model_names_still_loads(tmp_path, tiny_run):
    content = vars(Checkpoint.load(tiny_run / "checkpoint.pt"))
    save_whole({key: value for key, value in content.items() if key != "name"}, tmp_path / "checkpoint.pt")
    assert Checkpoint.load(tmp_path / "checkpoint.pt").name is None
