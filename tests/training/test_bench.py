"""make bench-train: our loop beside timm's own script, on the same photos."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from scripts.command import run
from training.data.sets import read_data
from training.speed import bench

# prints what timm's script prints, by the arguments that it was given
STAND_IN = """
import pathlib, sys
words = dict(zip(sys.argv[1:], sys.argv[2:]))
photos = len(list(pathlib.Path(words["--data-dir"], "train").rglob("*.*")))
steps = photos // int(words["-b"])
assert list(pathlib.Path(words["--data-dir"], "validation").rglob("*.*"))
for i in range(steps):
    print(f"Train: 0 [{i:>4d}/{steps} ( 5%)]  Loss: 2.30 (2.30)  Time: 0.250s,   64.00/s  (0.250s, 64/s)  LR: 1e-03")
sys.exit(int(words.get("--seed") == "13"))
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "timm_train.py"
    file.write_text(STAND_IN)
    return file


@pytest.fixture
def tiny(tiny_params, tmp_path):
    """(parameters of a benchmark, their file)."""
    params = tiny_params.model_copy(update=bench.PLAIN | {"epochs": 1})
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(params.model_dump()))
    return params, file


def test_rate_is_that_of_the_middle_half_of_the_steps(tiny):
    durations = [9.0] * bench.EDGE + [0.1] * 3 + [0.5] * 6 + [4.0] * 3 + [9.0] * bench.EDGE
    assert bench.rate(durations, tiny[0]) == pytest.approx(16 / 0.5)


def test_sample_repeats_photos_and_holds_out_one_a_class(generated, tmp_path):
    data = read_data(generated, 0.2, 0)
    folder = bench.sample(data, len(data.train) + 7, tmp_path / "photos")
    assert len(list((folder / "train").glob("*/*"))) == len(data.train) + 7
    assert len(list((folder / "validation").glob("*/*"))) == len(data.labels)
    assert all(path.resolve().is_file() for path in folder.rglob("*") if path.is_symlink())


def test_both_get_the_same_work(tiny, script, tmp_path):
    words = bench.timm_command(script, tmp_path, tiny[0].model_copy(update={"workers": 2, "precision": "bfloat16"}), 4, tmp_path)
    line = " ".join(words)
    for part in (
        "--model test_efficientnet --num-classes 4",
        "-b 16 -j 2",
        "--img-size 64 --scale 0.6 1.0",
        "--amp-dtype bfloat16",
    ):
        assert part in line
    assert "--amp" not in bench.timm_command(script, tmp_path, tiny[0], 4, tmp_path)


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    return run(bench.main)


def test_a_pair_is_printed_with_the_cpu_and_its_ratio(generated, tiny, script, monkeypatch, capsys):
    options = ["--data", generated, "--params", tiny[1], "--models", "test_efficientnet", "--pairs", 1, "--batch", 8]
    assert command(monkeypatch, "--timm-train", script, *options) == 0
    output = capsys.readouterr().out
    assert re.search(r"\d+ threads?, timm [\d.]+, torch", output)
    ours, theirs, ratio = map(float, re.search(r"ours ([\d.]+), timm ([\d.]+) images/s, ratio ([\d.]+)", output).groups())
    assert theirs == 32.0
    assert ratio == pytest.approx(ours / theirs, rel=0.01)
    assert f"test_efficientnet: {ratio:.3f} times the images/s of timm's train.py (median of 1 pairs)" in output


def test_what_fails_is_said_with_its_last_words(generated, tiny, script, tmp_path, monkeypatch, capsys):
    other = tmp_path / "seed.yaml"
    other.write_text(tiny[1].read_text().replace("seed: 0", "seed: 13"))
    options = ["--data", generated, "--models", "test_efficientnet", "--pairs", 1, "--batch", 8]
    assert command(monkeypatch, "--timm-train", script, "--params", other, *options) == 1
    assert "timm_train.py ended with 1 after 40 steps: " in capsys.readouterr().err.replace("\n", " ")
    assert command(monkeypatch, "--timm-train", tmp_path / "gone.py") == 1
    assert "gone.py', expected the file train.py of timm's repository" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(monkeypatch)
    assert "TIMM_TRAIN (--timm-train) is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_kept_photos_are_measured_by_epoch(generated, tiny, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ["--data", generated, "--params", tiny[1], "--models", "test_efficientnet", "--batch", 4, "--steps", 30]
    assert command(monkeypatch, "--cache", *options) == 0
    lines = re.findall(
        r"test_efficientnet, cache: (none|ram|disk): ([\d.]+), ([\d.]+), ([\d.]+) images/s by epoch", capsys.readouterr().out
    )
    assert [line[0] for line in lines] == ["none", "ram", "disk"]


@pytest.mark.slow
def test_timms_own_script(generated, tiny, monkeypatch, capsys):
    if not (script := os.environ.get("TIMM_TRAIN")):
        pytest.skip("TIMM_TRAIN does not name train.py of timm's repository")
    options = ["--data", generated, "--params", tiny[1], "--models", "test_efficientnet", "--pairs", 1, "--batch", 8]
    assert command(monkeypatch, "--timm-train", Path(script), *options) == 0
    assert re.search(r"ours [\d.]+, timm [\d.]+ images/s, ratio [\d.]+", capsys.readouterr().out)
