"""Several models on one server: each is rolled out, watched and undone by itself, and no answer of the others changes."""

import json
import threading

import httpx
import pytest

from scripts.command import run
from scripts.release.document import parse, releases_of
from scripts.release.folder_store import FolderStore
from scripts.rollout.rollout import main
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.rollout.rolling import QUICK, Instance, get, make_archives, reversion

MODELS = ("birds", "flowers", "seefood")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """1.0.0 of three models, all of them the starter's network, and what may follow for flowers."""
    folder = tmp_path_factory.mktemp("archives")
    first = make_archives(ROOT / "model_store" / "starter", folder, ["1.0.0"])["1.0.0"]
    for model in ("birds", "flowers"):
        reversion(first, "1.0.0", folder / model, model=model).rename(folder / f"{model}-1.0.0.mar")
    for version, fault in (("1.1.0", None), ("1.2.0", "answers wrong")):
        reversion(first, version, folder / version, fault, "flowers").rename(folder / f"flowers-{version}.mar")
    return folder


@pytest.fixture
def rollout(tmp_path, archives, monkeypatch, capsys):
    """(exit status, output, stderr) of a rollout command."""

    def call(*arguments):
        store = ["--release", str(tmp_path / "release.json"), "--model-store", str(archives)]
        monkeypatch.setattr("sys.argv", ["rollout", *store, *arguments])
        status = run(main)
        return status, *capsys.readouterr()

    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    return call


class Load:
    """A client that asks models in turn, and keeps every answer."""

    def __init__(self, port, *models):
        self.url, self.models, self.answers = f"http://127.0.0.1:{port}/predictions", models, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        photo = picture_bytes(1)
        while not self._over.is_set():
            for model in self.models:
                answer = httpx.post(f"{self.url}/{model}", content=photo, timeout=LIMIT_S)
                self.answers.append((model, answer.status_code, answer.text))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *args):
        self._over.set()
        self._thread.join()


@pytest.mark.slow
@pytest.mark.server
def test_three_models_are_rolled_out_each_by_itself_and_the_others_answer_as_before(tmp_path, rollout, archives):
    store = FolderStore(tmp_path / "release.json")
    assert rollout("start", "1.0.0", "--model", "seefood")[0] == 0
    with Instance(store.path, free_port()).wait_ready() as instance:
        assert get(instance.readyz)[1] == {"ready": True, "version": "1.0.0"}
        for model in ("flowers", "birds"):
            status, _, error = rollout("start", "1.0.0", "--model", model)
            assert status == 0, error
        assert get(instance.readyz)[1]["models"] == {model: {"ready": True, "version": "1.0.0"} for model in MODELS}
        for model in MODELS:
            answer = httpx.post(f"http://127.0.0.1:{instance.port}/predictions/{model}/1.0.0", content=picture_bytes(1)).json()
            assert (answer["model"], answer["version"]) == (model, "1.0.0")

        others = {name: release for name, release in releases_of(parse(store.read()[0])).items() if name != "flowers"}
        with Load(instance.port, "seefood", "birds") as load:
            status, _, error = rollout("start", "1.1.0", "--model", "flowers")
            assert status == 0, error
            assert answered_by(instance, "flowers") == "1.1.0"
            status, _, error = rollout("start", "1.2.0", "--model", "flowers")
            assert status == 1
            assert "answered incorrectly" in error
            assert error.endswith("1.1.0 is served again\n")
            assert answered_by(instance, "flowers") == "1.1.0"
            status, _, error = rollout("back", "--model", "flowers")
            assert status == 0, error
            assert answered_by(instance, "flowers") == "1.0.0"
        assert len(load.answers) > 20
        # each model's answers are the same text, from the first to the last
        assert {(model, status) for model, status, _ in load.answers} == {("seefood", 200), ("birds", 200)}
        assert len({json.dumps([model, text]) for model, _, text in load.answers}) == 2
        document = parse(store.read()[0])
        assert {name: releases_of(document)[name] for name in others} == others

        _, table, _ = rollout("status")
        assert [line.split()[:5] for line in table.splitlines()[4:]] == [
            [instance.name, model, "1.0.0", "1.0.0", "reconciled"] for model in MODELS
        ]
        status, _, error = rollout("withdraw", "--model", "birds")
        assert status == 0, error
        instance.wait_for(lambda: "birds" not in httpx.get(instance.management).text)
        assert get(instance.readyz)[1]["models"].keys() == {"flowers", "seefood"}
        assert httpx.post(f"http://127.0.0.1:{instance.port}/predictions/birds", content=b"x").status_code == 404
        metrics = httpx.get(f"http://127.0.0.1:{instance.port + 2}/metrics").text
        assert 'seefood_requests_total{model="seefood",outcome="answered",version="1.0.0"}' in metrics
        assert 'seefood_requests_total{model="flowers",outcome="answered",version="1.1.0"}' in metrics


def answered_by(instance, model):
    answer = httpx.post(f"http://127.0.0.1:{instance.port}/predictions/{model}", content=picture_bytes(1))
    return answer.json()["version"]


@pytest.mark.slow
@pytest.mark.server
def test_readiness_says_which_model_does_not_answer_and_a_start_waits_for_all(tmp_path, rollout, archives):
    for model, version in (("seefood", "1.0.0"), ("flowers", "1.2.0")):
        assert rollout("start", version, "--model", model, "--unwatched")[0] == 0
    with Instance(tmp_path / "release.json", free_port()) as instance:
        instance.wait_for(lambda: "answered incorrectly" in json.dumps(instance.status() or {}))
        instance.wait_for(lambda: get(instance.readyz)[1].get("models", {}).get("seefood", {}).get("ready"))
        status, content = get(instance.readyz)
        assert (status, content["ready"], content["models"]["flowers"]["ready"]) == (503, False, False)
        assert content["why"].startswith("flowers: ")
        assert answered_by(instance, "seefood") == "1.0.0"
        # it was not released before, so that the way back is without it
        status, _, error = rollout("back", "--model", "flowers")
        assert status == 0, error
        instance.wait_for(lambda: get(instance.readyz) == (200, {"ready": True, "version": "1.0.0"}))
