"""int8 on CPUs that add its products inexactly: it is computed in float32 there, and answers as elsewhere."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from handler import cpu
from handler.choice import Choosing
from handler.golden import GoldenPhotos
from handler.openvino_models import compute_in_float, openvino_core
from handler.preprocess import Spec, preprocess
from handler.program import open_program, programs_of
from scripts.archive.build import build
from scripts.archive.read import unpack
from tests.conftest import LIMIT_S, ROOT
from training.export.gate import AccuracyGateError, Reference, gate
from training.export.golden import golden_pictures

STARTER = ROOT / "model_store" / "starter"


@pytest.fixture
def without_vnni(monkeypatch):
    monkeypatch.setattr("handler.openvino_models.adds_int8_exactly", lambda: False)


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fma avx2 avx512_vnni amx_int8", True),
        ("x86_64", "fma avx2 avx_vnni", True),
        ("x86_64", "fma avx2 avx512f avx512bw", False),
        ("AMD64", None, False),
        ("i386", None, False),
        ("aarch64", None, True),
    ],
)
def test_int8_is_exact_where_the_cpu_has_vnni_and_on_arm(machine, flags, exact, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "described", lambda: {"flags": flags} if flags else {})
    assert cpu.adds_int8_exactly() is exact


def test_first_core_of_many_is_described_and_its_instructions_are_part_of_its_kind(monkeypatch, tmp_path):
    core = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: avx2\ncpu MHz\t\t: 2500.1"
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "Path", lambda _: path)

    def kind(text):
        path.write_text(text)
        cpu.described.cache_clear()
        return cpu.kind()

    try:
        first = kind(f"{core}\n\n{core.replace('A CPU', 'another')}\n")
        assert first.startswith("A CPU ")
        assert cpu.described()["flags"] == "avx2"
        assert kind(core.replace("2500.1", "1700.0")) == first
        assert kind(core.replace("avx2", "avx2 avx512_vnni")) != first
        path.unlink()
        cpu.described.cache_clear()
        assert cpu.described() == {}
        assert cpu.kind()
    finally:
        cpu.described.cache_clear()


def answers_of_starter():
    """The starter's program, and its answers to some pictures, in batches of one."""
    (about,) = programs_of(json.loads((STARTER / "program.json").read_text())).values()
    program = open_program(STARTER, about, 1)
    crops = [preprocess(picture, Spec.from_folder(STARTER)) for picture in golden_pictures().values()]
    return program, np.concatenate([program(crop[None]).probabilities for crop in crops])


def test_int8_without_vnni_is_computed_in_float_and_answers_nearly_the_same(without_vnni, monkeypatch):
    program, found = answers_of_starter()
    assert program.in_float
    monkeypatch.setattr("handler.openvino_models.adds_int8_exactly", lambda: True)
    exact, expected = answers_of_starter()
    assert not exact.in_float
    assert 0 < np.abs(found - expected).max() < 0.1


LINES = """
import numpy as np, sys
import handler.openvino_models
from tests.handler.test_cpu import answers_of_starter
if sys.argv[1] == "float":
    handler.openvino_models.adds_int8_exactly = lambda: False
print(*answers_of_starter()[1].ravel())
"""


def answered(kind, isa):
    """The starter's answers by a process whose OpenVINO uses no instructions beyond these."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", LINES, kind], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return np.array(done.stdout.split(), float)


@pytest.mark.skipif(not cpu.adds_int8_exactly() or platform.machine() in cpu.ARM, reason="needs an x86 CPU with VNNI")
def test_on_older_instructions_int8_saturates_and_in_float_it_does_not():
    exact = answered("int8", "ALL")
    saturated, in_float = answered("int8", "AVX2"), answered("float", "AVX2")
    assert np.abs(saturated - exact).max() > 0.1  # what is prevented
    assert np.abs(in_float - exact).max() < 0.1


def test_starter_without_vnni_answers_its_golden_photos_and_says_how_it_computes(without_vnni, tmp_path):
    folder = tmp_path / "unpacked"
    unpack(build(STARTER, "1.0.0", tmp_path / "store"), folder)
    golden, program = (json.loads((folder / name).read_text()) for name in ("golden.json", "program.json"))
    spec = Spec.from_folder(folder)
    photos = GoldenPhotos(golden, spec, 10, lambda photos: [preprocess(one, spec) for one in photos])
    choice = Choosing(folder, programs_of(program), photos, 1, (1, 8))()
    assert choice.name == "openvino-int8/int8"
    assert choice.why == "the only one of the archive; computed in float32, as this CPU has no exact int8 (VNNI)"


def test_gate_judges_no_int8_that_this_cpu_computes_in_float(without_vnni, tmp_path):
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).write_bytes((STARTER / name).read_bytes())
    spec = Spec.from_folder(STARTER)
    crops = np.zeros((2, *spec.input_size[1:], 3), np.uint8)
    with pytest.raises(
        AccuracyGateError,
        match=r"openvino-int8 cannot be judged on this machine \(int8.*CPU has no exact int8",
    ):
        gate("openvino-int8", tmp_path, Reference(crops, np.zeros(2, np.int64), np.full((2, 10), 0.1)))


def test_network_in_float_has_no_int8_left(tmp_path):
    model = openvino_core().read_model(STARTER / "model.xml")
    before = {node.get_type_name() for node in model.get_ops()}
    assert "FakeQuantize" in before
    compute_in_float(model)
    assert "FakeQuantize" not in {node.get_type_name() for node in model.get_ops()}
    kinds = {node.get_element_type() for node in model.get_ops() if node.get_type_name() == "Constant"}
    assert ov.Type.i8 not in kinds


def test_network_without_int8_is_left_as_it_is():
    given = op.parameter([1, 3], np.float32)
    model = ov.Model([op.result(op.relu(given))], [given])
    compute_in_float(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == ["Parameter", "Relu", "Result"]
