"""make bench-gpu, on a CPU as far as that goes: all but the capture of a CUDA graph and nvJPEG."""

import itertools
import json
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from handler import preprocess
from handler.preprocess import Spec
from scripts.command import run
from scripts.machine import cpu
from tests.conftest import LIMIT_S, ROOT, bytes_of
from training.data.pictures import draw
from training.speed import device, gpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def folder(tiny_params, tmp_path_factory):
    """What the parts need, of a tiny network and drawn photos."""
    path = tmp_path_factory.mktemp("gpu")
    gpu.prepare(tiny_params, None, path)
    return path


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    return run(gpu.main)


@pytest.mark.parametrize("shown", [None, "7"])
def test_a_machine_without_a_gpu_is_refused_before_anything_is_measured(monkeypatch, tmp_path, capsys, shown):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert command(monkeypatch, "--out", tmp_path / "out" / "bench.json") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: torch {torch.__version__} finds no GPU on this machine, and bench-gpu measures one")
    assert ("CUDA_VISIBLE_DEVICES is '7'" in error) == (shown is not None)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_named(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, "--timm-train", tmp_path / "gone.py") == 1
    assert "gone.py', expected the file train.py of timm's repository" in capsys.readouterr().err
    assert command(monkeypatch, "--seconds", "0") == 1
    assert "SECONDS is 0, expected a positive number" in capsys.readouterr().err


def test_each_precision_is_timed_as_served_and_with_buffers_that_stay(folder):
    rows = gpu.measure("programs", folder, CPU, 0.2)
    assert [(row["what"], row["batch_size"]) for row in rows] == [
        (f"{precision}, {how}", batch_size)
        for batch_size, precision, how in itertools.product((1, 8, 32), ("f32", "bf16", "f16"), ("as served", "buffers that stay"))
    ]
    measured = {row["what"]: row for row in rows if row["batch_size"] == 8}
    # a CPU serves torch's program in float32 alone
    assert measured["bf16, as served"]["error"] == "this machine's torch runs f32, not bf16"
    assert max(measured[f"f32, {how}"]["off"] for how in ("as served", "buffers that stay")) < 1e-5
    assert 0 < measured["bf16, buffers that stay"]["off"] < 0.1
    for row in rows:
        assert "error" in row or (row["photos_per_s"] > 0 and row["p50_ms"] > 0)


def test_buffers_that_stay_answer_each_batch_with_its_own_answers(folder):
    spec = Spec.from_folder(folder)
    fixed = device.FixedBatch(device.load_module(folder / gpu.PROGRAM, CPU), "f32", 2, spec, CPU)
    crops = np.random.default_rng(0).integers(0, 256, (2, *spec.input_size[1:], 3), np.uint8)
    first, second = fixed(crops), fixed(torch.from_numpy(crops[::-1].copy()))
    np.testing.assert_allclose(first.probabilities, second.probabilities[::-1], atol=1e-6)
    assert not np.array_equal(first.features[0], first.features[1])


@pytest.mark.parametrize("size", [(512, 384), (384, 512), (300, 300), (1201, 500)])
@pytest.mark.parametrize("changed", [{}, {"crop_mode": "squash"}, {"interpolation": "bilinear"}], ids=str)
def test_crop_on_the_device_is_that_of_the_handler(spec, size, changed):
    spec = Spec.from_dict(spec.to_dict() | changed)
    image = draw(3, random.Random(0), size)
    ours = preprocess.crop(image, spec).astype(int)
    theirs = device.crop(torch.from_numpy(np.array(image)).permute(2, 0, 1), spec).numpy()
    assert theirs.dtype == np.uint8
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() <= 5  # the handler reads a large photo at reduced scale
    assert np.abs(theirs - ours).mean() < 0.5


def test_both_ways_to_decode_are_timed_and_compared(folder):
    threads, other = gpu.measure("decoding", folder, CPU, 0.1)
    assert threads["what"] == f"CPU, {device.cores()} threads"
    assert threads["off"] == 0
    assert other["what"] == "torchvision"
    assert other["off"] < 3  # the handler reads a large photo at reduced scale
    assert min(row[key] for row in (threads, other) for key in ("photos_per_s", "p50_ms")) > 0


def test_a_way_that_fails_leaves_the_other(folder):
    spec = Spec.from_folder(folder)
    photos = [bytes_of(Image.new("RGB", (300, 300)), "PNG")]  # which nvJPEG does not read
    threads, other = device.time_decoding(photos, spec, CPU, 0.1, batch_size=2)
    assert threads["photos_per_s"] > 0
    assert "Not a JPEG file" in other["error"]
    assert "\n" not in other["error"]


def test_next_batch_is_decoded_while_one_is_answered():
    third = threading.Event()

    def decode(photos):
        if photos == [b"2"]:
            third.set()
        return np.array([int(photos[0])])

    answered = []

    def answer(crops):
        # were it decoded afterwards, this would wait for itself
        assert crops[0] != 1 or third.wait(LIMIT_S)
        answered.append(int(crops[0]))

    latencies = list(device.pipeline(decode, answer, [[b"%d" % number] for number in range(4)]))
    assert answered == [0, 1, 2, 3]
    assert len(latencies) == 4
    assert min(latencies) > 0
    assert list(device.pipeline(decode, answer, [])) == []


