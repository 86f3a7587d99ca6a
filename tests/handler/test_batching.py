"""A batch in parts of one crop or of several: whichever this machine answers sooner."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from handler import openvino_network
from handler.batching import is_faster_in_parts
from handler.compiled import Compiled
from handler.openvino_models import openvino_core
from handler.program import load_program, open_program, programs_of
from tests.conftest import ROOT

STARTER = ROOT / "model_store" / "starter"


def computing(seconds):
    def compute():
        start = time.thread_time()
        while time.thread_time() - start < seconds:
            pass

    return compute


@pytest.fixture
def own_time(monkeypatch):
    """Measures count this thread's CPU: other tests may have the cores."""
    monkeypatch.setattr("handler.batching.time", SimpleNamespace(perf_counter=time.thread_time))


@pytest.mark.usefixtures("own_time")
def test_larger_parts_are_faster_where_they_take_clearly_less_time():
    assert is_faster_in_parts(computing(0.008), computing(0.004))
    assert not is_faster_in_parts(computing(0.008), computing(0.016))
    assert not is_faster_in_parts(computing(0.008), computing(0.0078))  # as good as equal: not worth its memory


@pytest.mark.usefixtures("own_time")
@pytest.mark.parametrize("larger_s", [0.001, 0.03])
def test_what_is_clear_after_a_few_rounds_is_not_measured_any_longer(larger_s):
    calls = []
    is_faster_in_parts(computing(0.008), lambda: calls.append(computing(larger_s)()))
    assert len(calls) < 20


@pytest.mark.parametrize("larger", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_answers_are_the_same_in_whichever_parts_a_batch_is_answered(monkeypatch, threads, larger):
    asked = []
    monkeypatch.setattr(openvino_network, "is_faster_in_parts", lambda *_: asked.append(1) or larger)
    description = json.loads((STARTER / "program.json").read_text())
    both = load_program(STARTER, description, threads, [1, 8]), load_program(STARTER, description, threads)
    for one in both:
        one.settle()
    assert asked == [1]  # one that is to answer any size is not measured
    streams = both[0]._streams  # OpenVINO has no more than this machine has cores
    assert 1 <= streams <= threads
    words = f"in parts of {-(-8 // streams)}" if larger else "one by one"
    assert [one.batches for one in both] == [words if streams == 1 else f"{words}, {streams} side by side", "whole"]
    side = json.loads((STARTER / "spec.json").read_text())["input_size"][1]
    crops = np.random.default_rng(0).integers(0, 256, (19, side, side, 3), np.uint8)
    for size in (1, 2, 3, 7, 8, 19):
        found, expected = (one(crops[:size]) for one in both)
        for one, other, rounding in zip(found, expected, (1e-2, 1e-2, 0.2), strict=True):  # of int8
            assert one.shape == other.shape
            assert one.dtype == np.float32
            assert np.abs(one - other).max() < rounding


@pytest.mark.parametrize(
    ("size", "parts"), [(4, [1] * 4), (6, [1] * 6), (7, [4, 1, 1, 1]), (8, [4, 4]), (13, [4, 4, 1, 1, 1, 1, 1])]
)
def test_crops_of_a_batch_that_is_not_full_are_shared_by_the_streams(monkeypatch, size, parts):
    monkeypatch.setattr(openvino_network, "is_faster_in_parts", lambda *_: True)
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), 2, [1, 8])
    answered, sizes = openvino_network._answered, []
    program.settle()
    if program._streams < 2:
        pytest.skip("one core has one stream")

    def noted(started):
        sizes.extend(len(crops) for _, (crops,) in started)
        return answered(started)

    monkeypatch.setattr(openvino_network, "_answered", noted)
    assert len(program(np.zeros((size, 192, 192, 3), np.uint8)).probabilities) == size
    assert sizes == parts


