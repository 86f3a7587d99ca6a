"""Which of an archive's programs serves: the fastest on this machine, measured once, remembered, or fixed by SEEFOOD_FORMAT."""

import json
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import handler.choice
from handler.choice import Choosing, allowed
from handler.locks import alone
from handler.program import OpenVinoProgram
from handler.remembered import Remembered, key_of
from handler.signals import PROFILE, Profile
from scripts.archive.build import build
from scripts.archive.inspect import chosen_here
from scripts.archive.precise import most_precise
from scripts.archive.read import load_handler, unpack
from tests.conftest import ROOT, modules_of_a_worker, picture_bytes
from tests.offline_context import OfflineContext
from tests.programs import MORE, as_before, with_onnxruntime


@pytest.fixture(scope="module")
def several(exported, tmp_path_factory):
    """An unpacked archive whose file both OpenVINO and ONNX Runtime run."""
    folder = tmp_path_factory.mktemp("several")
    return packed_and_unpacked(with_onnxruntime(exported, folder / "1.0.0"), folder)


def packed_and_unpacked(exported, folder):
    unpack(build(exported, "1.0.0", folder / "store"), folder / "unpacked" / "seefood-1.0.0-0123456789ab")
    return folder / "unpacked" / "seefood-1.0.0-0123456789ab"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder in which choices are kept."""
    monkeypatch.setenv("SEEFOOD_PROGRAMS_DIR", str(tmp_path / "programs"))
    return tmp_path / "programs"


def described(unpacked):
    """What the archive's own handler says once it is loaded."""
    with modules_of_a_worker():
        return load_handler(unpacked).describe()


def kept_in(place):
    (path,) = place.glob("*/choice-*.json")
    return path


ALL = ("openvino/f32", "openvino/bf16", "openvino-int8/int8")


class _Loaded(SimpleNamespace):
    """A program that only bears its names."""

    in_float, singly, batches = False, False, "whole"

    def keep(self, _kept):
        pass

    def settle(self):
        pass


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"openvino/f32": 4.0, "openvino/bf16": 2.0, "openvino-int8/int8": 3.0}, "openvino/bf16"),
        ({"openvino/f32": 4.0, "openvino/bf16": 3.9, "openvino-int8/int8": 3.0}, "openvino-int8/int8"),
        # less than 3 % faster: the more precise one
        ({"openvino/f32": 4.0, "openvino/bf16": 3.9, "openvino-int8/int8": 3.95}, "openvino/f32"),
        ({"openvino/f32": 4.0, "openvino/bf16": 2.0, "openvino-int8/int8": 1.95}, "openvino/bf16"),
        ({"openvino/f32": 1.0, "openvino/bf16": 2.0, "openvino-int8/int8": 3.0}, "openvino/f32"),
    ],
)
def test_fastest_at_the_batch_size_is_taken_and_of_equally_fast_ones_the_most_precise(times, chosen, monkeypatch, tmp_path):
    programs = {name: dict(zip(("format", "precision"), name.split("/"), strict=True)) for name in reversed(ALL)}
    (tmp_path / "provenance.json").write_text("{}")
    monkeypatch.setattr(handler.choice, "open_program", lambda _, about, *__: _Loaded(**about))
    golden = SimpleNamespace(check=lambda *_: None, count=4)
    monkeypatch.setattr(Choosing, "_timed", lambda _, two: {name: {"1": 9.0 - times[name], "8": times[name]} for name in two})
    choice = Choosing(tmp_path, programs, golden, 1, [1, 8])()
    assert choice.name == chosen
    assert choice.why.startswith(f"{times[chosen]:.2f} ms a photo in batches of 8, answered whole; ")
    assert {name: at["8"] for name, at in choice.ms_per_photo.items()} == times


def test_each_program_is_measured_and_the_next_worker_takes_the_choice_from_the_disk(several, place):
    first = described(several)
    names = json.loads((several / "program.json").read_text())["programs"].keys()
    assert first["program"] in names
    assert first["program"] == f"{first['format']}/{first['precision']}"
    assert first["choice"]["ms_per_photo"].keys() | first["choice"]["refused"].keys() == names
    assert all(at["1"] > 0 and at["8"] > 0 for at in first["choice"]["ms_per_photo"].values())
    # another choice in the file shows whether it is read
    path = kept_in(place)
    content = json.loads(path.read_text())
    (other,) = {"openvino/f32", MORE} - {first["program"]} if "f32" in first["program"] else {MORE}
    path.write_text(json.dumps(content | {"choice": content["choice"] | {"program": other}}))
    assert described(several)["program"] == other


