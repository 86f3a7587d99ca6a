"""The handler out of an archive: it computes what training computed, and answers each photo by itself."""

import base64
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from handler.preprocess import Spec, preprocess
from handler.program import OpenVinoProgram
from handler.recent import read
from handler.signals import Profile
from scripts.archive.build import build
from scripts.archive.read import load_handler, unpack
from tests.conftest import LIMIT_S, ROOT, modules_of_a_worker, picture_bytes
from tests.offline_context import OfflineContext
from training.data.loader import EvalPhotos
from training.data.sets import read_data
from training.evaluation.confidence import Confidence
from training.evaluation.features import training_photos
from training.export.formats import write_onnx
from training.export.program import ExportedProgram, load_program
from training.model import Checkpoint
from training.model import build as build_model


def test_exported_program_equals_torch_for_every_batch_size(exported, tiny_run, generated, tiny_params):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    data = read_data(generated, tiny_params.val_fraction, tiny_params.seed)
    reference, _ = load_program(checkpoint, training_photos(data.train, checkpoint.trained_on))
    program = OpenVinoProgram(exported / "model.onnx", "f32", 0)
    crops = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    for batch in (1, 2, 5, 9):
        probabilities, confidence, features = program(crops[:batch])
        with torch.inference_mode():
            outputs = reference(torch.from_numpy(crops[:batch]))
        expected, expected_confidence, expected_features = (tensor.numpy() for tensor in outputs)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(confidence, expected_confidence, atol=1e-5)
        np.testing.assert_allclose(features, expected_features, atol=1e-4)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_levit_is_exported_with_its_attention_biases(tmp_path, tiny_params):
    torch.manual_seed(0)
    params = tiny_params.model_copy(update={"model": "levit_128s", "spec": {}})
    classifier, spec = build_model(params, 7)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    means = torch.randn(7, classifier.network.num_features)
    program = ExportedProgram(classifier, spec, 1.3, Confidence(means)).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        expected, confidence, features = (tensor.numpy() for tensor in program(torch.from_numpy(crops)))
    assert np.ptp(expected, axis=0).max() > 1e-3  # the photos are told apart at all
    write_onnx(program, crops, tmp_path / "levit.onnx")
    answers = OpenVinoProgram(tmp_path / "levit.onnx", "f32", 0)(crops)
    np.testing.assert_allclose(answers[0], expected, atol=2e-4)
    np.testing.assert_allclose(answers[1], confidence, atol=2e-4)
    np.testing.assert_allclose(answers[2], features, atol=2e-3)


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


class ExplainContext(OfflineContext):
    def get_all_request_header(self, index):
        return {"explain": "True"}


class RecordingContext(OfflineContext):
    def __init__(self):
        self.statuses, self.headers = {}, {}

    def get_all_request_header(self, index):
        return {"x-top-k": "1"} if index == 2 else {}

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = code

    def set_response_header(self, index, key, value):
        self.headers[index] = {**self.headers.get(index, {}), key: value}


def test_bad_photo_gets_its_own_status_and_the_rest_of_its_batch_is_served(unpacked):
    handler, context = load_handler(unpacked), RecordingContext()
    good = {"body": picture_bytes(0)}
    alone = json.loads(handler.handle([good], context)[0])
    bodies = handler.handle([good, {"body": b"broken"}, {"data": picture_bytes(1)}, {}], context)
    answers = [json.loads(body) for body in bodies]
    assert context.statuses == {1: 415, 3: 400}
    assert answers[1] == {"code": 415, "type": "PhotoError", "message": answers[1]["message"]}
    assert answers[3]["type"] == "RequestError"
    assert len(answers[2]["predictions"]) == 1
    assert [p["label"] for p in answers[0]["predictions"]] == [p["label"] for p in alone["predictions"]]
    assert answers[0]["predictions"][0]["probability"] == pytest.approx(alone["predictions"][0]["probability"], abs=1e-5)


