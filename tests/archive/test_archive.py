import base64
import contextlib
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from handler.parts import checksums
from handler.preprocess import Spec, preprocess
from handler.program import OpenVinoProgram
from scripts.archive.build import (
    archive_name,
    build,
    choose_archive,
    find_archives,
    inspect,
    load_handler,
    main,
    pack,
    precedence,
    unpack,
)
from scripts.archive.predict import OfflineContext
from scripts.atomic import write_json
from tests.conftest import ROOT, modules_of_a_worker, picture_bytes
from training.data.loader import EvalPhotos
from training.data.sets import read_data
from training.evaluation.confidence import Confidence, training_photos
from training.export.export import ExportedProgram, load_program
from training.export.formats import write_onnx
from training.model import Checkpoint
from training.model import build as build_model


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
    ours = {"seefood_handler.py", "model-config.yaml", "provenance.json", "MAR-INF/MANIFEST.json"}
    assert names == ours | exported | package


def test_provenance_inside_and_beside_says_what_it_is_made_of_and_where_it_comes_from(archive, exported, tiny_run):
    with zipfile.ZipFile(archive) as content:
        inside = json.loads(content.read("provenance.json"))
        parts = {name: hashlib.sha256(content.read(name)).hexdigest() for name in content.namelist() if name != "provenance.json"}
    assert (inside["model"], inside["version"], inside["parts"]) == ("seefood", "1.0.0", parts)
    program, checkpoint = json.loads((exported / "program.json").read_text()), Checkpoint.load(tiny_run / "checkpoint.pt")
    assert (inside["format"], inside["precisions"]) == ("openvino", program["precisions"])
    assert inside["precisions"]["f32"]["agreement"] >= 0.99
    assert 0 < inside["accuracy"]["top1"] <= 1
    training = inside["training"]
    assert (training["git"], training["mlflow_run"], training["epoch"]) == (checkpoint.git, "not tracked", checkpoint.epoch)
    assert training["data"]["fingerprint"] == checkpoint.data["fingerprint"]
    assert {"torch", "openvino", "numpy"} <= training["libraries"].keys()
    beside = json.loads((archive.parent / "seefood-1.0.0.json").read_text())
    whole = {"archive": archive.name, "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "bytes": archive.stat().st_size}
    assert beside == whole | inside


def test_mlflow_run_and_commit_of_the_training_get_into_the_archive(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "tracked")
    program = json.loads((exported / "program.json").read_text())
    program["provenance"] |= {"mlflow_run": "0f" * 16, "git": "1a" * 20 + " clean"}
    (tmp_path / "tracked" / "program.json").write_text(json.dumps(program))
    training = inspect(build(tmp_path / "tracked", "1.0.0", tmp_path))["training"]
    assert (training["mlflow_run"], training["git"]) == ("0f" * 16, "1a" * 20 + " clean")


def test_inspect_shows_what_lies_beside_and_fails_for_what_is_no_archive(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["archive.py", "--inspect", str(archive)])
    assert main() == 0
    assert json.loads(capsys.readouterr().out) == json.loads(archive.with_suffix(".json").read_text())
    monkeypatch.setattr(sys, "argv", ["archive.py", "--inspect", str(tmp_path / "seefood-1.0.0.mar")])
    assert main() == 1
    assert f"error: there is no archive {tmp_path}/seefood-1.0.0.mar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("changed", "model.onnx was changed"),
        ("missing", "golden.json is missing"),
        ("foreign", "handler/extra.py does not belong"),
        ("all", "golden.json is missing, handler/extra.py does not belong, model.onnx was changed"),
        ("unknown", "provenance.json cannot be read"),
        ("[]", "provenance.json cannot be read"),
        ('{"parts": []}', "provenance.json cannot be read"),
    ],
)
def test_part_that_is_not_what_was_packed_is_refused_by_name_before_and_in_the_worker(unpacked, tmp_path_factory, damage, reason):
    if damage in ("changed", "all"):
        content = bytearray((unpacked / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (unpacked / "model.onnx").write_bytes(content)
    if damage in ("missing", "all"):
        (unpacked / "golden.json").unlink()
    if damage in ("foreign", "all"):
        (unpacked / "handler" / "extra.py").touch()
    if damage == "unknown":
        (unpacked / "provenance.json").unlink()
    if "[]" in damage:
        (unpacked / "provenance.json").write_text(damage)
    folder = tmp_path_factory.mktemp("damaged")
    pack(unpacked, folder / "seefood-1.0.0.mar")
    with pytest.raises(ValueError, match=rf"seefood-1\.0\.0\.mar: .*{re.escape(reason)}"):
        unpack(folder / "seefood-1.0.0.mar", folder / "unpacked")
    assert [path.name for path in folder.iterdir()] == ["seefood-1.0.0.mar"]
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_handler(unpacked)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_archive_that_broke_off_is_called_damaged_and_leaves_no_folder(archive, tmp_path, share):
    broken = tmp_path / "seefood-1.0.0.mar"
    broken.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(ValueError, match=r"seefood-1\.0\.0\.mar is damaged: "):
        unpack(broken, tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == [broken]


def test_damage_anywhere_in_an_archives_directory_is_a_value_error(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.txt").write_text("a")
    write_json(tmp_path / "parts" / "provenance.json", {"parts": checksums(tmp_path / "parts")})
    pack(tmp_path / "parts", tmp_path / "whole.mar")
    whole = (tmp_path / "whole.mar").read_bytes()
    for place in range(whole.index(b"PK\1\2"), len(whole)):
        for bits in (1, 4, 32, 64, 255):
            (tmp_path / "broken.mar").write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            with contextlib.suppress(ValueError):
                unpack(tmp_path / "broken.mar", tmp_path / "unpacked")


def test_folder_that_was_there_is_replaced_only_by_a_whole_archive(archive, tmp_path):
    provenance = unpack(archive, tmp_path / "unpacked")
    assert provenance == json.loads((tmp_path / "unpacked" / "provenance.json").read_text())
    (tmp_path / "broken.mar").write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        unpack(tmp_path / "broken.mar", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "model.onnx").is_file()


def test_signal_after_two_programs_have_gone_is_survived():
    lines = """
import os, signal, sys
from pathlib import Path
from handler.program import OpenVinoProgram
first, second = (OpenVinoProgram(Path(sys.argv[1]), ['f32'], 1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", lines, str(ROOT / "model_store" / "starter" / "model.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_same_inputs_give_the_same_bytes_even_at_a_time(archive, exported, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda name: build(exported, "1.0.0", tmp_path / name), ("here", "elsewhere")))
    for again in built:
        assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(archive.read_bytes()).digest()
        assert sorted(path.name for path in again.parent.iterdir()) == ["seefood-1.0.0.json", "seefood-1.0.0.mar"]


def test_version_is_never_overwritten(archive, exported):
    with pytest.raises(ValueError, match="never overwritten"):
        build(exported, "1.0.0", archive.parent)


REFUSED = [
    "",
    "1.0",
    "v1.0.0",
    "latest",
    "01.0.0",
    "1.0.0-01",
    "1.0.0-",
    "1.0.0-a..b",
    "1.0.0+build",
    "../1.0.0",
    "1.0.0/..",
    "1.0.0\n",
]


@pytest.mark.parametrize("version", REFUSED)
def test_version_that_is_not_a_semantic_one_is_refused(exported, tmp_path, version):
    with pytest.raises(ValueError, match="expected a semantic version such as 1.0.0 or 1.1.0-rc.1"):
        build(exported, version, tmp_path)
    assert not list(tmp_path.iterdir())


def test_versions_precede_each_other_as_semver_says():
    # semver.org, 11.4, and what comes to mind
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1"]
    ordered += ["1.0.0", "1.1.0-rc.2", "1.1.0-rc.10", "1.1.0-rc.10.1", "1.1.0-rc-1", "1.1.0", "1.2.0", "1.10.0", "2.0.0-0", "2.0.0"]
    assert sorted(random.Random(0).sample(ordered, len(ordered)), key=precedence) == ordered
    assert [archive_name(version) for version in ordered] == [f"seefood-{version}.mar" for version in ordered]


def test_newest_archive_is_found_by_precedence_not_by_letter(tmp_path):
    for version in ("1.9.0", "1.10.0", "0.1.0", "1.10.0-rc.2", "1.10.0-rc.10"):
        (tmp_path / f"seefood-{version}.mar").touch()
    for stranger in ("seefood-backup.mar", "seefood-01.0.0.mar", "seefood-2.0.0+x.mar"):
        (tmp_path / stranger).touch()
    ordered = ["0.1.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.10", "1.10.0"]
    assert [path.name for path in find_archives(tmp_path)] == [f"seefood-{version}.mar" for version in ordered]
    assert choose_archive(tmp_path, None).name == "seefood-1.10.0.mar"
    assert choose_archive(tmp_path, "1.10.0-rc.2").name == "seefood-1.10.0-rc.2.mar"
    with pytest.raises(ValueError, match=r"no archive 1\.0\.0 in .*make archive VERSION=1\.0\.0 builds one"):
        choose_archive(tmp_path, "1.0.0")


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
        probabilities, confidence = program(crops[:batch])
        with torch.inference_mode():
            expected, expected_confidence = (tensor.numpy() for tensor in reference(torch.from_numpy(crops[:batch])))
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(confidence, expected_confidence, atol=1e-5)
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
        expected, confidence = (tensor.numpy() for tensor in program(torch.from_numpy(crops)))
    assert np.ptp(expected, axis=0).max() > 1e-3  # the photos are told apart at all
    write_onnx(program, crops, tmp_path / "levit.onnx")
    answers = OpenVinoProgram(tmp_path / "levit.onnx", ["f32"], 0)(crops)
    np.testing.assert_allclose(answers[0], expected, atol=2e-4)
    np.testing.assert_allclose(answers[1], confidence, atol=2e-4)


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
        "import sys; from scripts.archive.build import load_handler; from pathlib import Path; load_handler(Path(sys.argv[1]));"
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
    command = [sys.executable, "-m", "scripts.archive.predict", str(photos), "--model-store", str(archive.parent), "--out"]
    for name in ("dishes.csv", "dishes.jsonl"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "dishes.jsonl").read_text().splitlines()]
    assert len(rows) == 31
    assert len((tmp_path / "dishes.csv").read_text().splitlines()) == 32
    assert [row["type"] for row in rows if "code" in row] == ["PhotoError"]
    assert sum(row["predictions"][0]["label"] == "dish_0" for row in rows if "predictions" in row) > 20