def test_choice_that_cannot_be_read_or_is_of_another_machine_is_made_anew(several, place, monkeypatch):
    programs = json.loads((several / "program.json").read_text())["programs"]
    remembered = Remembered.of(several, key_of(several, programs, 0, [1, 8]))
    fine = {"program": MORE, "ms_per_photo": {MORE: {"1": 1.0, "8": 1.0}}, "refused": {}}
    remembered.write(fine)
    assert remembered.read() == fine
    for content in (b"", b"\xff\0", b"[1]", b'{"key": 1}', b"[" * 100_000, json.dumps({"key": {}, "choice": fine}).encode()):
        remembered.path.write_bytes(content)
        assert remembered.read() is None
    choosing = Choosing(several, programs, None, 0, [1, 8])
    assert choosing._kept(fine)
    for damage in ({"program": "torch/f32"}, {"ms_per_photo": {MORE: {"8": 1.0}}}, {"ms_per_photo": 7}, {"refused": {"x": "y"}}):
        assert choosing._kept(fine | damage) is None
    for other in ({"cpu": "AMD EPYC 00000000"}, {"libraries": {"openvino": "2019.1"}}, {"threads": 999}, {"archive": "0"}):
        assert Remembered.of(several, remembered.key | other).path != remembered.path
    place.joinpath("file").write_text("no folder")
    monkeypatch.setenv("SEEFOOD_PROGRAMS_DIR", str(place / "file"))
    nowhere = Remembered.of(several, remembered.key)
    nowhere.write(fine)
    assert nowhere.read() is None


def test_format_fixes_the_program_and_threshold_and_profile_are_its_own(several, monkeypatch):
    monkeypatch.setenv("SEEFOOD_FORMAT", "onnxruntime")
    with modules_of_a_worker():
        worker = load_handler(several)
        answer = json.loads(worker.handle([{"body": picture_bytes(0)}], OfflineContext())[0])
    assert (worker.choice.name, worker.choice.why, worker.threshold) == (MORE, "by FORMAT=onnxruntime", -2.0)
    assert answer["sure"]  # at its threshold all are
    assert worker.profile.threshold == Profile.load(several / PROFILE, MORE).threshold
    monkeypatch.setenv("SEEFOOD_FORMAT", "openvino/f32")
    assert described(several)["program"] == "openvino/f32"


def test_work_whose_answers_are_compared_is_by_the_most_precise_program_and_format_fixes_another(several, monkeypatch):
    for wanted, expected in (("", "openvino/f32"), ("openvino", "openvino/f32"), (MORE, MORE)):
        monkeypatch.setenv("SEEFOOD_FORMAT", wanted)
        with most_precise(several) as name:
            assert described(several)["program"] == name == expected
        assert os.environ["SEEFOOD_FORMAT"] == wanted
    monkeypatch.setenv("SEEFOOD_FORMAT", "torch")
    with pytest.raises(ValueError, match="FORMAT .* is 'torch', but this archive has"), most_precise(several):
        pass
    monkeypatch.delenv("SEEFOOD_FORMAT")
    with most_precise(several):
        pass
    assert "SEEFOOD_FORMAT" not in os.environ


