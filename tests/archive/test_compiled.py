"""Compiled programs that an earlier worker has kept: the same answers in less time, and no harm where they are damaged."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import handler.openvino_network
from handler.choice import Choosing
from handler.compiled import Compiled
from handler.openvino_models import Form
from handler.program import OpenVinoProgram
from tests.archive.test_choice import described, packed_and_unpacked
from tests.conftest import ROOT

CROPS = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
SIZES = (1, 8)
WHOLE = {f"model.onnx-f32-{what}" for what in ("1", "8", "batches")}
SINGLY = {f"model.onnx-f32-{what}" for what in ("1", "batches")}


def answers(program):
    return [np.concatenate([output.ravel() for output in program(CROPS[:size])]) for size in (1, 3, 8)]


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """Batches are answered whole, unless a test says otherwise."""
    monkeypatch.setattr(handler.openvino_network, "is_faster_in_parts", lambda *_: True)


def kept_answers(model, kept, anew=False):
    """The answers of a program that was settled and kept, as a choice does it."""
    program = OpenVinoProgram(model, "f32", 1, SIZES, Compiled(None) if anew else kept)
    program.settle()
    program.keep(kept)
    return answers(program)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def kept(tmp_path):
    return Compiled(tmp_path / "archive" / "compiled-0")


@pytest.fixture
def model(exported, tmp_path):
    """A copy of the tiny program's file."""
    return Path(shutil.copy(exported / "model.onnx", tmp_path))


