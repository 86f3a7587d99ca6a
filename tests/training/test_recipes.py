"""Recipes: each is a whole parameter file that trains, is exported and served; RECIPE= finds its file, data set and name."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import timm
import torch
import yaml
from PIL import Image

from handler.explain import heat_map
from handler.preprocess import preprocess
from handler.program import Answers
from handler.signals import photo_signals
from scripts.archive.build import build as pack
from tests.conftest import LIMIT_S, ROOT, bytes_of, free_port
from tests.serving.server import Server
from training import train
from training.data.pictures import draw
from training.data.published import PUBLISHED
from training.evaluation.confidence import fit_confidence
from training.evaluation.features import Outputs, WithFeatures
from training.export.export import export
from training.export.formats import export_to
from training.export.program import ExportedProgram
from training.model import Checkpoint, Classifier, build
from training.params import read_params
from training.recipes.choose import DATA_SETS, FOLDER, fill_in, recipe_names
from training.resume import read_run
from training.run import check_sizes
from training.speed import bench, profiling
from training.sweep import sweep
from training.sweep.space import read_settings

NAMES = recipe_names()
SIDES = {"cifar10": 32, "cifar10-64": 64, "flowers102": 224, "food101": 224, "starter": 192}


def params_of(name):
    return read_params(FOLDER / f"{name}.yaml")


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def given(**values):
    return Namespace(**{"params": None, "recipe": None, "data": None, "model": None, "resume": False} | values)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_whole_parameter_file_whose_network_takes_its_crops(name):
    params = params_of(name)
    with torch.device("meta"):  # shapes alone: no weight is drawn, and nothing computed
        classifier, spec = build(params, 10, load_weights=False)
        check_sizes(classifier, spec, params, world_size=1)
    assert spec.input_size == (3, SIDES[name], SIDES[name])


def test_the_pipelines_and_the_starters_recipes_are_the_files_that_those_have():
    assert (FOLDER / "food101.yaml").samefile(ROOT / "params.yaml")
    assert (FOLDER / "starter.yaml").samefile(ROOT / "model_store/starter/params.yaml")


def test_the_table_has_a_row_for_every_recipe():
    rows = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == NAMES


def test_a_recipe_gives_file_name_and_data_set_where_make_data_puts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data_set in DATA_SETS.items():
        published = PUBLISHED[data_set.name]
        assert data_set.folder == Path("data") / (published.unpacked or data_set.name)
        data_set.folder.mkdir(parents=True, exist_ok=True)
        args = given(recipe=name)
        fill_in(args)
        assert (args.params, args.model, args.data) == (FOLDER / f"{name}.yaml", name, data_set.folder)


def test_what_the_command_line_names_goes_before_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = given(recipe="cifar10", data=Path("photos"), model="flowers")
    fill_in(args)
    assert (args.data, args.model) == (Path("photos"), "flowers")
    resumed = given(recipe="cifar10", resume=True)
    fill_in(resumed)
    assert (resumed.params.name, resumed.data, resumed.model) == ("cifar10.yaml", None, None)
    plain = given()
    fill_in(plain)
    assert plain == given()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "cifar"}, f"RECIPE is 'cifar': no such recipe in training/recipes; there are {', '.join(NAMES)}"),
        ({"recipe": "../params"}, "RECIPE is '../params': no such recipe"),
        ({"recipe": ""}, "RECIPE is '': no such recipe"),
        (
            {"recipe": "cifar10", "params": Path("p.yaml")},
            "RECIPE=cifar10 and PARAMS=p.yaml both name parameters: give one of them",
        ),
        ({"recipe": "starter"}, "the recipe starter has no published data set: give your photos, DATA=folder"),
        ({"recipe": "food101"}, "of the recipe food101 is not in data/food-101: make data SET=food101 puts it there, or give"),
    ],
)
def test_a_recipe_that_cannot_be_taken_is_refused_with_what_to_do(tmp_path, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refused:
        fill_in(given(**values))
    assert message in str(refused.value)


@pytest.mark.parametrize("command", [train, profiling, bench, sweep])
def test_every_command_that_takes_parameters_to_train_with_takes_a_recipe(monkeypatch, command):
    needed = {sweep: ["--out=runs/none"], bench: ["--cache"]}
    monkeypatch.setattr(sys, "argv", [command.__name__, "--recipe=none", *needed.get(command, [])])
    with pytest.raises(ValueError, match="RECIPE is 'none': no such recipe"):
        command.main()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_sweep_searches_around_every_recipe(name):
    assert "lr" in read_settings(ROOT / "training/sweep/sweep.yaml", params_of(name)).space


@pytest.mark.parametrize("stride", [1, 2])
def test_the_stem_for_small_pictures_leaves_32_values_a_side(stride):
    network = timm.create_model("resnet18_small", num_classes=7, stem_stride=stride).eval()
    side = 32 * stride
    assert network.maxpool(network.conv1(torch.zeros(1, 3, side, side))).shape == (1, 64, 32, 32)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "hub"}, "resnet18_small has no weights on timm's hub: give a file"),
        ({"model_args": {"stem_stride": 0}}, "stem_stride is 0, expected 1"),
        ({"model_args": {"stem_stride": 1.5}}, "stem_stride is 1.5, expected 1"),
        ({"model_args": {"stem_stride": True}}, "stem_stride is True, expected 1"),
        ({"model_args": {"stem": 3}}, "stem"),
        ({"model": "resnet18_smal"}, "timm has no model 'resnet18_smal'; similar names: resnet18_small"),
    ],
)
def test_a_small_resnet_that_cannot_be_built_is_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        build(params_of("cifar10").model_copy(update=change), 4)


def test_weights_of_timms_resnet18_give_all_but_the_stem_and_the_head(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    classifier, _ = build(params_of("cifar10").model_copy(update={"weights": str(tmp_path / "resnet18.pth")}), 4)
    assert "the body starts anew in conv1.weight (64 x 3 x 7 x 7 in the file, 64 x 3 x 3 x 3 in the network)" in classifier.start


@pytest.mark.parametrize("name", ["cifar10", "cifar10-64"])
def test_a_picture_of_the_networks_own_size_is_seen_pixel_by_pixel(name):
    _, spec = build(params_of(name), 2)
    side = SIDES[name]
    picture = noise(side, side)
    seen = preprocess(bytes_of(picture, "PNG"), spec)
    assert np.array_equal(seen, np.asarray(picture))
    assert np.isfinite(photo_signals([seen], [(side, side)])).all()
    for size in ((2, 2), (3, 40), (1000, 700)):
        assert preprocess(bytes_of(noise(*size), "PNG"), spec).shape == (side, side, 3)

    def by_the_first_pixel(crops):
        share = crops[:, 0, 0, :1] / np.float32(255)
        return Answers(np.concatenate((share, 1 - share), axis=1), share[:, 0], share)

    assert np.isfinite(heat_map(by_the_first_pixel, seen, 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_exported_for_crops_of_its_size(tmp_path, name):
    torch.manual_seed(0)
    classifier, spec = build(params_of(name), 4, load_weights=False)
    side = SIDES[name]
    crops = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    with torch.inference_mode():
        seen = Classifier(WithFeatures(classifier.eval().network, side), spec, channels_last=False)
        confidence = fit_confidence(Outputs(*seen(torch.from_numpy(crops))), torch.arange(8) % 4)
        program = ExportedProgram(classifier, spec, 1.0, confidence).eval()
        program(torch.from_numpy(crops))
    export_to("onnxruntime", program, crops, tmp_path / name)
    (asked,) = onnx.load(tmp_path / name / "model.onnx").graph.input
    assert [dimension.dim_value for dimension in asked.type.tensor_type.shape.dim][1:] == [side, side, 3]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with PNG pictures of 32 x 32 pixels in data/cifar10, as make data lays them out, and a list of them."""
    folder, rng = tmp_path_factory.mktemp("recipe"), random.Random(0)
    with (folder / "pictures.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for number in range(160):
            split, label = "train" if number < 128 else "test", f"class_{number % 4}"
            path = folder / "data/cifar10" / split / label / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(number % 4, rng, (32, 32)).save(path)
            rows.writerow([path.relative_to(folder), label, split])
    return folder


@pytest.mark.slow
def test_a_recipe_as_it_stands_trains_on_the_set_where_make_data_puts_it(pictures):
    command = [sys.executable, "-u", "-m", "training.train", "--recipe=cifar10", "--out=whole", "--make", "RECIPE=cifar10"]
    process = subprocess.Popen(
        command, cwd=pictures, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    printed = next((line for line in process.stdout if line.startswith("epoch 1/100:")), "")
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert (process.returncode, bool(printed)) == (130, True), errors
    assert errors.endswith("to go on from the last saved state: make train RESUME=whole\n")
    assert read_run(pictures / "whole", None) == ("cifar10", Path("data/cifar10"), params_of("cifar10"))


@pytest.fixture(scope="module")
def trained(pictures):
    """A run of cifar10's recipe, shortened, by two processes, on a list of pictures of 32 x 32 pixels."""
    folder = pictures
    short = {"epochs": 3, "global_batch_size": 16, "warmup_epochs": 1.0, "workers": 0, "ema_decay": 0.8}
    (folder / "params.yaml").write_text(yaml.safe_dump(params_of("cifar10").model_dump() | short))
    command = [sys.executable, "-m", "training.train", "--model=small", "--processes=2"]
    command += [f"--data={folder / 'pictures.csv'}", f"--params={folder / 'params.yaml'}", f"--out={folder / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_a_list_of_pictures_of_32_pixels_is_learned_by_two_processes(trained):
    checkpoint = Checkpoint.load(trained / "run/checkpoint.pt")
    assert (checkpoint.data["train"], checkpoint.data["held_out"]) == (128, 32)
    assert checkpoint.spec["input_size"] == [3, 32, 32]
    assert checkpoint.metrics["top1"] >= 0.75  # 0.25 by chance
    command = [sys.executable, "-m", "training.evaluation.evaluate", f"--checkpoint={trained / 'run/checkpoint.pt'}"]
    done = subprocess.run(
        [*command, f"--out={trained / 'run'}"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((trained / "run/metrics.json").read_text())["top1"] == pytest.approx(checkpoint.metrics["top1"])


@pytest.mark.slow
@pytest.mark.server
def test_a_server_of_a_network_for_32_pixels_answers_pictures_of_any_size(trained):
    export(Checkpoint.load(trained / "run/checkpoint.pt"), trained / "1.0.0", format_name="openvino")
    pack(trained / "1.0.0", "1.0.0", trained / "store")  # which answers its golden photos
    server = Server(trained / "store", free_port(), model="small").wait_ready()
    try:
        for size in ((32, 32), (2, 2), (64, 31), (1000, 700)):
            answer = httpx.post(server.url, content=bytes_of(noise(*size), "PNG"), timeout=LIMIT_S)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["predictions"]) == 4
        own = (trained / "data/cifar10/train/class_1/00001.png").read_bytes()
        assert httpx.post(server.url, content=own, timeout=LIMIT_S).json()["predictions"][0]["label"] == "class_1"
        explained = httpx.post(server.url.replace("predictions", "explanations"), content=own, timeout=LIMIT_S).json()
        assert explained["label"] == "class_1"
    finally:
        assert server.end()[1] == 0
