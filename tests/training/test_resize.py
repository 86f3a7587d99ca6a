"""make resize: a run's network at another size."""

import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image, ImageOps

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
    assert set(after.held_out) == set(before.held_out)
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
        (("--size", 0), "SIZE .* is 0, expected 16 to 2048 pixels"),
        (("--size", 19200), "SIZE .* is 19200, expected 16 to 2048 pixels"),
        (("--size", 48, "--crop-pct", 1.5), "crop_pct is 1.5, expected more than 0 and at most 1"),
    ],
)
def test_size_that_cannot_be_is_refused_and_nothing_written(tmp_path, monkeypatch, tiny_run, arguments, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message):
        resized(monkeypatch, "--run", tiny_run, *arguments, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_photos_by_which_the_epoch_was_chosen_stay_known_with_other_data(tmp_path, monkeypatch, tiny_run, generated):
    monkeypatch.chdir(ROOT)
    before = Checkpoint.load(tiny_run / "checkpoint.pt")
    for photo in sorted(generated.rglob("*.jpg")):
        (tmp_path / "other" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        image = Image.open(photo)
        ImageOps.mirror(image).rotate(7).save(tmp_path / "other" / photo.parent.name / photo.name, quality=70)
    out = tmp_path / "new"
    assert resized(monkeypatch, "--run", tiny_run, "--size", 48, "--data", tmp_path / "other", "--out", out) == 0
    assert set(before.held_out) < set(Checkpoint.load(out / "checkpoint.pt").held_out)


def test_run_that_exists_or_is_at_work_and_another_folder_are_not_written_into(tmp_path, monkeypatch, tiny_run):
    monkeypatch.chdir(ROOT)
    content = (tiny_run / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="holds a run: give another folder"):
        resized(monkeypatch, "--run", tiny_run, "--size", 48, "--out", tiny_run)
    assert (tiny_run / "checkpoint.pt").read_bytes() == content
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a photo")
    with pytest.raises(ValueError, match=r"is no run's folder, and holds a\.jpg"):
        resized(monkeypatch, "--run", tiny_run, "--size", 48, "--out", tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    lines = "import os, sys; from pathlib import Path; from training.folder import at_work\n"
    lines += "with at_work(Path(sys.argv[1]), os.getpid()): print('at work', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", lines, str(tmp_path / "at-work")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "at work\n"
        with pytest.raises(ValueError, match=f"is at work, as process {other.pid}"):
            resized(monkeypatch, "--run", tiny_run, "--size", 48, "--out", tmp_path / "at-work")
        other.stdin.close()


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
