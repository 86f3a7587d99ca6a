"""The exported formats: each serves the same answers, and one that is not accurate enough is refused."""

import copy
import errno
import itertools
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace

import httpx
import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from handler.cpu import adds_int8_exactly
from handler.expected import name_in_float
from handler.program import PROGRAMS
from scripts.archive.build import build
from scripts.archive.read import load_handler, unpack
from tests.conftest import LIMIT_S, ROOT, free_port, modules_of_a_worker, picture_bytes
from tests.offline_context import OfflineContext
from tests.serving.server import Server
from training.data.sets import read_data
from training.export.export import export, write_formats
from training.export.formats import EXPORT_FORMATS, FASTEST, UnsupportedError, export_to
from training.export.gate import AccuracyGateError, failure, gate, measure, programs
from training.export.program import crops_of, folded, prepare
from training.model import Checkpoint


@pytest.fixture(scope="module")
def prepared(tiny_run):
    return prepare(Checkpoint.load(tiny_run / "checkpoint.pt"), None)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("onnxruntime", "torch")])
def other_format(request, tiny_run, tmp_path_factory):
    """(name, folder) of a format that is not the default."""
    out = tmp_path_factory.mktemp("formats") / request.param
    assert export(Checkpoint.load(tiny_run / "checkpoint.pt"), out, format_name=request.param) == [f"{request.param}/f32"]
    return request.param, out


