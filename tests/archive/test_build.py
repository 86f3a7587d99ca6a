"""What is in an archive, and which one gets a name."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.archive.build import build, main
from scripts.archive.read import inspect
from scripts.command import run
from tests.conftest import LIMIT_S, ROOT
from tests.waiting import until
from training.model import Checkpoint


def test_archive_holds_all_that_the_worker_needs_and_no_more(archive):
    with zipfile.ZipFile(archive) as content:
        names = set(content.namelist())
    package = {f"handler/{path.name}" for path in (ROOT / "handler").glob("*.py") if path.name != "seefood_handler.py"}
    exported = {"program.json", "model.onnx", "spec.json", "index_to_name.json", "golden.json", "profile.npz", "seen.npy"}
    ours = {"seefood_handler.py", "model-config.yaml", "provenance.json", "MAR-INF/MANIFEST.json"}
    assert names == ours | exported | package


def test_provenance_inside_and_beside_says_what_it_is_made_of_and_where_it_comes_from(archive, exported, tiny_run):
    with zipfile.ZipFile(archive) as content:
        inside = json.loads(content.read("provenance.json"))
        parts = {name: hashlib.sha256(content.read(name)).hexdigest() for name in content.namelist() if name != "provenance.json"}
    assert (inside["model"], inside["version"], inside["parts"]) == ("seefood", "1.0.0", parts)
    program, checkpoint = json.loads((exported / "program.json").read_text()), Checkpoint.load(tiny_run / "checkpoint.pt")
    assert inside["programs"] == program["programs"]
    assert inside["programs"]["openvino/f32"]["agreement"] >= 0.99
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


@pytest.mark.slow
def test_same_inputs_give_the_same_bytes_even_at_a_time(archive, exported, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda name: build(exported, "1.0.0", tmp_path / name), ("here", "elsewhere")))
    for again in built:
        assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(archive.read_bytes()).digest()
        assert sorted(path.name for path in again.parent.iterdir()) == ["seefood-1.0.0.json", "seefood-1.0.0.mar"]


def test_archive_that_cannot_take_its_name_is_not_described_either(exported, tmp_path, monkeypatch):
    replace = Path.replace

    def refuse(path, target):
        if Path(target).suffix == ".mar":
            raise OSError("no such luck")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no such luck"):
        build(exported, "1.0.0", tmp_path)
    assert not list(tmp_path.iterdir())


def test_version_is_never_overwritten(archive, exported):
    with pytest.raises(ValueError, match="never overwritten"):
        build(exported, "1.0.0", archive.parent)


@pytest.mark.parametrize(
    "damage", ["golden", "missing", *(pytest.param(part, marks=pytest.mark.slow) for part in ("labels", "spec"))]
)
def test_archive_that_fails_its_golden_check_gets_no_name(exported, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    if damage == "golden":
        golden = json.loads((broken / "golden.json").read_text())
        for own in golden["programs"].values():
            own["probabilities"][1].reverse()
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


def test_archive_is_named_by_the_option_else_by_the_export(exported, tmp_path, monkeypatch):
    for option, model in (["--model", "flowers"], "flowers"), ([], "seefood"):
        monkeypatch.setattr(sys, "argv", ["build.py", str(exported), "--version", "1.0.0", "--model-store", str(tmp_path), *option])
        assert run(main) == 0
        archive = tmp_path / f"{model}-1.0.0.mar"
        assert json.loads(archive.with_suffix(".json").read_text())["model"] == model
        assert inspect(archive)["model"] == model
        with zipfile.ZipFile(archive) as content:
            assert json.loads(content.read("MAR-INF/MANIFEST.json"))["model"]["modelName"] == model


def test_export_without_a_name_needs_one(exported, tmp_path, monkeypatch, capsys):
    unnamed, store = tmp_path / "unnamed", tmp_path / "model_store"
    shutil.copytree(exported, unnamed)
    program = json.loads((unnamed / "program.json").read_text())
    del program["model"]
    (unnamed / "program.json").write_text(json.dumps(program))
    command = ["build.py", str(unnamed), "--version", "1.0.0", "--model-store", str(store)]
    monkeypatch.setattr(sys, "argv", command)
    assert run(main) == 1
    assert f'error: {unnamed}/program.json has no "model", so a name is needed: --model NAME' in capsys.readouterr().err
    assert not store.exists()
    monkeypatch.setattr(sys, "argv", [*command, "--model", "flowers"])
    assert run(main) == 0
    assert (store / "flowers-1.0.0.mar").is_file()


@pytest.mark.parametrize(
    "model", ["handler", *(pytest.param(name, marks=pytest.mark.slow) for name in ("extra", "temp", "staged"))]
)
def test_model_may_be_named_as_a_folder_that_is_used_on_the_way(exported, tmp_path, model):
    assert inspect(build(exported, "1.0.0", tmp_path, model=model))["model"] == model


def test_interrupted_build_leaves_nothing(exported, tmp_path):
    command = [sys.executable, "-m", "scripts.archive.build", str(exported), "--version", "1.0.0", "--model-store", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: list(tmp_path.iterdir()), process=process, pause_s=0.01)
        process.terminate()
        _, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (143, "interrupted: nothing was written\n")
    assert not list(tmp_path.iterdir())
