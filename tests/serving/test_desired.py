"""What an instance follows: the document of its store, one model's, or the last good one while that cannot be read."""

import json

import pytest

from scripts.release.document import make, write
from scripts.release.folder_store import FolderStore
from scripts.serving.desired import DesiredState
from scripts.settings import Settings
from scripts.steps import Steps


def document(model="seefood", version="1.0.0", why="a test"):
    return make({version: {"archive": f"{model}-{version}.mar", "sha256": "0" * 64}}, version, "released", why)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store" / "release.json")


def put(store, text):
    store.write(text, store.read()[1] if store.path.exists() else None)


def desired(store, tmp_path, model=None):
    state = DesiredState("one", store, tmp_path, Settings(), Steps(False), model)
    state.poll()
    return state


def test_document_is_read_again_when_it_changes_and_an_invalid_one_leaves_the_one_before(store, tmp_path):
    state = desired(store, tmp_path)
    assert (state.document, state.problem.lasting) == (None, False)
    assert "there is no release document" in state.problem.why
    for version in ("1.0.0", "1.1.0"):
        put(store, write(document(version=version)))
        state.poll()
        assert (state.default("seefood"), state.problem) == (version, None)
    put(store, "{")
    for _ in range(2):
        state.poll()
        assert (state.default("seefood"), state.problem.lasting) == ("1.1.0", True)


def test_model_is_that_of_the_first_document_and_another_one_is_refused(store, tmp_path):
    put(store, write(document("flowers")))
    state = desired(store, tmp_path)
    assert list(state.releases) == ["flowers"]
    put(store, write(document("birds")))
    state.poll()
    assert state.problem.why == "the release document is for model birds, this instance serves flowers"
    assert state.document["model"] == "flowers"


def test_model_that_was_asked_for_is_not_exchanged_for_the_released_one(store, tmp_path):
    put(store, write(document("flowers")))
    state = desired(store, tmp_path, "birds")
    assert state.document is None
    assert state.problem.why == "the release document is for model flowers, this instance serves birds"


def test_last_good_release_is_followed_while_the_document_cannot_be(store, tmp_path, capsys):
    put(store, write(document("flowers", "1.0.0")))
    first = desired(store, tmp_path)
    first.note_good(first.document)
    put(store, "{}")
    second = desired(store, tmp_path)
    assert (second.default("flowers"), second.problem.lasting) == ("1.0.0", True)
    assert "serving the last good release" in capsys.readouterr().out
    entry = second.document["versions"]["1.0.0"]
    assert second.proved("flowers", "1.0.0", entry)
    assert not second.proved("birds", "1.0.0", entry)
    assert not second.proved("flowers", "1.0.0", {**entry, "sha256": "1" * 64})


def test_last_good_release_of_another_model_does_not_count(store, tmp_path):
    put(store, write(document("flowers")))
    first = desired(store, tmp_path)
    first.note_good(first.document)
    put(store, write(document("birds")))
    second = desired(store, tmp_path)
    assert (list(second.releases), second.last_good) == (["birds"], {})
    put(store, json.dumps({}))
    assert desired(store, tmp_path, "birds").document is None
