"""A text tower by a Hugging Face encoder, of a folder and of a hub: trained, exported, served. A tiny one, of random weights."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from handler.preprocess import Spec, ids_of
from handler.text import encode_text
from scripts.archive.build import build
from scripts.archive.read import load_handler
from scripts.predict.lists import listed_photos
from scripts.predict.offline import Offline
from tests.archive.test_texts import Context
from tests.conftest import ROOT, modules_of_a_worker, picture_bytes
from tests.training.encoders import hub, write_encoder
from tests.training.texts import assert_resumed_run_ends_in_the_same_bits
from training.evaluation.evaluate import evaluate
from training.export.export import export
from training.loop import train
from training.model import Checkpoint
from training.model import build as build_classifier
from training.recipe import freeze
from training.resume import Stopped
from training.text.encoder import load_encoder

pytest.importorskip("transformers", reason="the extra encoder is not installed")
TITLES = ("My ramen soup", "", "the best pizza!")


@pytest.fixture(scope="session")
def encoder(once):
    return once("encoder", write_encoder)


@pytest.fixture(scope="session")
def params(tiny_params, encoder):
    return tiny_params.model_copy(update={"text_encoder": str(encoder), "epochs": 5, "text_lr": 0.1, "side_dropout": 0.6})


@pytest.fixture(scope="session")
def encoder_run(once, titled, params):
    return once("encoder-run", lambda folder: train("seefood", titled, params, folder))


def ids(tower, *texts):
    return torch.from_numpy(ids_of(texts, Spec((3, 8, 8), "bicubic", (0,) * 3, (1,) * 3, 1.0, "center", tower.spec)))


def test_tower_reads_texts_and_no_text_adds_nothing(encoder):
    tower = load_encoder(str(encoder), 4).eval()
    torch.nn.init.normal_(tower.classes.weight)
    torch.nn.init.normal_(tower.classes.bias)
    with torch.no_grad():
        features, logits = tower(ids(tower, *TITLES))
        assert features.isfinite().all()
        assert features.any(1).tolist() == logits.any(1).tolist() == [True, False, True]
        # by itself as beside others, and by its own tokens alone: what fills the row up counts for nothing
        alone = tower(ids(tower, TITLES[0]))[0][0]
        short = tower(ids(tower, TITLES[0])[:, : len(tower.spec.ids(TITLES[0]))])[0][0]
    assert torch.allclose(features[0], alone, atol=1e-5)
    assert torch.allclose(features[0], short, atol=1e-5)


def test_encoder_is_frozen_at_each_epoch_and_the_layer_on_it_learns(params):
    classifier, spec = build_classifier(params, 4, with_text=True)
    assert spec.to_dict()["text"] == {"kind": "tokenizer", "length": 64}
    frozen = freeze(classifier, params, 3)
    assert classifier.tower.encoder in frozen
    assert not any(p.requires_grad for p in classifier.tower.encoder.parameters())
    assert all(p.requires_grad for p in classifier.tower.classes.parameters())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json: expected config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"short", "cannot be loaded"),
        ("config.json", b"{}", "has the model_type None, which transformers .* lacks"),
        ("config.json", b"not JSON", "cannot be loaded"),
        ("tokenizer.json", b"{}", "tokenizer.json holds no tokenizer"),
    ],
)
def test_folder_that_holds_no_encoder_is_refused_by_what_is_wrong(encoder, tmp_path, file, content, message):
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_encoder(str(folder), 4)


def test_weights_of_another_size_are_refused(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"its weights lack \d+ tensors of the network"):
        load_encoder(str(folder), 4)


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_model_that_is_no_encoder_of_texts_is_refused_with_its_type_and_what_is_expected(encoder, tmp_path, kind):
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    photos = small | {"image_size": 16, "patch_size": 8}
    made = {
        "clip": lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=small, vision_config=photos)),
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**photos)),
    }
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    transformers.utils.logging.disable_progress_bar()
    made[kind]().save_pretrained(folder)
    expected = (
        rf"text_encoder {folder}: a model of the type '{kind}' has no embeddings of tokens: expected an encoder of texts alone"
    )
    with pytest.raises(ValueError, match=expected):
        load_encoder(str(folder), 4)


def test_data_without_texts_is_a_warning_where_an_encoder_is_given(generated, titled, params, tmp_path, capsys):
    def stop(_):
        raise Stopped(0)

    for data, warned in ((generated, True), (titled, False)):
        with pytest.raises(Stopped):
            train("seefood", data, params, tmp_path / str(warned), on_step=stop)
        warning = f"warning: text_encoder {params.text_encoder} is not used: no training photo has a text"
        assert (warning in capsys.readouterr().out) == warned


def test_missing_library_is_named_with_its_remedy(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers, .* -m pip install transformers"):
        load_encoder(str(encoder), 4)


@pytest.mark.slow
def test_run_by_a_name_on_the_hub_is_that_by_its_folder_and_goes_on_without_either(encoder, titled, params, tmp_path):
    """By the command, as the hub's library reads its address when it is imported."""
    whole = Checkpoint.load(train("seefood", titled, params.model_copy(update={"epochs": 2}), tmp_path / "whole"))
    by_name = params.model_copy(update={"text_encoder": "dishes/tiny-bert", "epochs": 2})
    (tmp_path / "params.yaml").write_text(json.dumps(by_name.model_dump()))
    command = [sys.executable, "-m", "training.train", "--model", "seefood", "--data", titled, "--out", tmp_path / "run"]

    def run(address, cache):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}
        arguments = [*command, "--params", tmp_path / "params.yaml"]
        return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    with hub(encoder) as (address, asked):
        refused = run("http://127.0.0.1:9", "none")
        assert refused.returncode == 1
        assert (
            "'dishes/tiny-bert' is no folder, is not in the hub's cache and could not be fetched (http://127.0.0.1:9"
            in refused.stderr
        )
        done = run(address, "cache")
        assert done.returncode == 0, done.stderr
        assert set(asked) == {"config.json", "tokenizer.json", "model.safetensors"}
    found = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert all(torch.allclose(value, found.tower[name], atol=1e-5) for name, value in whole.tower.items())
    # the hub has ended: from the cache
    offline = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
    code = "from training.text.encoder import load_encoder; load_encoder('dishes/tiny-bert', 4)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=offline, check=True)