def test_format_that_the_archive_lacks_or_the_machine_cannot_run_is_refused_with_what_there_is(several, monkeypatch):
    monkeypatch.setenv("SEEFOOD_FORMAT", "openvino-int8")
    with pytest.raises(ValueError, match=r"FORMAT .* is 'openvino-int8', but this archive has .*openvino/f32.*, onnxruntime/f32"):
        described(several)
    before = {"f32": {"format": "openvino", "precision": "f32"}}
    assert allowed(before, "openvino/f32") == allowed(before, "openvino") == allowed(before, "") == before
    with pytest.raises(ValueError, match="this archive has openvino/f32"):
        allowed(before, "f32")
    lines = "import sys; from handler.program import OpenVinoProgram; OpenVinoProgram(sys.argv[1], 'f16', 1)"
    done = subprocess.run([sys.executable, "-c", lines, "model"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "ValueError: this machine's OpenVINO runs int8, " in done.stderr
    assert "not f16" in done.stderr


def test_program_that_answers_its_golden_photos_incorrectly_here_is_left_out_and_named(exported, tmp_path, place):
    folder = with_onnxruntime(exported, tmp_path / "1.0.0")
    golden = json.loads((folder / "golden.json").read_text())
    for name, expected in golden["programs"].items():
        expected["tolerance"] = 0.0 if name.startswith("openvino") else 1e-3
        expected["probabilities"][0][0] += 1e-4  # float32's rounding on another CPU
    (folder / "golden.json").write_text(json.dumps(golden))
    found = described(packed_and_unpacked(folder, tmp_path))
    assert found["program"] == MORE
    assert "the answer in openvino/f32 differs by" in found["choice"]["refused"]["openvino/f32"]
    assert found["choice"]["why"].startswith("the only one that runs here; ")
    assert "openvino/f32 not used here" in found["choice"]["why"]
    golden["programs"][MORE]["tolerance"] = 0.0
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ValueError, match=r"answer in openvino/f32 differs.*answer in onnxruntime/f32 differs"):
        build(folder, "1.0.1", tmp_path / "store")


def test_archive_of_an_earlier_version_serves_its_only_format(exported, tmp_path, place):
    found = described(packed_and_unpacked(as_before(exported, tmp_path / "1.0.0"), tmp_path))
    assert found["program"] == found["precision"]
    assert found["precision"] in ("f32", "bf16")
    assert found["format"] == "openvino"


def test_unknown_precision_is_refused_by_the_programs_name():
    programs = {"openvino/f8": {"format": "openvino", "precision": "f8"}}
    with pytest.raises(ValueError, match=r"precision of the program openvino/f8 is 'f8', expected one of f32, bf16, f16, int8"):
        allowed(programs, "")


@pytest.mark.parametrize("format_name", ["", "openvino/f32"])
def test_whatever_a_worker_loads_and_measures_no_other_one_does_meanwhile(several, place, monkeypatch, format_name):
    monkeypatch.setenv("SEEFOOD_FORMAT", format_name)
    programs, held = json.loads((several / "program.json").read_text())["programs"], []
    settle = OpenVinoProgram.settle

    def settled(self):
        with pytest.raises(TimeoutError), alone(place, 0):
            pass
        held.append("settled")
        settle(self)

    monkeypatch.setattr(OpenVinoProgram, "settle", settled)
    golden = SimpleNamespace(
        check=lambda *_: held.append("checked"), count=4, batch=lambda size: (np.zeros((size, 64, 64, 3), np.uint8),)
    )
    Choosing(several, programs, golden, 1, [1, 8])()
    assert {"settled", "checked"} == set(held)
    with alone(place, 0):
        pass


def test_no_more_than_two_programs_are_in_memory_even_of_those_that_are_refused(monkeypatch, tmp_path):
    (tmp_path / "provenance.json").write_text("{}")
    programs = {f"openvino/{number}": {"format": "openvino", "precision": "f32", "number": number} for number in range(6)}
    loaded, most = [], []

    def open_program(_folder, about, *_):
        most.append(sum(one() is not None for one in loaded))
        one = _Loaded(**about)
        loaded.append(weakref.ref(one))
        return one

    def check(program, name, _sizes):
        if name in ("openvino/1", "openvino/3"):
            raise RuntimeError(f"{name} is refused")

    monkeypatch.setattr(handler.choice, "open_program", open_program)
    monkeypatch.setattr(Choosing, "_timed", lambda _, two: {name: {"8": 1.0} for name in two})
    choice = Choosing(tmp_path, programs, SimpleNamespace(check=check, count=4), 1, [8])()
    assert max(most) == 1  # beside the one that is loaded then
    assert choice.refused["openvino/3"] == "RuntimeError: openvino/3 is refused"


def test_pair_decides_by_what_was_measured_beside_each_other(monkeypatch, tmp_path):
    """Else the first one's best time, of a quiet moment, would be held against one that was measured in a busy one."""
    (tmp_path / "provenance.json").write_text("{}")
    programs = {f"openvino/{number}": {"format": "openvino", "precision": "f32"} for number in range(3)}
    pairs = iter([(1.0, 1.1), (2.0, 1.5)])
    monkeypatch.setattr(handler.choice, "open_program", lambda _, about, *__: _Loaded(**about))
    monkeypatch.setattr(Choosing, "_timed", lambda _, two: {name: {"8": ms} for name, ms in zip(two, next(pairs), strict=True)})
    choice = Choosing(tmp_path, programs, SimpleNamespace(check=lambda *_: None, count=4), 1, [8])()
    assert choice.name == "openvino/2"
    assert choice.ms_per_photo["openvino/0"] == {"8": 1.0}


def test_newest_choice_is_shown_and_what_is_none_is_left_out(tmp_path):
    folder = tmp_path / "serve-8080" / "programs" / f"seefood-1.0.0-{'a' * 12}"
    folder.mkdir(parents=True)
    contents = {"b": {"program": "new"}, "a": {"program": "old"}, "c": [["program", "x"]], "d": None, "e": "text"}
    for age, (name, choice) in enumerate(contents.items()):
        path = folder / f"choice-{name}.json"
        path.write_text(json.dumps({"key": {"cpu": "a CPU"}, "choice": choice}))
        os.utime(path, (1000 - age, 1000 - age))
    assert chosen_here("a" * 64, tmp_path) == {"serve-8080": {"program": "new", "cpu": "a CPU"}}


def test_choice_takes_the_place_of_those_of_other_libraries(several, place):
    for key in ({"libraries": "1"}, {"libraries": "2"}):
        Remembered.of(several, key).write({"program": "a"})
    assert kept_in(place) == Remembered.of(several, key).path


def test_workers_measure_one_after_the_other(several, place):
    remembered = Remembered.of(several, {"a": 1})
    with remembered.alone(), pytest.raises(TimeoutError), alone(place, 0.1):
        pass
    with alone(place, 0):
        pass