@pytest.mark.parametrize(("threads", "forms"), [(1, 2), (2, 3)])
def test_what_was_measured_once_is_kept_beside_what_is_compiled(monkeypatch, tmp_path, threads, forms):
    asked, compiled = [], []
    monkeypatch.setattr(openvino_network, "is_faster_in_parts", lambda *_: bool(asked.append(1)))
    compile_model = openvino_core().compile_model
    monkeypatch.setattr(openvino_core(), "compile_model", lambda *given: compiled.append(1) or compile_model(*given))
    about = programs_of(json.loads((STARTER / "program.json").read_text()))
    (first, *_) = about.values()
    kept = Compiled(tmp_path / "kept")
    for _ in range(2):
        one = open_program(STARTER, first, threads, [1, 8], kept)
        one.settle()
        one.keep(kept)
    assert asked == [1]
    assert len(compiled) == forms  # a crop alone, single crops side by side, and larger parts; at the first load alone


def test_part_that_fails_leaves_nothing_under_way_for_the_next_batch():
    """OpenVINO refuses a request that is still busy: the answers of another batch would fail, too."""

    class Failing:
        def __init__(self, request):
            self.request = request
            self.start = request.start

        def wait(self):
            self.request.wait()
            raise RuntimeError("no memory")

    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), 2, [1, 8])
    crops = np.zeros((8, 192, 192, 3), np.uint8)
    expected = program(crops)
    requests = program._requests[program._part]
    whole = requests[0]
    requests[0] = Failing(whole)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no memory"):
            program(crops)
    requests[0] = whole
    np.testing.assert_array_equal(program(crops).probabilities, expected.probabilities)


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (1, 2), (8, 2)])
@pytest.mark.parametrize(
    ("wrong", "found"),
    [(np.zeros((192, 192, 3), np.float32), "float32"), (np.zeros((1, 1, 3), np.uint8), r"uint8 \(1, 1, 1, 3\)")],
)
def test_crops_of_another_size_or_type_are_refused_and_not_stretched(size, threads, wrong, found):
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), threads, [1, 8])
    with pytest.raises(ValueError, match=f"given {found}.*the network takes uint8 "):
        program(np.stack([wrong] * size))
    assert len(program(np.zeros((size, 192, 192, 3), np.uint8)).probabilities) == size


def test_answers_stay_as_they_are_when_others_follow():
    """OpenVINO's memory is used again."""
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text()), 2, [1, 8])
    crops = np.random.default_rng(0).integers(0, 256, (8, 192, 192, 3), np.uint8)
    for size in (1, 8):
        first = program(crops[:size])
        before = [output.copy() for output in first]
        program(255 - crops[:size])
        for output, expected in zip(first, before, strict=True):
            np.testing.assert_array_equal(output, expected)


def test_threads_of_a_fixed_number_may_run_on_every_core():
    """Those of several workers, which know nothing of each other, would be bound to the same cores."""
    lines = """
import os, sys
from pathlib import Path
import numpy as np
from handler.program import OpenVinoProgram
program = OpenVinoProgram(Path(sys.argv[1]), "int8", 1, (1, 8))
for size in (1, 8):
    program(np.zeros((size, 192, 192, 3), np.uint8))
print({len(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()})
"""
    command = [sys.executable, "-c", lines, str(STARTER / "model.xml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({len(os.sched_getaffinity(0))})


def test_what_int8_leaves_out_is_answered_in_bfloat16_where_the_cpu_has_it_and_refused_elsewhere(monkeypatch):
    about = next(iter(programs_of(json.loads((STARTER / "program.json").read_text())).values()))
    side = json.loads((STARTER / "spec.json").read_text())["input_size"][1]
    crops = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    mixed = about | {"precision": "int8+bf16"}
    if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        expected, found = (open_program(STARTER, one, 1)(crops).probabilities for one in (about, mixed))
        np.testing.assert_allclose(found, expected, atol=0.02)
        assert (found != expected).any()

    class Without:
        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr("handler.program.openvino_core", Without)
    with pytest.raises(ValueError, match=r"this machine's OpenVINO runs int8, f32, not int8\+bf16"):
        open_program(STARTER, mixed, 1)
