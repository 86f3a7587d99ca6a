"""A batch as one, or a crop at a time: whichever this machine answers sooner."""

import json
import time

import numpy as np
import pytest

from handler import program
from handler.batching import is_faster_whole
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


def test_a_batch_is_faster_whole_where_it_takes_clearly_less_time():
    assert is_faster_whole(8, computing(0.001), computing(0.004))
    assert not is_faster_whole(8, computing(0.001), computing(0.016))
    assert not is_faster_whole(8, computing(0.001), computing(0.0078))  # as good as equal: not worth its memory


@pytest.mark.parametrize("whole_s", [0.001, 0.03])
def test_what_is_clear_after_a_few_rounds_is_not_measured_any_longer(whole_s):
    calls = []
    is_faster_whole(8, computing(0.001), lambda: calls.append(computing(whole_s)()))
    assert len(calls) < 20


@pytest.mark.parametrize("whole", [True, False])
def test_answers_are_the_same_however_a_batch_is_answered(monkeypatch, whole):
    asked = []
    monkeypatch.setattr(program, "is_faster_whole", lambda size, *_: asked.append(size) or whole)
    description = json.loads((STARTER / "program.json").read_text())
    both = load_program(STARTER, description, 1, [1, 8]), load_program(STARTER, description, 1)
    for one in both:
        one.settle()
    assert asked == [8]  # one that is to answer any size is not measured
    side = json.loads((STARTER / "spec.json").read_text())["input_size"][1]
    crops = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    for size in (1, 3, 8):
        found, expected = (one(crops[:size]) for one in both)
        for one, other, rounding in zip(found, expected, (2e-3, 2e-3, 0.05), strict=True):  # of int8
            assert one.shape == other.shape
            assert one.dtype == np.float32
            assert np.abs(one - other).max() < rounding


def test_what_was_measured_once_is_kept_beside_what_is_compiled(monkeypatch, tmp_path):
    asked, compiled = [], []
    monkeypatch.setattr(program, "is_faster_whole", lambda size, *_: bool(asked.append(size)))
    compile_model = openvino_core().compile_model
    monkeypatch.setattr(openvino_core(), "compile_model", lambda *given: compiled.append(1) or compile_model(*given))
    about = programs_of(json.loads((STARTER / "program.json").read_text()))
    (first, *_) = about.values()
    kept = Compiled(tmp_path / "kept")
    for _ in range(2):
        one = open_program(STARTER, first, 1, [1, 8], kept)
        one.settle()
        one.keep(kept)
    assert asked == [8]
    assert len(compiled) == 2  # for 1 and for 8, at the first load alone
