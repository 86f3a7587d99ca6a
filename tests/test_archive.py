import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from handler.preprocess import Spec, preprocess
from handler.runtime import OpenVinoProgram
from scripts.archive import build, find_archives, load_handler
from scripts.predict import OfflineContext
from tests.conftest import ROOT, modules_of_a_worker, picture_bytes
from training.data import read_data
from training.export import ExportedProgram, load_program
from training.forms import write_onnx
from training.loader import EvalPhotos
from training.model import Checkpoint
from training.model import build as build_model
from training.sureness import Sureness, training_photos


@pytest.fixture(scope="module")
def archive(exported, tmp_path_factory):
    return build(exported, "1.0.0", tmp_path_factory.mktemp("model_store"))


@pytest.fixture
def unpacked(archive, tmp_path):
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    with modules_of_a_worker():
        yield tmp_path


def test_archive_holds_all_that_the_worker_needs_and_no_more(archive):
    with zipfile.ZipFile(archive) as content:
        names = set(content.namelist())
    package = {f"handler/{path.name}" for path in (ROOT / "handler").glob("*.py") if path.name != "seefood_handler.py"}
    exported = {"program.json", "model.onnx", "spec.json", "index_to_name.json", "golden.json"}
    assert names == {"seefood_handler.py", "model-config.yaml"} | exported | package | {"MAR-INF/MANIFEST.json"}


