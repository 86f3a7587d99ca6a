"""Promotion: real networks of a second's training, in a real registry, on generated pictures."""

import shutil
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from scripts.command import run as run_command
from training.data.loader import eval_loader
from training.data.sets import read_data
from training.model import Checkpoint, build
from training.tracking.journal import Tracker
from training.tracking.paired import Paired, why_not
from training.tracking.promote import main
from training.tracking.registry import Registry
from training.tracking.sender import send
from training.tracking.store import CHAMPION, open_client, read_state

# MLflow asks SQLAlchemy for what that deprecates
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def data(generated, tiny_params):
    return read_data(generated, tiny_params.val_fraction, tiny_params.seed)


@pytest.fixture(scope="module")
def checkpoints(data, tiny_params):
    """(a random network, a trained one)."""
    torch.manual_seed(0)
    classifier, spec = build(tiny_params, len(data.labels))

    def checkpoint():
        return Checkpoint(
            weights={name: value.clone() for name, value in classifier.network.state_dict().items()},
            spec=spec.to_dict(),
            labels=data.labels,
            params=tiny_params.model_dump(),
            temperature=1.0,
            epoch=1,
            metrics={},
            data=data.summary(),
            trained_on=[photo.sha256 for photo in data.train],
            git="unknown",
        )

    random = checkpoint()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.003)
    batches = list(eval_loader(data.train, tiny_params, spec))
    classifier.train()
    for _ in range(6):
        for i in torch.randperm(len(batches)).tolist():
            crops, targets, _positions = batches[i]
            torch.nn.functional.cross_entropy(classifier(crops), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    return random, checkpoint()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def registry(empty_store, tmp_path, monkeypatch):
    """An empty registry, which the command line uses, too."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", "food")


@pytest.fixture
def run_of(registry, tmp_path, monkeypatch):
    """run_of(checkpoint, name, model): the folder of a run that registered it."""

    def run(checkpoint, name, model="food"):
        checkpoint.save(tmp_path / name / "checkpoint.pt")
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", "none")
            tracker = Tracker(tmp_path / name)
        tracker.register(model, tmp_path / name / "checkpoint.pt")
        tracker.close()
        send(tmp_path / name, registry.uri)
        return tmp_path / name

    return run


@pytest.fixture
def command(monkeypatch, capsys):
    """command(argument, ...): (exit status, stdout, stderr) of training/tracking/promote.py."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["promote.py", "--model", "food", *map(str, arguments)])
        status = run_command(main)
        return status, *capsys.readouterr()

    return run


def champion(registry):
    version = registry.holder(CHAMPION)
    return None if version is None else int(version.version)


def tags(registry, number):
    return registry.client.get_model_version("food", str(number)).tags


def test_first_champion_must_beat_chance(registry, run_of, command, checkpoints, data):
    run_of(checkpoints[0], "random")
    status, printed, _ = command()
    assert (status, champion(registry)) == (1, None)
    assert "not better than chance" in printed
    run_of(checkpoints[1], "trained")
    status, printed, _ = command()
    assert (status, champion(registry)) == (0, 2)
    assert "no champion yet" in printed
    most_common = max(Counter(photo.index for photo in data.held_out).values()) / len(data.held_out)
    assert (tags(registry, 2)["promotion.against"], tags(registry, 2)["promotion.chance"]) == ("none", f"{most_common:.4f}")
    assert command()[:2] == (0, "food 2 is the champion already\n")


def test_better_challenger_becomes_champion_and_its_version_says_by_how_much(registry, run_of, command, checkpoints, data):
    run_of(checkpoints[0], "random")
    registry.client.set_registered_model_alias("food", CHAMPION, "1")
    status, printed, _ = command("--run", run_of(checkpoints[1], "trained"))
    assert (status, champion(registry)) == (0, 2)
    assert f"{len(data.held_out)} photos" in printed
    noted = tags(registry, 2)
    assert (noted["promotion.against"], noted["promotion.photos"]) == ("1", str(len(data.held_out)))
    assert float(noted["promotion.p_value"]) < 0.001
    assert float(noted["promotion.top1"]) > float(noted["promotion.champion_top1"])
    assert noted["promotion.verdict"] == "is the champion now"


@pytest.mark.parametrize("index", [0, 1])
def test_worse_or_equal_challenger_is_refused_with_the_reason(registry, run_of, command, checkpoints, index):
    run_of(checkpoints[1], "trained")
    registry.client.set_registered_model_alias("food", CHAMPION, "1")
    status, printed, _ = command("--run", run_of(replace(checkpoints[index], epoch=2), "other"))
    assert (status, champion(registry)) == (1, 1)
    assert "food 2 stays as it is: it is not better than the champion" in printed
    assert tags(registry, 2)["promotion.verdict"] == "stays as it is: it is not better than the champion"


def test_photos_that_either_was_trained_on_do_not_count(registry, run_of, command, checkpoints, data):
    held_out = [photo.sha256 for photo in data.held_out]
    run_of(replace(checkpoints[0], trained_on=held_out[:5]), "champion")
    registry.client.set_registered_model_alias("food", CHAMPION, "1")
    run_of(checkpoints[1], "challenger")
    assert f"on {len(held_out) - 5} photos" in command()[1]
    run_of(replace(checkpoints[0], trained_on=held_out), "all")
    registry.client.set_registered_model_alias("food", CHAMPION, "3")
    status, _, errors = command("--run", "challenger")
    assert (status, champion(registry)) == (1, 3)
    assert "trained on every held-out photo" in errors


def test_other_photos_can_be_given(registry, run_of, command, checkpoints, generated, tmp_path, data):
    for folder in generated.iterdir():
        shutil.copytree(folder, tmp_path / "fewer" / folder.name)
        for path in sorted((tmp_path / "fewer" / folder.name).iterdir())[10:]:
            path.unlink()
    run_of(checkpoints[1], "trained")
    status, printed, _ = command("--data", tmp_path / "fewer", "--alpha", "0.5")
    assert status == 0
    assert "of class folders in fewer" in printed
    assert 0 < int(tags(registry, 1)["promotion.photos"]) < len(data.held_out)


def test_different_label_maps_are_not_compared(registry, run_of, command, checkpoints):
    run_of(checkpoints[1], "trained")
    registry.client.set_registered_model_alias("food", CHAMPION, "1")
    labels = ("soup", *checkpoints[1].labels[1:])
    status, _, errors = command("--run", run_of(replace(checkpoints[1], labels=labels), "other"))
    assert (status, champion(registry)) == (1, 1)
    assert "different label maps (['class_0', 'soup'])" in errors


def test_missing_model_run_or_artifact_is_an_error_that_names_it(registry, run_of, command, checkpoints, tmp_path):
    assert "has no food with the alias 'challenger'" in command()[2]
    assert f"there is no run {tmp_path}/nothing: make train makes one" in command("--run", tmp_path / "nothing")[2]
    (tmp_path / "unsent").mkdir()
    assert "make track RUN=" in command("--run", tmp_path / "unsent")[2]
    run_of(checkpoints[1], "flowers", model="flowers")
    assert "flowers registered flowers, not food: give MODEL=flowers" in command("--run", tmp_path / "flowers")[2]
    assert "model name is 'Food', expected lower-case letters" in command("--model", "Food")[2]
    assert "alpha is 5.0, expected" in command("--alpha", "5")[2]
    run_of(checkpoints[1], "trained")
    shutil.rmtree(tmp_path / "artifacts")
    status, _, errors = command()
    assert status == 1
    assert errors.startswith(f"error: {registry.uri} failed: ")


def test_fetched_champion_is_the_registered_file_and_is_not_written_twice(registry, run_of, command, checkpoints, tmp_path):
    run = run_of(checkpoints[1], "trained")
    assert command()[0] == 0
    path = tmp_path / "champion" / "checkpoint.pt"
    assert command("--fetch", "champion", "--out", path.parent)[0] == 0
    assert path.read_bytes() == (run / "checkpoint.pt").read_bytes()
    written = path.stat().st_mtime_ns
    assert command("--fetch", "champion", "--out", path.parent)[0] == 0
    assert path.stat().st_mtime_ns == written
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["checkpoint.pt", "tracking.state.json"]
    # make archive RUN=champion notes in the archive where it comes from
    assert read_state(path.parent, registry.uri)[0] == registry.holder(CHAMPION).run_id


def test_file_that_is_not_what_was_registered_is_not_fetched(registry, run_of, command, checkpoints, tmp_path):
    run_of(checkpoints[1], "trained")
    (stored,) = (tmp_path / "artifacts").rglob("checkpoint.pt")
    stored.write_bytes(b"other")
    status, _, errors = command("--fetch", "challenger", "--out", tmp_path / "out")
    assert status == 1
    assert "was registered with" in errors
    assert not list((tmp_path / "out").iterdir())


def test_interval_and_p_value_of_a_published_table():
    # approval of a prime minister in two surveys of 1600 people, Agresti, Categorical Data Analysis, table 10.1: 944 to 880
    paired = Paired(1600, 86, 150)
    assert paired.points == pytest.approx(-4.0)
    assert paired.interval == pytest.approx((-5.87, -2.12), abs=0.02)
    assert paired.p_value == pytest.approx(3.7e-5, rel=0.1)
    assert Paired(20, 5, 1).interval == pytest.approx((-4.13, 40.49), abs=0.02)  # by hand


@pytest.mark.parametrize(
    ("paired", "reason"),
    [
        (Paired(500, 21, 13), "the difference may be chance: p = 0.229, not below 0.05; about 2083 photos"),
        (Paired(500, 5, 0), "too few photos: the two models differ on 5, and p < 0.05 takes at least 6; about "),
        (Paired(500, 13, 21), "it is not better"),
        (Paired(500, 0, 0), "it is not better"),
        (Paired(500, 6, 0), ""),
        (Paired(500, 60, 20), ""),
    ],
)
def test_verdict_names_what_is_missing(paired, reason):
    given = why_not(paired, 0.05)
    assert given.startswith(reason)
    assert bool(given) == bool(reason)


def test_number_of_photos_needed_shows_the_difference_four_times_in_five():
    n = Paired(100, 10, 6).photos_needed(0.05)
    draws = np.random.default_rng(0).multinomial(n, [0.10, 0.06, 0.84], 2000)
    shown = [gained > lost and Paired(n, int(gained), int(lost)).p_value < 0.05 for gained, lost, _ in draws]
    assert 0.75 < np.mean(shown) < 0.85
