"""make resize: a run's network at another size."""

import sys
from dataclasses import replace

import pytest
import timm
import torch

from tests.conftest import ROOT
from training.evaluation.evaluate import evaluate
from training.model import Checkpoint
from training.resize import main


def resized(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["resize", *map(str, arguments)])
    return main()


def test_a_resized_run_has_the_same_weights_and_is_judged_at_its_own_size(tmp_path, monkeypatch, tiny_run, capsys):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "run-48"
    assert resized(monkeypatch, "--run", tiny_run, "--size", 48, "--crop-pct", 0.8, "--out", out) == 0
    before, after = Checkpoint.load(tiny_run / "checkpoint.pt"), Checkpoint.load(out / "checkpoint.pt")
    assert all(torch.equal(after.weights[name], weight) for name, weight in before.weights.items())
    assert (after.spec["input_size"], after.spec["crop_pct"]) == ([3, 48, 48], 0.8)
    assert after.spec["mean"] == before.spec["mean"]
    assert set(after.held_out) <= set(before.held_out)
    printed = capsys.readouterr().out
    assert f"48 pixels, crop_pct 0.8: top1 {after.metrics['top1']:.4f}" in printed
    assert f"{before.spec['input_size'][-1]} pixels" in printed

    # what is told is what make evaluate measures, and the temperature is that of the least loss
    metrics = evaluate(after, after.data_root, tmp_path / "evaluated")
    assert metrics["top1"] == pytest.approx(after.metrics["top1"])
    assert metrics["loss"] == pytest.approx(after.metrics["loss"], abs=1e-4)
    for factor in (0.8, 1.25):
        other = evaluate(replace(after, temperature=after.temperature * factor), after.data_root, tmp_path / "other")
        assert other["loss"] > metrics["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 0), "input_size is .3, 0, 0."),
        (("--size", 48, "--crop-pct", 1.5), "crop_pct is 1.5, expected more than 0 and at most 1"),
    ],
)
def test_size_that_cannot_be_is_refused_and_nothing_written(tmp_path, monkeypatch, tiny_run, arguments, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message):
        resized(monkeypatch, "--run", tiny_run, *arguments, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_run_that_exists_is_not_overwritten(monkeypatch, tiny_run):
    monkeypatch.chdir(ROOT)
    content = (tiny_run / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="holds a run: give another folder"):
        resized(monkeypatch, "--run", tiny_run, "--size", 48, "--out", tiny_run)
    assert (tiny_run / "checkpoint.pt").read_bytes() == content


def test_network_made_for_one_size_is_named_and_nothing_written(tmp_path, monkeypatch, tiny_run):
    """A LeViT's attention is biased by place, for the places of one size."""
    monkeypatch.chdir(ROOT)
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    levit = timm.create_model("levit_128s", num_classes=len(checkpoint.labels))
    params, spec = checkpoint.params | {"model": "levit_128s", "model_args": {}}, checkpoint.spec | {"input_size": [3, 224, 224]}
    replace(checkpoint, weights=levit.state_dict(), params=params, spec=spec).save(tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match="levit_128s cannot take crops of 192 x 192 pixels: "):
        resized(monkeypatch, "--run", tmp_path / "run", "--size", 192)
    assert not (tmp_path / "run-192").exists()