def test_exported_file_names_no_path_of_the_machine_that_exported(exported):
    content = (exported / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b"training/" not in content


def test_every_format_answers_as_the_default_one_does(other_format, exported, tmp_path):
    answers = []
    for folder in (exported, other_format[1]):
        unpacked = tmp_path / folder.name
        with zipfile.ZipFile(build(folder, "1.0.0", tmp_path / f"{folder.name}-store", model="seefood")) as archive:
            archive.extractall(unpacked)
        with modules_of_a_worker():
            handler = load_handler(unpacked)  # which answers its golden photos
            photos = [{"body": picture_bytes(i)} for i in range(3)]
            answers.append([json.loads(body) for body in handler.handle(photos, OfflineContext())])
            described = handler.describe()
    assert (described["format"], described["precision"]) == (other_format[0], "f32")
    assert described["programs"][described["program"]]["agreement"] >= 0.99
    for default, other in zip(*answers, strict=True):
        assert [p["label"] for p in default["predictions"]] == [p["label"] for p in other["predictions"]]
        assert default["sure"] == other["sure"]
        for before, after in zip(default["predictions"], other["predictions"], strict=True):
            # the default may run in bf16; how near each is to float32 its golden photos have shown
            assert after["probability"] == pytest.approx(before["probability"], abs=0.01)


@pytest.mark.slow
def test_program_json_names_the_trained_model_or_the_one_that_is_given(exported, tiny_run, prepared, tmp_path, monkeypatch):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    assert json.loads((exported / "program.json").read_text())["model"] == checkpoint.name
    monkeypatch.setattr("training.export.export.prepare", lambda *_: prepared)
    older = replace(checkpoint, name=None)
    with pytest.raises(ValueError, match="has no model name: give MODEL=NAME"):
        export(older, tmp_path / "export", format_name="onnxruntime")
    export(older, tmp_path / "export", format_name="onnxruntime", model="flowers")
    assert json.loads((tmp_path / "export" / "program.json").read_text())["model"] == "flowers"


@pytest.mark.server
@pytest.mark.slow
def test_every_format_is_served_by_torchserve_heat_maps_too(other_format, tmp_path):
    name, folder = other_format
    build(folder, "1.0.0", tmp_path, model="seefood")
    server = Server(tmp_path, free_port()).wait_ready()
    try:
        answer = httpx.post(server.url, content=picture_bytes(0), timeout=LIMIT_S).json()
        assert len(answer["predictions"]) == 4
        explained = httpx.post(server.url.replace("predictions", "explanations"), content=picture_bytes(0), timeout=LIMIT_S).json()
        assert explained["label"] == answer["predictions"][0]["label"]
        models = httpx.get(f"http://127.0.0.1:{server.port + 1}/models/seefood?customized=true", timeout=LIMIT_S).json()
        assert models[0]["customizedMetadata"]["format"] == name
    finally:
        assert server.end()[1] == 0


@pytest.mark.parametrize(
    ("top1", "agreement", "precision", "reason"),
    [
        (0.895, 0.99, "bf16", None),
        (0.894, 0.99, "bf16", r"top-1 is 89\.40%, 0\.60 points below float32's, at most 0\.5 are allowed"),
        (0.9, 0.989, "bf16", r"agrees with float32 torch on 98\.90% of photos, 99% are required"),
        (0.9, 0.98, "int8", None),
        (0.9, 0.98, "int8+bf16", None),
        (0.9, 0.979, "int8", r"agrees with float32 torch on 97\.90% of photos, 98% are required"),
    ],
)
def test_gate_allows_half_a_point_and_one_other_class_in_a_hundred_or_in_fifty_for_int8(top1, agreement, precision, reason):
    reason_given = failure(precision, {"top1": top1, "top1_float32": 0.9, "agreement": agreement})
    assert reason_given is None if reason is None else re.fullmatch(reason, reason_given)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_format_gives_the_last_layers_input_whatever_the_batch(prepared, tmp_path, name):
    export_to(name, prepared.program, prepared.calibration, tmp_path / name)
    crops = prepared.reference.crops[:9]
    with torch.inference_mode():
        expected = prepared.program(torch.from_numpy(crops))[2].numpy()
    for program in programs(name, tmp_path / name):
        whole = program(crops)
        assert (whole.features.dtype, whole.features.shape) == (np.float32, expected.shape)
        cosine = (whole.features * expected).sum(1) / np.linalg.norm(whole.features, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() > (0.9 if program.precision.startswith("int8") else 0.999), program.precision
        alone = np.concatenate([program(crop[None]).features for crop in crops])
        # a value next to a step of int8 or bfloat16 may fall to its other side
        tolerance = 1e-4 if program.precision == "f32" else 0.05 * np.abs(expected).max()
        np.testing.assert_allclose(whole.features, alone, atol=tolerance)


def test_program_without_features_is_to_be_exported_again(exported, tmp_path):
    model = onnx.load(exported / "model.onnx")
    del model.graph.output[2]
    onnx.save(model, tmp_path / "model.onnx")
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(ValueError, match="has 2 outputs, expected probabilities, confidence, features: export it again"):
            PROGRAMS[name](tmp_path / "model.onnx", "f32", 1, ())


def with_other_weights(program):
    """A copy of the program whose last layer takes each class for its neighbour."""
    other = copy.deepcopy(program)
    *_, last = (module for module in other.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(1, 0))
    return other


@pytest.mark.slow
def test_format_that_answers_otherwise_is_refused_with_its_figures_and_the_next_one_named(prepared, tmp_path, capsys):
    chosen = EXPORT_FORMATS["onnxruntime"]
    chosen.write(with_other_weights(prepared.program), prepared.calibration, tmp_path / chosen.file)
    with pytest.raises(
        AccuracyGateError, match=r"onnxruntime does not pass the accuracy gate \(f32: top-1 is .*\): try FORMAT=torch"
    ):
        gate("onnxruntime", tmp_path, prepared.reference)
    printed = capsys.readouterr().out
    assert re.search(
        r"onnxruntime in f32: top-1 .*% \(float32 torch .*%\), agrees with float32 torch on .*% of \d+ photos, .*; refused: ",
        printed,
    )


@pytest.mark.slow
def test_of_the_fastest_the_one_that_passes_is_packed_and_nothing_stays_where_none_does(
    prepared, tiny_run, tmp_path, monkeypatch, capsys
):
    exact = EXPORT_FORMATS["openvino"]
    wrong = replace(exact, write=lambda program, *given: exact.write(with_other_weights(program), *given))
    assert FASTEST == ("openvino", "openvino-int8")
    monkeypatch.setitem(EXPORT_FORMATS, "openvino", wrong)
    # in place of int8, which the tiny network does not bear
    monkeypatch.setitem(EXPORT_FORMATS, "openvino-int8", replace(exact, precisions=("f32",)))
    assert [measured.name for measured in write_formats(prepared, tmp_path)] == ["openvino-int8/f32"]
    assert [path.name for path in tmp_path.iterdir()] == [exact.file]

    monkeypatch.setitem(EXPORT_FORMATS, "openvino-int8", wrong)
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    monkeypatch.setattr("training.export.export.prepare", lambda *_: prepared)
    with pytest.raises(AccuracyGateError, match="openvino-int8 does not pass"):
        export(checkpoint, tmp_path / "build" / "1.0.0")
    assert not list((tmp_path / "build").iterdir())
    assert "refused" in capsys.readouterr().out


@pytest.mark.slow
def test_refusal_by_the_gate_shows_beside_a_format_that_cannot_take_the_network(prepared, tmp_path, monkeypatch):
    exact = EXPORT_FORMATS["openvino"]
    wrong = replace(exact, write=lambda program, *given: exact.write(with_other_weights(program), *given))
    damaged = replace(exact, precisions=("int8",), write=lambda program, crops, path, ids: path.write_bytes(b"no model"))
    for refused, unsupported in (("openvino", "openvino-int8"), ("openvino-int8", "openvino")):
        monkeypatch.setitem(EXPORT_FORMATS, refused, wrong)
        monkeypatch.setitem(EXPORT_FORMATS, unsupported, damaged)
        with pytest.raises(AccuracyGateError) as error:
            write_formats(prepared, tmp_path, ("openvino", "openvino-int8"))
        said = rf"{unsupported} cannot take this network \(.*\); {refused} does not pass .*: try FORMAT=onnxruntime(-int8)?"
        assert re.fullmatch(said, str(error.value)), error.value
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_exports_of_one_checkpoint_are_the_same_bytes_whichever_program_is_faster(tiny_run, tmp_path, monkeypatch):
    checkpoint, ms = Checkpoint.load(tiny_run / "checkpoint.pt"), itertools.count(1)
    orders = []
    for name, direction in (("one", 1), ("other", -1)):
        with monkeypatch.context() as patch:
            patch.setattr(
                "training.export.gate.measure", lambda *given, to=direction: measure(*given) | {"ms_per_photo": to * next(ms)}
            )
            orders.append(export(checkpoint, tmp_path / name, format_name="onnxruntime,openvino,openvino"))
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert orders[0] == orders[1][::-1]
    assert len(orders[0]) >= 2
    assert one == other
    programs = list(json.loads(one["program.json"])["programs"])
    assert programs == ["openvino/bf16", "openvino/f32", "onnxruntime/f32"][-len(programs) :]


@pytest.mark.slow
def test_archive_has_every_program_that_passes_and_a_file_that_two_formats_share_once(
    prepared, exported, tiny_run, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.export.export.prepare", lambda *_: prepared)
    # int8, which the tiny network does not bear, passes for the sake of its two files
    monkeypatch.setattr("training.export.gate.MIN_AGREEMENT", {"bf16": 0.0, "f32": 0.99, "int8": 0.0, "int8+bf16": 0.0})
    monkeypatch.setattr("training.export.gate.MAX_LOSS", 1.0)
    monkeypatch.setattr("training.export.gate.MIN_SURE_AGREEMENT", 0.0)
    monkeypatch.setattr("training.export.gate.MIN_CLASS_AGREEMENT", 0.0)
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    here = [program.precision for program in programs_here(exported)]
    names = export(checkpoint, tmp_path / "1.0.0", format_name="openvino, onnxruntime,openvino-int8,onnxruntime-int8")
    expected = {*(f"openvino/{precision}" for precision in here), "onnxruntime/f32", "openvino-int8/int8", "onnxruntime-int8/int8"}
    expected |= {"openvino-int8/int8+bf16"} if "bf16" in here else set()
    if not adds_int8_exactly():  # no machine of this kind can judge it
        expected = {name for name in expected if not name.startswith("openvino-int8")}
    assert set(names) == expected
    of_int8 = {"model.xml", "model.bin"} if adds_int8_exactly() else set()
    assert {path.name for path in (tmp_path / "1.0.0").glob("model*")} == {"model.onnx", "model-int8.onnx"} | of_int8
    answers = json.loads((tmp_path / "1.0.0" / "golden.json").read_text())["programs"]
    assert answers.keys() == expected | {name_in_float(name) for name in expected if name.startswith("openvino-int8")}
    unpack(build(tmp_path / "1.0.0", "1.0.0", tmp_path / "store"), tmp_path / "unpacked")
    for name in sorted(expected):
        monkeypatch.setenv("SEEFOOD_FORMAT", name)
        with modules_of_a_worker():
            handler = load_handler(tmp_path / "unpacked")  # which answers its golden photos
        assert (handler.describe()["program"], handler.profile.threshold) == (name, handler.threshold)
    assert {one.name for one in write_formats(prepared, new_folder(tmp_path / "default"))} == {
        name for name in expected if name.startswith("openvino")
    }


def new_folder(path):
    path.mkdir()
    return path


def programs_here(folder):
    """The exported program in each precision that this machine runs."""
    return list(programs("openvino", folder))


def test_unknown_format_is_refused_with_those_that_there_are(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"FORMAT is 'openvino,tvm', expected some of openvino, .*torch, not 'tvm'"):
        export(Checkpoint.load(tiny_run / "checkpoint.pt"), tmp_path / "1.0.0", format_name="openvino,tvm")
    assert not list(tmp_path.iterdir())


class Unsupported(torch.nn.Module):
    """A network around another that has an operator without a translation to ONNX."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, crops):
        probabilities, confidence, features = self.program(crops)
        # of a matrix that hardly touches the answer
        return probabilities + 1e-12 * torch.linalg.eigvals(confidence.new_ones(3, 3)).abs().sum(), confidence, features


class Untraceable(Unsupported):
    """One whose way through depends on the photos, so that no exporter can trace it."""

    def forward(self, crops):
        probabilities, confidence, features = self.program(crops)
        return (probabilities, confidence, features) if float(probabilities.sum()) > 0 else (confidence, probabilities, features)


@pytest.mark.slow
def test_network_that_onnx_cannot_take_is_exported_by_torch_and_said_in_one_sentence(prepared, tmp_path, capfd, recwarn):
    passed = write_formats(replace(prepared, program=Unsupported(prepared.program).eval()), tmp_path)
    assert [measured.name for measured in passed] == ["torch/f32"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    printed, errors = capfd.readouterr()
    sentences = [line for line in printed.splitlines() if "cannot take this network" in line]
    assert len(sentences) == 1
    assert re.search(r"openvino cannot take this network \(.*linalg_eig.*\): the next format is tried", sentences[0]), sentences
    assert errors == ""
    assert not recwarn.list


@pytest.mark.slow
def test_network_that_no_format_takes_is_refused_with_the_first_reason_and_nothing_is_left(
    prepared, tiny_run, tmp_path, monkeypatch
):
    program = Untraceable(prepared.program).eval()
    monkeypatch.setattr("training.export.export.prepare", lambda *_: replace(prepared, program=program))
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    (tmp_path / "build").mkdir()
    for format_name in ("fastest", "torch"):
        with pytest.raises(UnsupportedError, match="the network cannot be exported: \\w+: ") as refused:
            export(checkpoint, tmp_path / "build" / "1.0.0", format_name=format_name)
        assert len(str(refused.value)) < 400
        assert not list((tmp_path / "build").iterdir())


@pytest.mark.slow
def test_program_that_its_library_cannot_load_is_followed_by_the_next_format(prepared, tmp_path, monkeypatch, capsys):
    exact = EXPORT_FORMATS["onnxruntime"]
    damaged = replace(EXPORT_FORMATS["openvino"], write=lambda program, crops, path: path.write_bytes(b"no model"))
    monkeypatch.setitem(EXPORT_FORMATS, "openvino", damaged)
    monkeypatch.setitem(EXPORT_FORMATS, "openvino-int8", replace(exact, precisions=("int8",), write=damaged.write))
    monkeypatch.setitem(EXPORT_FORMATS, "onnxruntime-int8", replace(exact, precisions=("int8",), write=damaged.write))
    assert [measured.name for measured in write_formats(prepared, tmp_path)] == ["onnxruntime/f32"]
    assert capsys.readouterr().out.count("cannot take this network") == 3


def test_full_disk_is_no_fault_of_the_network(prepared, tmp_path, monkeypatch):
    def write(*_):
        raise RuntimeError("writer failed") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(EXPORT_FORMATS, "openvino", replace(EXPORT_FORMATS["openvino"], write=write))
    with pytest.raises(OSError, match="No space left"):
        write_formats(prepared, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_export_prints_its_own_lines_alone(tiny_run, tmp_path):
    command = [sys.executable, "-m", "training.export.export", "--checkpoint", str(tiny_run / "checkpoint.pt")]
    command += ["--out", str(tmp_path / "build")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    assert not [line for line in done.stdout.splitlines() if not re.match(r"exporting |  (openvino|bf16)|/", line)]


@pytest.mark.slow
def test_make_compare_prints_every_format_with_its_times_and_the_gates_verdict(tiny_run):
    command = [sys.executable, "-m", "training.export.compare", "--checkpoint", str(tiny_run / "checkpoint.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    row = re.compile(r"(\S+) .*?([\d.]+) +([\d.]+)  (top-1 [\d.]+%, agreement [\d.]+%.* sure.*, (?:passes|refused)|not a format)")
    rows = [match for line in done.stdout.splitlines() if (match := row.fullmatch(line))]
    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {
        "writing",
        "bf16:",
        "f16:",
        "format",
        *(match[1] for match in rows),
    }
    assert {match[1] for match in rows} >= {*EXPORT_FORMATS}
    assert all(float(match[2]) > 0 and float(match[3]) > 0 for match in rows)
    assert {match[4] for match in rows if match[1] in EXPORT_FORMATS}.isdisjoint({"not a format"})


def test_a_held_out_photo_that_cannot_be_read_is_left_out_and_too_many_are_refused(generated, spec, tmp_path):
    photos = list(read_data(generated, 0.25, 0, 0).held_out)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    read, crops = crops_of(
        [*photos, replace(photos[0], path=broken), replace(photos[0], path=tmp_path / "gone.jpg")], spec, "photos"
    )
    assert read == photos
    assert len(crops) == len(photos)
    with pytest.raises(ValueError, match="1 of 1 photos are unreadable"):
        crops_of([replace(photos[0], path=broken)], spec, "photos")


@pytest.fixture
def levit():
    """LeViT-128S with weights none of which is zero, as some are at the beginning."""
    torch.manual_seed(0)
    network = timm.create_model("levit_128s", num_classes=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def norms(network):
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())


def test_batch_norms_are_folded_into_the_weights_and_the_answers_stay(levit):
    crops = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        levit.train()(crops)  # statistics of its own
        expected, found = levit.eval()(crops), (smaller := folded(levit, 224))(crops)
    assert norms(levit) > 50
    assert norms(smaller) == 0
    assert (found - expected).abs().max() < 1e-3 * expected.std()


def raising(layer):
    raise NotImplementedError("not this one")


@pytest.mark.parametrize("fuse", [lambda layer: layer.linear, lambda layer: nn.Flatten(), raising])
def test_network_that_answers_otherwise_once_it_is_folded_or_cannot_be_stays_as_it_is(monkeypatch, levit, fuse):
    assert folded(levit, 224) is not levit
    monkeypatch.setattr("timm.models.levit.ConvNorm.fuse", fuse)
    assert folded(levit, 224) is levit