def test_each_answer_tells_how_long_its_photo_was_decoded_and_its_batch_inferred(unpacked):
    handler, context = load_handler(unpacked), RecordingContext()
    handler.handle([{"body": picture_bytes(0)}, {"body": b"broken"}, {"body": picture_bytes(1)}], context)
    assert context.headers.keys() == {0, 2}
    times = [
        re.fullmatch(
            r"decode;dur=(\d+\.\d);start=\d+\.\d+, inference;dur=(\d+\.\d);start=\d+\.\d+;batch=3?2",
            context.headers[i]["server-timing"],
        )
        for i in (0, 2)
    ]
    assert all(0 < float(time[1]) < 60_000 and 0 < float(time[2]) < 60_000 for time in times)
    assert times[0][2] == times[1][2]


def test_signals_of_photos_are_kept_after_they_are_answered_and_an_error_of_it_costs_no_answer(
    unpacked, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SEEFOOD_DRIFT_DIR", str(tmp_path / "drift"))
    handler, measured = load_handler(unpacked), threading.Event()
    measure = Profile.measure

    def slowly(*arguments):
        assert measured.wait(LIMIT_S)
        return measure(*arguments)

    monkeypatch.setattr(type(handler.profile), "measure", slowly)
    handler.handle([{"body": picture_bytes(0)}, {"body": b"broken"}, {"body": picture_bytes(1)}], OfflineContext())
    (kept,) = (tmp_path / "drift").glob("*.recent")
    version = kept.stem.rpartition("_")[0]
    assert len(read(kept.parent, version)) == 0
    measured.set()
    handler.watch.finish()
    monkeypatch.setattr(type(handler.profile), "measure", lambda *_: 1 / 0)
    assert len(handler.handle([{"body": picture_bytes(2)}], OfflineContext())) == 1
    handler.watch.finish()
    assert len(read(kept.parent, version)) == 2
    ((message, error),) = ((record.message, record.exc_info[0]) for record in caplog.records)
    assert (message, error) == ("the drift of a batch was not measured, photos: 1", ZeroDivisionError)


def test_description_tells_what_inference_and_heat_map_cost(unpacked):
    described = load_handler(unpacked).describe()
    assert 0 < described["inference_cpu_s"] < 10
    assert described["heat_map_cpu_s"] > described["inference_cpu_s"]
    json.dumps(described)


def test_answer_has_the_promised_fields_best_first(unpacked):
    answer = json.loads(load_handler(unpacked).handle([{"body": picture_bytes(2)}], RecordingContext())[0])
    assert answer.keys() == {"predictions", "sure", "model", "version"}
    assert (answer["model"], answer["version"]) == ("seefood", "1.0.0")
    probabilities = [prediction["probability"] for prediction in answer["predictions"]]
    assert len(probabilities) == 4  # five are the default, but there are four classes
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    labels = json.loads((unpacked / "index_to_name.json").read_text())
    assert all(p["label"] == labels[str(p["index"])] for p in answer["predictions"])


def test_answers_name_the_model_of_the_archive(exported, tmp_path):
    folder = tmp_path / "unpacked"
    unpack(build(exported, "1.0.0", tmp_path, model="flowers"), folder)
    with modules_of_a_worker():
        handler = load_handler(folder)
        answer, heat = (
            json.loads(handler.handle([{"body": picture_bytes(2)}], context)[0]) for context in (OfflineContext(), ExplainContext())
        )
    assert (answer["model"], heat["model"], handler.describe()["model"]) == ("flowers", "flowers", "flowers")


def test_worker_imports_neither_torch_nor_any_training_package(unpacked):
    code = (
        "import sys; from scripts.archive.read import load_handler; from pathlib import Path; load_handler(Path(sys.argv[1]));"
        "print([m for m in ('torch', 'torchvision', 'timm', 'ts', 'training') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(unpacked)], capture_output=True, text=True, check=True, cwd=unpacked)
    assert done.stdout.strip() == "[]"


def test_golden_pictures_are_in_the_formats_that_photos_come_in(exported):
    golden = json.loads((exported / "golden.json").read_text())
    kinds = {base64.b64decode(photo["image"])[:4] for photo in golden["photos"]}
    assert len(golden["photos"]) == 4
    assert b"\x89PNG" in kinds


def test_signal_after_two_programs_have_gone_is_survived():
    lines = """
import os, signal, sys
from pathlib import Path
from handler.program import OpenVinoProgram
first, second = (OpenVinoProgram(Path(sys.argv[1]), 'int8', 1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", lines, str(ROOT / "model_store" / "starter" / "model.xml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
