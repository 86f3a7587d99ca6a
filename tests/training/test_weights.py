"""Starting weights: what a file, a run or anything else at the path becomes, and what is said of it."""

import argparse
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from training.loop import train
from training.model import Checkpoint, build
from training.weights.file import read_weights


def network(model="test_efficientnet", classes=7, seed=1):
    torch.manual_seed(seed)
    return timm.create_model(model, num_classes=classes)


def saved(path, content):
    torch.save(content, path)
    return str(path)


def state(**options):
    return network(**options).state_dict()


@pytest.fixture
def start(tiny_params):
    """start(weights, ...): the classifier that these weights give."""

    def start(weights, classes=4, labels=(), **change):
        return build(tiny_params.model_copy(update={"weights": str(weights)} | change), classes, labels=labels)[0]

    return start


def body_is(classifier, expected):
    own = classifier.network.state_dict()
    return all(torch.equal(own[name], value) for name, value in expected.items() if not name.startswith("classifier"))


class Executed:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def prefixed(prefix):
    return lambda sd: {prefix + name: value for name, value in sd.items()}


WRAPPED = {
    "plain": lambda sd: sd,
    **{prefix: prefixed(prefix) for prefix in ("module.", "model.", "net.", "backbone.", "_orig_mod.", "student.encoder.module.")},
    "state_dict": lambda sd: {"state_dict": sd, "epoch": 3},
    "lightning": lambda sd: {
        "state_dict": prefixed("model.net.")(sd) | {"criterion.weight": torch.zeros(3)},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
    },
    "timm": lambda sd: {
        "state_dict": sd,
        "arch": "efficientnet",
        "args": argparse.Namespace(model="test_efficientnet", path=Path("x")),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "metric": 71.5,
    },
    "torchvision": lambda sd: {"model": sd, "optimizer": {}, "args": argparse.Namespace(model="x"), "epoch": 1},
    "half": lambda sd: {name: value.half() if value.is_floating_point() else value for name, value in sd.items()},
    "parameters": lambda sd: {name: torch.nn.Parameter(v) if v.is_floating_point() else v for name, v in sd.items()},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_weights_are_found_in_whatever_a_training_saved_around_them(tmp_path, start, wrapped):
    expected = state()
    classifier = start(saved(tmp_path / "w.pth", WRAPPED[wrapped](expected)))
    if wrapped == "half":
        expected = {name: value.half().float() if value.is_floating_point() else value for name, value in expected.items()}
    assert body_is(classifier, {name: value for name, value in expected.items() if "num_batches" not in name})
    assert re.search(r"all \d+ tensors of the body are taken, the head starts anew, .* its 7 classes", classifier.start)
    assert not classifier.network.classifier.weight.any()


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema_model", "averaged"])
def test_averaged_weights_are_taken_before_raw_ones(tmp_path, start, name):
    averaged = state(seed=2)
    content = {"model": state(seed=1), name: {"n_averaged": torch.tensor(9), **prefixed("module.")(averaged)}}
    classifier = start(saved(tmp_path / "w.pth", content))
    assert body_is(classifier, averaged)
    assert f"below {name}.module" in classifier.start


def test_safetensors_and_files_in_torchs_older_format_are_read(tmp_path, start):
    expected = state()
    safetensors.torch.save_file(expected, tmp_path / "w.safetensors")
    torch.save(expected, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in ("w.safetensors", "old.pth"):
        assert body_is(start(tmp_path / file), expected)


def test_partial_fit_says_what_starts_anew_and_names_the_shapes(tmp_path, start):
    content = state()
    content["conv_stem.weight"] = content["conv_stem.weight"][:, :1]
    del content["bn1.weight"]
    classifier = start(saved(tmp_path / "w.pth", content))
    assert re.search(r"(\d+) of (\d+) tensors of the body are taken", classifier.start)
    shapes = r"conv_stem.weight \(24 x 1 x 3 x 3 in the file, 24 x 3 x 3 x 3 in the network\)"
    assert re.search(rf"the body starts anew in {shapes}, bn1.weight$", classifier.start), classifier.start


@pytest.mark.parametrize(
    ("content", "model", "reasons"),
    [
        (
            lambda: state(model="resnet18"),
            "test_efficientnet",
            [r"\b\d of the \d+ tensors", "The file has conv1.weight", "expected conv_stem.weight"],
        ),
        (
            lambda: state(model="mobilenetv2_035"),
            "mobilenetv2_050",
            ["other shapes: ", r"\(\d+ x \d+ x 1 x 1 in the file, \d+ x \d+ x 1 x 1 in the network\)"],
        ),
        (lambda: state(model="resnet34"), "resnet18", ["layer1 has 3 blocks in the file, 2 in the network"]),
        (lambda: state(model="resnet18"), "resnet34", ["layer1 has 2 blocks in the file, 3 in the network"]),
        (
            lambda: {"state_dict": state(model="resnet18"), "args": argparse.Namespace(model="resnet18")},
            "test_vit",
            [r"another network \(resnet18\) than test_vit"],
        ),
        (lambda: {f"encoder.{i}": torch.zeros(2) for i in range(9)}, "test_vit", ["encoder.0", "expected cls_token"]),
    ],
)
def test_weights_of_another_network_are_refused_with_both_and_their_keys(tmp_path, start, content, model, reasons):
    file = saved(tmp_path / "w.pth", content())
    with pytest.raises(ValueError, match=f"weights {file} are of another network") as refused:
        start(file, model=model)
    for reason in reasons:
        assert re.search(reason, str(refused.value)), refused.value
    assert model in str(refused.value)


def torch_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


WRONG_FILES = {
    "empty.pth": (lambda: b"", "is empty"),
    "lfs.pth": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "dvc.pth": (lambda: b"outs:\n- md5: 1234\n  size: 9\n  path: w.pth\n", "DVC file.*make pull"),
    "page.pth": (lambda: b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page.*download the file itself"),
    "denied.pth": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page or XML"),
    "index.safetensors": (lambda: b'{"weight_map": {}}', "JSON.*give the .safetensors"),
    "words.pth": (lambda: b"Not Found\n", "text that begins with 'Not Found"),
    "cut.pth": (lambda: torch_bytes(state())[:5000], "cut off or damaged.*fetch it again"),
    "cut_old.pth": (lambda: pickle.dumps({"a": [1.0] * 500}, 2)[:300], "cut off, damaged.*fetch it again"),
    "cut.safetensors": (lambda: safetensors.torch.save(state())[:50_000], "cut off or damaged.*fetch it again"),
    "noise.pth": (lambda: bytes(range(128, 256)) * 9, "no file of torch.save"),
    "model.onnx": (lambda: b"\x08\x08\x12\x07pytorch", "an exported program"),
    "renamed.pth": (lambda: b"\x08\x08\x12\x07pytorch", "an exported program"),
    "keras.h5": (lambda: b"\x89HDF\r\n\x1a\n", "HDF5"),
    "photos.zip": (lambda: zipped(a="b"), "zip archive without weights"),
    "served.mar": (lambda: zipped(**{"MAR-INF__MANIFEST.json": "{}"}), "an archive for serving"),
    "packed.zip": (lambda: zipped(**{"w.pth": "x"}), "a zip archive: unpack it"),
    "number.pth": (lambda: torch_bytes(3), "holds a int, expected weights by name"),
    "history.pth": (lambda: torch_bytes({"loss": [1.0], "epoch": 3}), r"holds no weights; its keys are \['loss', 'epoch'\]"),
    "whole.pth": (lambda: torch_bytes(network()), r"holds code \(timm.*which is not run"),
    "nan.pth": (lambda: torch_bytes(state() | {"bn1.weight": torch.full((24,), torch.nan)}), "not finite, in bn1.weight"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_file_without_weights_is_refused_with_what_it_is_and_what_to_do(tmp_path, start, name):
    content, message = WRONG_FILES[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(ValueError, match=message) as refused:
        start(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, start, new_format, beside):
    bomb = Executed(tmp_path / "executed")
    content = {"state_dict": state(), "args": bomb} if beside else bomb
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match="holds code .*system.*which is not run"):
        start(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_path_that_names_no_file_is_refused_with_what_is_near(tmp_path, start):
    (tmp_path / "weights.pth").write_bytes(b"x")
    (tmp_path / "other.pth.dvc").write_text("outs: []")
    (tmp_path / "empty").mkdir()
    for given, message in [
        (
            tmp_path / "wieghts.pth",
            "does not exist; expected a file, the folder of a run, 'hub' or 'none' .*similar: .*weights.pth",
        ),
        (tmp_path / "other.pth", "tracked by DVC and not here: make pull"),
        (tmp_path, "holds neither checkpoint.pt nor last.pt: give a file: .*weights.pth"),
        (tmp_path / "empty", "holds neither checkpoint.pt nor last.pt: give the folder of a run"),
        ("https://example.org/w.pth", "are an address, expected a file: download it first"),
    ]:
        with pytest.raises(ValueError, match=message):
            start(given)


def test_wrong_weights_and_networks_are_refused_before_photos_are_read(tmp_path, tiny_params, monkeypatch):
    monkeypatch.setattr("training.run.read_data", lambda *_: pytest.fail("photos are read"))
    for change, message in [
        ({"weights": str(tmp_path / "w.pth")}, "does not exist"),
        ({"model": "resnet5O"}, "similar names: resnet50"),
    ]:
        with pytest.raises(ValueError, match=message):
            train("food", tmp_path, tiny_params.model_copy(update=change), tmp_path / "run")


@pytest.mark.parametrize("name", ["resnet5O", "ResNet50", "resnet-50", "resnet_50"])
def test_misspelt_network_is_refused_with_similar_names(start, name):
    with pytest.raises(ValueError, match=f"timm has no model '{name}'; similar names: .*resnet50"):
        start("none", model=name)


LABELS = ("class_0", "class_1", "class_2", "class_3")


def head_of(run):
    weights = Checkpoint.load(run / "checkpoint.pt").weights
    return weights["classifier.weight"], weights["classifier.bias"]


@pytest.mark.parametrize("file", ["", "checkpoint.pt", "last.pt"])
def test_run_of_ours_gives_its_averaged_weights_with_the_head_and_its_spec(tiny_run, tiny_params, file):
    params = tiny_params.model_copy(update={"weights": str(tiny_run / file), "spec": {}})
    classifier, spec = build(params, 4, labels=LABELS)
    if file != "last.pt":
        assert body_is(classifier, Checkpoint.load(tiny_run / "checkpoint.pt").weights)
        assert torch.equal(classifier.network.classifier.weight, head_of(tiny_run)[0])
    else:
        averaged = torch.load(tiny_run / "last.pt")["average"]
        assert torch.equal(classifier.state_dict()["network.conv_stem.weight"], averaged["network.conv_stem.weight"])
    assert "the head with the rows of all 4 classes" in classifier.start
    assert (spec.input_size, spec.crop_pct) == ((3, 64, 64), 0.9)  # of that run, not timm's


def test_rows_of_a_head_follow_their_labels(tiny_run, start):
    weight, bias = head_of(tiny_run)
    labels = ("class_3", "apple", "class_0")
    classifier = start(tiny_run, 3, labels)
    head = classifier.network.classifier
    assert torch.equal(head.weight[[0, 2]], weight[[3, 0]])
    assert torch.equal(head.bias[[0, 2]], bias[[3, 0]])
    assert not head.weight[1].any()
    assert "the head with the rows of 2 classes, new are apple" in classifier.start
    classifier = start(tiny_run, 2, ("apple", "pear"))
    assert not classifier.network.classifier.weight.any()
    assert "the head starts anew, as its 4 classes are others" in classifier.start


def test_run_of_another_network_or_other_arguments_is_named(tiny_run, start):
    with pytest.raises(
        ValueError, match=r"are of test_efficientnet, the parameters' model is resnet18: set model: test_efficientnet"
    ):
        start(tiny_run, model="resnet18")
    classifier = start(tiny_run, 4, LABELS, model_args={"drop_rate": 0.2})
    assert "that run had model_args {}, this one has {'drop_rate': 0.2}" in classifier.start


@pytest.mark.slow
def test_finetuning_goes_on_from_a_run(tmp_path, tiny_run, generated, tiny_params, capsys):
    params = tiny_params.model_copy(update={"weights": str(tiny_run), "epochs": 1, "lr": 1e-5, "head_lr": 1e-5})
    after = Checkpoint.load(train("food", generated, params, tmp_path / "run"))
    assert after.metrics["top1"] >= Checkpoint.load(tiny_run / "checkpoint.pt").metrics["top1"] - 0.1
    assert capsys.readouterr().out.count("tensors of the body are taken, the head with the rows of all 4 classes") == 1


def test_hub_that_cannot_be_reached_is_named_at_once(start, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits to retry"))
    with pytest.raises(ValueError, match=r"not in its cache \(http://127.0.0.1:9 cannot be reached.*give a file \(WEIGHTS=path\)"):
        start("hub")
    assert capfd.readouterr().err == ""


def test_architecture_of_timms_and_torchvisions_checkpoints_is_known(tmp_path):
    content = {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(model="resnet18")}
    assert read_weights(saved(tmp_path / "w.pth", content)).architecture == "resnet18"