@pytest.mark.slow
def test_stopped_run_goes_on_without_its_encoders_folder_and_ends_in_the_same_bits(encoder, titled, params, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    params = params.model_copy(update={"text_encoder": str(folder), "epochs": 2, "mixup": 0.2})
    assert_resumed_run_ends_in_the_same_bits(titled, params, tmp_path, lambda: shutil.rmtree(folder))


@pytest.mark.slow
def test_run_starts_from_another_of_the_same_encoder_and_anew_from_that_of_another(encoder_run, text_run, params, tmp_path):
    labels = (*Checkpoint.load(encoder_run / "checkpoint.pt").labels[1:], "new")

    def start(run, **changes):
        changed = params.model_copy(update={"weights": str(run), "spec": {}, **changes})
        return build_classifier(changed, len(labels), labels=labels, with_text=True)[0].start

    assert "the text tower with the rows of 3 classes" in start(encoder_run)
    assert "the text tower starts anew" in start(text_run)
    assert "the text tower starts anew" in start(encoder_run, text_encoder=None)
    write_encoder(tmp_path / "other", width=64)
    assert "the text tower starts anew, as that run's encoder is another" in start(
        encoder_run, text_encoder=str(tmp_path / "other")
    )


@pytest.mark.slow
def test_exported_model_answers_photo_text_and_both_as_in_training(encoder_run, titled, tmp_path):
    """Without the encoder's folder: all of it travels in the checkpoint and in the archive."""
    checkpoint = Checkpoint.load(encoder_run / "checkpoint.pt")
    assert evaluate(checkpoint, titled, tmp_path / "evaluated")["top1"] > 0.5
    exported = tmp_path / "exported"
    export(checkpoint, exported, format_name="openvino")
    program = json.loads((exported / "program.json").read_text())
    assert "openvino/f32" in program["programs"]
    assert program["provenance"]["text_encoder"]
    with zipfile.ZipFile(build(exported, "1.0.0", tmp_path / "store")) as content:
        content.extractall(tmp_path / "unpacked")
    photo = picture_bytes(1)
    classifier, spec = checkpoint.classifier()
    with modules_of_a_worker():
        handler = load_handler(tmp_path / "unpacked")
        given = [{}, *({"X-Text": encode_text(text)} for text in ("My ramen soup", "My ramen soup", "?!"))]
        bodies = handler.handle([{"body": body} for body in (photo, photo, b"", photo)], Context(*given))
        alone, both, text, wordless = (json.loads(body) for body in bodies)
        crop = handler.preprocess([photo])[0]
        assert [handler.spec.text.ids(title) for title in TITLES] == [spec.text.ids(title) for title in TITLES]
        rows = list(Offline(tmp_path / "unpacked").answers(listed_photos(titled)))
    assert wordless == alone
    assert alone["predictions"] != both["predictions"] != text["predictions"]
    crops = torch.from_numpy(np.stack([crop, crop, np.zeros_like(crop)]))
    with torch.inference_mode():
        logits = classifier(crops, torch.from_numpy(ids_of(["", "My ramen soup", "My ramen soup"], spec)))
    expected = (logits / checkpoint.temperature).softmax(1)
    for answer, row in zip((alone, both, text), expected, strict=True):
        for one in answer["predictions"]:
            assert one["probability"] == pytest.approx(float(row[one["index"]]), abs=0.03)  # bfloat16, where the CPU has it
    assert len(rows) == len(titled.read_text().splitlines()) - 1
    assert all("predictions" in row for row in rows)