def test_signal_after_two_programs_have_gone_is_survived():
    lines = """
import os, signal, sys
from pathlib import Path
from handler.runtime import OpenVinoProgram
first, second = (OpenVinoProgram(Path(sys.argv[1]), ['f32'], 1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", lines, str(ROOT / "model_store" / "starter" / "model.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_same_inputs_give_the_same_bytes(archive, exported, tmp_path):
    again = build(exported, "1.0.0", tmp_path / "elsewhere")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(archive.read_bytes()).digest()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["seefood-1.0.0.mar"]


def test_version_is_never_overwritten(archive, exported):
    with pytest.raises(ValueError, match="never overwritten"):
        build(exported, "1.0.0", archive.parent)


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "latest", "1.0.0-rc1", "../1.0.0"])
def test_version_that_is_not_three_numbers_is_refused(exported, tmp_path, version):
    with pytest.raises(ValueError, match="three numbers"):
        build(exported, version, tmp_path)


def test_newest_archive_is_found_by_number_not_by_letter(tmp_path):
    for version in ("1.9.0", "1.10.0", "0.1.0"):
        (tmp_path / f"seefood-{version}.mar").touch()
    (tmp_path / "seefood-backup.mar").touch()
    assert [path.name for path in find_archives(tmp_path)] == ["seefood-0.1.0.mar", "seefood-1.9.0.mar", "seefood-1.10.0.mar"]


@pytest.mark.parametrize("damage", ["golden", "labels", "spec", "missing"])
def test_archive_that_fails_its_golden_check_gets_no_name(exported, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    if damage == "golden":
        golden = json.loads((broken / "golden.json").read_text())
        golden["photos"][1]["probabilities"].reverse()
        (broken / "golden.json").write_text(json.dumps(golden))
    if damage == "labels":
        (broken / "index_to_name.json").write_text('{"0": "soup"}')
    if damage == "spec":  # a skew between training and serving
        spec = json.loads((broken / "spec.json").read_text())
        (broken / "spec.json").write_text(json.dumps(spec | {"crop_pct": 0.7}))
    if damage == "missing":
        (broken / "spec.json").unlink()
    reason = {
        "golden": "golden photo 'sideways.jpg'",
        "labels": "label map has 1 names",
        "spec": "the crop is off by",
        "missing": "spec.json",
    }
    with pytest.raises(ValueError, match=reason[damage]):
        build(broken, "2.0.0", tmp_path / "model_store")
    assert not (tmp_path / "model_store").exists() or not list((tmp_path / "model_store").iterdir())


def test_exported_program_equals_torch_for_every_batch_size(exported, tiny_run, generated, tiny_params):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    data = read_data(generated, tiny_params.val_fraction, tiny_params.seed)
    reference, _ = load_program(checkpoint, training_photos(data.train, checkpoint.trained_on))
    program = OpenVinoProgram(exported / "model.onnx", ["f32"], 0)
    crops = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    for batch in (1, 2, 5, 9):
        probabilities, sureness = program(crops[:batch])
        with torch.inference_mode():
            expected, expected_sureness = (tensor.numpy() for tensor in reference(torch.from_numpy(crops[:batch])))
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(sureness, expected_sureness, atol=1e-5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_levit_is_exported_with_its_attention_biases(tmp_path, tiny_params):
    torch.manual_seed(0)
    params = tiny_params.model_copy(update={"model": "levit_128s", "spec": {}})
    classifier, spec = build_model(params, 7)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    means = torch.randn(7, classifier.network.num_features)
    program = ExportedProgram(classifier, spec, 1.3, Sureness(means)).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        expected, sureness = (tensor.numpy() for tensor in program(torch.from_numpy(crops)))
    assert np.ptp(expected, axis=0).max() > 1e-3  # the photos are told apart at all
    write_onnx(program, crops, tmp_path / "levit.onnx")
    answers = OpenVinoProgram(tmp_path / "levit.onnx", ["f32"], 0)(crops)
    np.testing.assert_allclose(answers[0], expected, atol=2e-4)
    np.testing.assert_allclose(answers[1], sureness, atol=2e-4)


def test_training_export_and_worker_see_the_same_bytes(unpacked, exported, generated, tiny_run):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    spec = Spec.from_dict(checkpoint.spec)
    photos = read_data(generated, 0.2, 0).held_out
    evaluated = EvalPhotos(photos, spec)
    handler = load_handler(unpacked)
    seen = []
    infer = handler.inference
    handler.inference = lambda crops: seen.extend(crops) or infer(crops)
    handler.handle([{"body": photo.path.read_bytes()} for photo in photos], OfflineContext())
    for i, photo in enumerate(photos):
        np.testing.assert_array_equal(seen[i], evaluated[i][0])
        np.testing.assert_array_equal(seen[i], preprocess(photo.path.read_bytes(), spec))
    assert handler.spec.to_dict() == checkpoint.spec


class RecordingContext(OfflineContext):
    def __init__(self):
        self.statuses = {}

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = code


def test_bad_photo_gets_its_own_status_and_the_rest_of_its_batch_is_served(unpacked):
    handler, context = load_handler(unpacked), RecordingContext()
    good = {"body": picture_bytes(0)}
    alone = json.loads(handler.handle([good], context)[0])
    bodies = handler.handle([good, {"body": b"broken"}, {"data": picture_bytes(1), "top_k": "1"}, {}], context)
    answers = [json.loads(body) for body in bodies]
    assert context.statuses == {1: 415, 3: 400}
    assert answers[1] == {"code": 415, "type": "PhotoError", "message": answers[1]["message"]}
    assert answers[3]["type"] == "RequestError"
    assert len(answers[2]["predictions"]) == 1
    assert [p["label"] for p in answers[0]["predictions"]] == [p["label"] for p in alone["predictions"]]
    assert answers[0]["predictions"][0]["probability"] == pytest.approx(alone["predictions"][0]["probability"], abs=1e-5)


def test_answer_has_the_promised_form_best_first(unpacked):
    answer = json.loads(load_handler(unpacked).handle([{"body": picture_bytes(2)}], RecordingContext())[0])
    assert answer.keys() == {"predictions", "sure", "model", "version"}
    assert (answer["model"], answer["version"]) == ("seefood", "1.0.0")
    probabilities = [prediction["probability"] for prediction in answer["predictions"]]
    assert len(probabilities) == 4  # five are the default, but there are four classes
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert all(p["label"] == f"dish_{p['index']}" for p in answer["predictions"])


def test_worker_imports_neither_torch_nor_any_training_package(unpacked):
    code = (
        "import sys; from scripts.archive import load_handler; from pathlib import Path; load_handler(Path(sys.argv[1]));"
        "print([m for m in ('torch', 'torchvision', 'timm', 'ts', 'training') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(unpacked)], capture_output=True, text=True, check=True, cwd=unpacked)
    assert done.stdout.strip() == "[]"


def test_golden_pictures_are_in_the_forms_that_photos_come_in(exported):
    golden = json.loads((exported / "golden.json").read_text())
    kinds = {base64.b64decode(photo["image"])[:4] for photo in golden["photos"]}
    assert len(golden["photos"]) == 4
    assert b"\x89PNG" in kinds


def test_predict_writes_a_row_for_each_file_and_an_error_for_what_is_no_photo(archive, tmp_path, generated):
    photos = tmp_path / "photos"
    shutil.copytree(generated / "dish_0", photos)
    (photos / "notes.txt").write_text("not a photo")
    command = [sys.executable, str(ROOT / "scripts/predict.py"), str(photos), "--model-store", str(archive.parent), "--out"]
    for name in ("dishes.csv", "dishes.jsonl"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "dishes.jsonl").read_text().splitlines()]
    assert len(rows) == 31
    assert len((tmp_path / "dishes.csv").read_text().splitlines()) == 32
    assert [row["type"] for row in rows if "code" in row] == ["PhotoError"]
    assert sum(row["predictions"][0]["label"] == "dish_0" for row in rows if "predictions" in row) > 20