def test_a_photo_that_cannot_be_decoded_ends_the_pipeline_with_its_error(spec):
    with ThreadPoolExecutor(1) as pool, pytest.raises(preprocess.PhotoError):
        list(device.pipeline(device.by_threads(spec, pool), len, [[b"no photo"]]))


def test_pipelines_show_the_share_without_work(folder):
    for row in gpu.measure("pipelines", folder, CPU, 0.2):
        assert row["photos_per_s"] > 0
        assert row["p50_ms"] > 0
        assert 0 <= row["idle"] <= 1


def test_what_overlaps_is_busy_once():
    assert device.union_s([(5, 6), (0, 2), (1, 3), (1, 2), (6, 7)]) == 5
    assert device.union_s([]) == 0


def test_busy_time_is_less_than_that_of_the_work_and_none_is_an_error():
    assert device.busy_s(lambda: torch.ones(500, 500) @ torch.ones(500, 500), CPU) > 0
    with pytest.raises(ValueError, match="sees no kernel on meta"):
        device.busy_s(lambda: torch.ones(2) + 1, torch.device("meta"))


def python(name, code, given=None):
    """A part that runs this code."""

    def words(seconds):
        if given is not None:
            given.append(seconds)
        return [sys.executable, "-c", code]

    return gpu.Part(name, words, gpu.last_line)


def test_a_part_that_fails_is_shown_and_the_others_go_on():
    given = []
    found = gpu.run_parts(
        [
            python("broken", "raise SystemExit('error: CUDA error: an illegal memory access')", given),
            python("silent", "pass", given),
            python("good", 'print(\'noise\'); print(\'[{"what": "x", "batch_size": 1, "photos_per_s": 2.0}]\')', given),
        ],
        LIMIT_S,
    )
    assert found["broken"] == [{"what": "broken", "error": "ended with 1: CUDA error: an illegal memory access"}]
    assert found["silent"][0]["error"].startswith("printed no figures")
    assert found["good"] == [{"what": "x", "batch_size": 1, "photos_per_s": 2.0}]
    # what a part leaves goes to those after it
    assert given[0] == pytest.approx(gpu.MEASURING * LIMIT_S / 3, rel=0.1)
    assert given[0] < given[1] < given[2] < gpu.MEASURING * LIMIT_S
    shown = gpu.table(found)
    assert "| broken: broken | - | failed: ended with 1: CUDA error: an illegal memory access | | | |" in shown
    assert "| good: x | 1 | 2.0 | - | - | - |" in shown


def test_a_part_ends_with_its_share_of_the_budget():
    slow = python("slow", "import threading; threading.Event().wait()")
    assert gpu.run_part(slow, 0.2) == [{"what": "slow", "error": "took longer than the 0 s that it had"}]
    assert "took longer" in gpu.run_parts([slow, slow], -1.0)["slow"][0]["error"]


def test_rows_of_training_are_those_of_bench_train():
    printed = (
        "AMD, 2 threads\n  levit_256: ours 612.5, timm 500.0 images/s, ratio 1.225\nlevit_256: 1.225 times the images/s of timm's\n"
    )
    assert gpu.pairs(printed) == [
        {"what": "ours", "batch_size": 128, "photos_per_s": 612.5, "of_timm": 1.225},
        {"what": "timm's train.py", "batch_size": 128, "photos_per_s": 500.0},
    ]
    assert "| training: ours, 1.23 times as fast as timm | 128 | 612.5 | - | - | - |" in gpu.table({"training": gpu.pairs(printed)})


def test_data_without_a_jpeg_is_refused(tiny_params, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            draw(number, random.Random(f"{label}{number}"), (80, 80)).save(tmp_path / "photos" / label / f"{number}.png")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="expected photos of which some are JPEGs"):
        gpu.prepare(tiny_params, tmp_path / "photos", tmp_path / "out")


@pytest.mark.slow
def test_the_command_tried_on_a_cpu_writes_all_its_parts(tiny_params, generated, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_params.model_dump()))
    words = ["--device", "cpu", "--params", tmp_path / "tiny.yaml", "--data", generated, "--seconds", LIMIT_S / 10]
    done = subprocess.run(
        [sys.executable, "-m", "training.speed.gpu", *map(str, words), "--out", str(tmp_path / "bench.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["cpu"] == cpu()
    assert report["gpu"] == "no GPU: the command is tried on the CPU"
    assert list(report["parts"]) == ["programs", "decoding", "pipelines", "training"]
    for name in ("programs", "decoding", "pipelines"):
        assert any(row.get("photos_per_s") for row in report["parts"][name]), report["parts"][name]
    assert report["parts"]["training"][0]["error"].startswith("TIMM_TRAIN is missing")
    assert f"written: {tmp_path / 'bench.json'}" in done.stdout
