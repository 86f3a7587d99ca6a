"""A rollout that is refused leaves the store exactly as it was: no archive is uploaded, no document is written."""

import json
import shutil
import sys

import pytest

from scripts.archive.name import choose_archive
from scripts.command import run
from scripts.release.document import make, parse, write
from scripts.release.folder_store import FolderStore
from scripts.rollout.rollout import main
from tests.conftest import ROOT
from tests.rollout.rolling import put, release, report, reversion


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The starter, under two versions."""
    folder, starter = tmp_path_factory.mktemp("archives"), choose_archive(ROOT / "model_store", None)
    return {version: reversion(starter, version, folder) for version in ("1.0.0", "1.1.0")}


@pytest.fixture
def store(archives, tmp_path):
    """Releases 1.0.0, whose archive alone is there."""
    store = FolderStore(tmp_path / "store" / "release.json")
    store.put(archives["1.0.0"])
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    return store


@pytest.fixture
def rollout(store, archives, monkeypatch, capsys):
    """(exit status, stdout, stderr) of a rollout command."""

    def call(*arguments, model_store=archives["1.0.0"].parent):
        command = ["rollout", "--release", store.address, "--model-store", str(model_store), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        return run(main), *capsys.readouterr()

    return call


def content(store):
    return {path.relative_to(store.folder): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("instances", "arguments", "reason"),
    [
        ([], ["1.1.0"], "no running instance follows"),
        ([], ["1.1.0", "--canary", "50", "--unwatched"], "a canary needs running instances"),
        (["a", "b"], ["1.1.0", "--canary", "0"], "CANARY is 0, expected a share of the instances in percent"),
        (["a", "b"], ["1.1.0", "--canary", "100"], "CANARY is 100, expected"),
        (["a", "b"], ["1.1.0", "--canary", "nan"], "CANARY is nan, expected"),
        (["a", "b"], ["1.1.0", "--canary", "49"], "49 % of 2 instances is less than one of them: CANARY=50 is one"),
        (["a"], ["1.1.0", "--canary", "50"], "one instance alone has no canary"),
        (["a"], ["1.1.0", "--shadow", "0"], "SHADOW is 0, expected a number of photos from 1"),
        (["a"], ["1.1.0", "--bake", "nan"], "BAKE is nan, expected a number of seconds from 0"),
        (["a"], ["1.1.0", "--bake", "-1"], "BAKE is -1, expected"),
        (["a"], ["1.1.0", "--bake", "inf"], "BAKE is inf, expected"),
        (["a"], ["1.0.0"], "1.0.0 is served already"),
        (["a"], ["9.9.9"], "no archive"),
        (["a"], ["one"], "semantic version"),
    ],
)
def test_refused_rollout_leaves_the_store_as_it_was(store, rollout, instances, arguments, reason):
    report(store, *instances)
    before = content(store)
    status, _, error = rollout("start", *arguments)
    assert status == 1
    assert reason in error
    assert content(store) == before


def test_canary_without_a_release_is_refused_and_nothing_is_uploaded(tmp_path, store, rollout):
    shutil.rmtree(store.folder)
    status, _, error = rollout("start", "1.1.0", "--canary", "50")
    assert status == 1
    assert "a canary needs a release before it" in error
    assert not store.folder.exists()


def test_version_that_is_released_with_another_archive_is_refused(store, rollout, archives):
    document = make({"1.1.0": {"archive": "seefood-1.1.0.mar", "sha256": "0" * 64}}, "1.1.0", "released", "other bytes")
    put(store, write(document))
    report(store, "a")
    before = content(store)
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    assert "1.1.0 is released with another archive, and a version never changes" in error
    assert content(store) == before


def test_archive_that_differs_from_the_stored_one_is_refused(store, rollout, archives):
    (store.folder / "seefood-1.1.0.mar").write_bytes(b"another")
    report(store, "a")
    before = content(store)
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    assert "another seefood-1.1.0.mar lies beside" in error
    assert content(store) == before


def test_a_model_that_is_not_there_and_a_release_of_several_without_a_name_are_refused(store, rollout, archives, tmp_path):
    reversion(archives["1.1.0"], "1.1.0", tmp_path, model="flowers")
    before = content(store)
    for arguments, reason in [
        (["--model", "birds"], "no archive of birds 1.1.0"),
        (["--model", "flowers"], "no running instance follows"),
        (["--model", "flowers", "--canary", "10"], "a canary needs a release before it"),
    ]:
        status, _, error = rollout("start", "1.1.0", *arguments, model_store=tmp_path)
        assert (status, content(store)) == (1, before)
        assert reason in error
    assert rollout("start", "1.1.0", "--model", "flowers", "--unwatched", model_store=tmp_path)[0] == 0
    before = content(store)
    for command in (["start", "1.1.0"], ["back"]):
        status, _, error = rollout(*command, model_store=tmp_path)
        assert (status, content(store)) == (1, before)
        assert "releases the models flowers, seefood: choose one, e.g. MODEL=flowers" in error


@pytest.mark.parametrize("name", ["seefood-1.2.0.mar", "flowers-1.1.0.mar"])
def test_archive_that_holds_another_than_its_name_says_is_refused(store, rollout, archives, tmp_path, name):
    models = tmp_path / "models"
    models.mkdir()
    shutil.copyfile(archives["1.1.0"], models / name)
    shutil.rmtree(store.folder)
    status, _, error = rollout("start", name.split("-")[1].removesuffix(".mar"), model_store=models)
    assert status == 1
    assert f"{name} contains seefood 1.1.0 but is named {name.removesuffix('.mar').replace('-', ' ')}" in error
    assert not store.folder.exists()


def test_first_release_of_one_of_two_models_asks_which(store, rollout, archives, tmp_path):
    reversion(archives["1.1.0"], "1.1.0", tmp_path, model="flowers")
    shutil.copyfile(archives["1.1.0"], tmp_path / archives["1.1.0"].name)
    shutil.rmtree(store.folder)
    status, _, error = rollout("start", "1.1.0", model_store=tmp_path)
    assert status == 1
    assert "holds the models flowers, seefood: choose one, e.g. MODEL=flowers" in error
    assert not store.folder.exists()
    assert rollout("start", "1.1.0", "--model", "flowers", model_store=tmp_path)[0] == 0
    assert parse(store.read()[0])["model"] == "flowers"
    # the release document's model needs no naming
    reversion(archives["1.1.0"], "1.2.0", tmp_path, model="flowers")
    assert rollout("start", "1.2.0", "--unwatched", model_store=tmp_path)[0] == 0
    assert parse(store.read()[0])["versions"].keys() == {"1.2.0"}
    _, table, _ = rollout("status", model_store=tmp_path)
    assert "flowers 1.2.0 (released)" in table
    _, table, _ = rollout("history", model_store=tmp_path)
    assert [line.split()[1:4] for line in table.splitlines()[1:]] == [["released", "flowers", v] for v in ("1.2.0", "1.1.0")]


def test_damaged_archive_is_refused(store, rollout, archives, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "seefood-1.1.0.mar").write_bytes(archives["1.1.0"].read_bytes()[:100_000])
    report(store, "a")
    before = content(store)
    status, _, error = rollout("start", "1.1.0", model_store=models)
    assert status == 1
    assert "is damaged" in error
    assert content(store) == before


def test_rollback_without_an_earlier_release_is_refused(store, rollout):
    report(store, "a")
    before = content(store)
    status, _, error = rollout("back")
    assert status == 1
    assert "no earlier release is in the history" in error
    assert content(store) == before


def test_rollback_to_an_archive_that_is_gone_is_refused(store, rollout, archives):
    store.put(archives["1.1.0"])
    release(store, {"1.1.0": archives["1.1.0"]}, "1.1.0")
    report(store, "a")
    (store.folder / "seefood-1.0.0.mar").unlink()
    before = content(store)
    status, _, error = rollout("back")
    assert status == 1
    assert "seefood-1.0.0.mar is no longer beside" in error
    assert content(store) == before


def test_release_may_come_from_the_environment(store, monkeypatch, capsys):
    monkeypatch.setenv("SEEFOOD_RELEASE", store.address)
    monkeypatch.setattr(sys, "argv", ["rollout", "status"])
    assert run(main) == 0
    assert f"{store.address}: seefood 1.0.0 (released)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["start", "1.1.0", "--unwatched"], ["back"]])
def test_json_logs_are_json_to_the_last_line(store, rollout, archives, monkeypatch, arguments):
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    store.put(archives["1.1.0"])
    if arguments == ["back"]:
        release(store, {"1.1.0": archives["1.1.0"]}, "1.1.0")
    status, output, error = rollout(*arguments)
    assert status == 0, error
    steps = [json.loads(line) for line in output.splitlines()]
    assert len(steps) >= 2
    assert steps[-1]["default"] == parse(store.read()[0])["default"]