def test_next_worker_answers_the_same_from_what_is_kept_alone(model, kept):
    before = kept_answers(model, kept)
    assert names(kept.folder) == WHOLE
    model.unlink()  # so that it cannot be compiled
    for one, other in zip(before, answers(OpenVinoProgram(model, "f32", 1, SIZES, kept)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(RuntimeError):
        OpenVinoProgram(model, "f32", 1, (2,), kept).settle()


def test_what_is_kept_is_what_serves_whichever_way_batches_are_answered(model, kept, monkeypatch):
    """And a new measurement takes the place of the one before."""
    asked = []
    for whole, expected in ((True, WHOLE), (False, SINGLY), (True, WHOLE)):
        monkeypatch.setattr(handler.openvino_network, "is_faster_in_parts", lambda *_, whole=whole: bool(asked.append(1)) or whole)
        kept_answers(model, kept, anew=True)
        assert names(kept.folder) == expected
        (kept.folder / "of-another-program").touch()  # SEEFOOD_FORMAT may name it next time
        again = OpenVinoProgram(model, "f32", 1, SIZES, kept)
        again.settle()
        assert again.singly is not whole
        again.keep(kept)
        assert names(kept.folder) == expected | {"of-another-program"}
        (kept.folder / "of-another-program").unlink()
    assert asked == [1] * 3
    other = OpenVinoProgram(model, "f32", 1, (1, 4), kept)  # of another largest batch nothing is known
    other.settle()
    assert asked == [1] * 4
    other.keep(kept)
    assert names(kept.folder) == {f"model.onnx-f32-{what}" for what in ("1", "4", "batches")}


def test_program_that_cannot_be_exported_serves_all_the_same(model, kept, monkeypatch):
    expected = answers(OpenVinoProgram(model, "f32", 1, SIZES))
    program = OpenVinoProgram(model, "f32", 1, SIZES)
    program.settle()

    class Unwilling:
        """A compiled program of a device that exports none."""

        exported = 0

        def export_model(self, _stream):
            Unwilling.exported += 1
            raise RuntimeError("not implemented")

    program._models._compiled = dict.fromkeys(map(Form, SIZES), Unwilling())
    program.keep(Compiled(None))
    assert Unwilling.exported == 0  # for nothing
    program.keep(kept)
    assert Unwilling.exported == len(SIZES)
    for one, other in zip(answers(program), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_damaged_one_is_compiled_anew_and_kept_again(model, kept):
    before = kept_answers(model, kept)
    one = kept.folder / "model.onnx-f32-8"
    whole = one.read_bytes()
    half = whole[32 : len(whole) // 2]
    damaged = [b"", whole[:20], whole[:-1], bytes(32) + whole[32:], whole[:5000] + b"\0" * 100 + whole[5100:]]
    # with a checksum that is right, as if OpenVINO itself had written it so
    damaged += [hashlib.sha256(content).digest() + content for content in (b"", b"no program", half)]
    for content in damaged:
        one.write_bytes(content)
        np.testing.assert_array_equal(kept_answers(model, kept)[2], before[2])
        assert len(kept.read(one.name)) == pytest.approx(len(whole), rel=0.01)  # it holds names, which have numbers


def test_of_another_library_or_cpu_nothing_is_found_and_it_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEFOOD_PROGRAMS_DIR", str(tmp_path / "programs"))
    key = {"archive": "0", "cpu": "a", "threads": 2, "libraries": {"openvino": "1"}, "programs": ["a"], "batch_sizes": [1]}
    first = Compiled.of(tmp_path / "seefood-1.0.0-0", key)
    first.write("program", b"one")
    # what SEEFOOD_FORMAT leaves out changes nothing
    for same in ({"programs": []}, {"libraries": {"openvino": "1", "onnxruntime": "2"}}):
        assert Compiled.of(tmp_path / "seefood-1.0.0-0", key | same).read("program") == b"one"
    for changed in ({"archive": "1"}, {"cpu": "b"}, {"threads": 1}, {"libraries": {"openvino": "2"}}):
        other = Compiled.of(tmp_path / "seefood-1.0.0-0", key | changed)
        assert other.read("program") is None
    other.write("program", b"two")
    assert [path.parent for path in (tmp_path / "programs").rglob("program")] == [other.folder]


def test_nothing_is_kept_where_there_is_no_room_or_no_folder(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    expected = answers(OpenVinoProgram(model, "f32", 1, SIZES))
    for kept in (Compiled(None), Compiled(tmp_path / "file" / "compiled-0")):
        np.testing.assert_array_equal(kept_answers(model, kept)[2], expected[2])
    full = Compiled(tmp_path / "full")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 1024 * 1024))
    kept_answers(model, full)
    assert not list(full.folder.iterdir())


def test_archive_loads_whatever_lies_in_place_of_its_compiled_programs(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEFOOD_PROGRAMS_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("SEEFOOD_FORMAT", "openvino/f32")
    unpacked = packed_and_unpacked(exported, tmp_path)
    batches = described(unpacked)["choice"]["batches"]
    files = [path for path in (tmp_path / "programs").rglob("*") if path.is_file() and path.name != "lock"]
    names = {path.name.removeprefix("model.onnx-f32-") for path in files}
    assert {"1", "batches"} <= names
    # of one crop, of a part if that has more, and each with the number of its streams if these are several
    assert {name.split("x")[0] for name in names - {"batches"}} == {"1", *re.findall(r"in parts of (\d+)", batches)}
    files = [path for path in files if not path.name.endswith("batches")]
    sizes = [path.stat().st_size for path in files]
    # those of another program: OpenVINO takes them, and the golden photos do not
    other = Compiled(tmp_path / "other")
    OpenVinoProgram(Path(__file__).parents[2] / "model_store" / "starter" / "model.xml", "int8", 1, (1,)).keep(other)
    for path in files:
        shutil.copy(other.folder / "model.xml-int8-1", path)
    found = described(unpacked)
    assert found["program"] == "openvino/f32"
    if found["choice"]["batches"] == batches:  # it was measured anew
        assert [path.stat().st_size for path in files] == pytest.approx(sizes, rel=0.01)


def test_worker_imports_openvino_without_its_converter_and_whoever_needs_that_gets_it():
    code = """
import sys
from handler.program import import_library
import_library({"openvino/f32": {"format": "openvino"}})
import openvino
assert not [name for name in sys.modules if name.startswith("openvino.tools.ovc")], "it was imported"
assert openvino.Core().available_devices
from openvino.tools.ovc import convert_model
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_kept_program_proves_itself_in_each_way_in_which_it_answers(model, kept, monkeypatch):
    checked = []
    golden = SimpleNamespace(count=4, check=lambda program, name, sizes: checked.append((program.singly, tuple(sizes))))
    programs = {"openvino/f32": {"format": "openvino", "precision": "f32", "file": model.name}}
    (model.parent / "provenance.json").write_text("{}")
    monkeypatch.setattr("handler.compiled.place_of", lambda _: kept.folder.parent)
    expected = {
        True: [(False, (1, 7, 8))],  # 7 are no whole batch
        False: [(True, (1, 8))],
    }
    for whole in (True, False):
        monkeypatch.setattr(handler.openvino_network, "is_faster_in_parts", lambda *_, whole=whole: whole)
        shutil.rmtree(kept.folder.parent, ignore_errors=True)
        kept.folder.parent.mkdir()
        Choosing(model.parent, programs, golden, 1, SIZES)()
        checked.clear()
        Choosing(model.parent, programs, golden, 1, SIZES)()
        assert checked == expected[whole]
