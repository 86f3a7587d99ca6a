"""The releases of several models in one document: read, changed one at a time, and told apart in statuses. No server."""

import json
import time

import pytest

from scripts.release.document import ReleaseError, joined, make, parse, releases_of, write
from scripts.release.folder_store import FolderStore
from scripts.release.status import Fleet, history_table, of_model, parts_of, status_table, unreadable
from scripts.release.store import ChangedError
from scripts.rollout.plan import plan_back, plan_withdraw
from scripts.rollout.released import Released
from scripts.settings import Settings


def release(model, version, stage="released", why="a test"):
    entry = {"archive": f"{model}-{version}.mar", "sha256": "0" * 64}
    return make({version: entry}, version, stage, why, "me@here")


SEEFOOD, FLOWERS = release("seefood", "1.0.0"), release("flowers", "2.0.0")


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "release.json")
    store.write(write(SEEFOOD), None)
    return store


def test_document_of_one_model_is_its_release_and_that_of_several_holds_each_by_name():
    assert joined([SEEFOOD]) == SEEFOOD == releases_of(SEEFOOD)["seefood"]
    both = joined([SEEFOOD, FLOWERS])
    assert parse(write(both)) == both
    assert releases_of(both) == {"flowers": FLOWERS, "seefood": SEEFOOD}
    assert list(both["models"]) == ["flowers", "seefood"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda models: models.clear(), r"\$\.models: {}"),
        (lambda models: models["flowers"].pop("why"), r"\$\.models\.flowers: 'why' is a required property"),
        (lambda models: models.update(Birds=models.pop("flowers")), r"\$\.models: 'Birds' does not match"),
        (lambda models: models["flowers"].update(model="flowers"), r"\$\.models\.flowers: Additional properties are not allowed"),
        (lambda models: models["flowers"].update(default="1.0.0"), r"default version is 1\.0\.0, its versions are \['2\.0\.0'\]"),
        (lambda models: models.update(birds=models["flowers"]), r"expected birds-2\.0\.0\.mar as the model is birds"),
    ],
)
def test_invalid_document_of_several_models_is_refused_with_the_place(change, problem):
    document = json.loads(write(joined([SEEFOOD, FLOWERS])))
    change(document["models"])
    with pytest.raises(ReleaseError, match=problem):
        parse(json.dumps(document))


def test_a_release_is_written_beside_what_others_write_meanwhile_and_never_over_one_of_its_own_model(store):
    seefood, flowers = Released(store, None), Released(store, "flowers")
    assert (seefood.model, flowers.before) == ("seefood", None)
    flowers.put(FLOWERS)
    seefood.put(release("seefood", "1.1.0"))
    flowers.put(release("flowers", "2.1.0"))
    found = releases_of(parse(store.read()[0]))
    assert {name: one["default"] for name, one in found.items()} == {"flowers": "2.1.0", "seefood": "1.1.0"}
    somebody_else = Released(store, "flowers")
    somebody_else.put(release("flowers", "3.0.0"))
    with pytest.raises(ChangedError):
        flowers.put(release("flowers", "2.2.0"))
    somebody_else.put(None)
    assert parse(store.read()[0])["default"] == "1.1.0"  # the form of one model again
    assert store.path.read_text() == write(seefood.now)


def test_without_a_name_the_only_model_is_meant_and_of_several_none(store):
    Released(store, "flowers").put(FLOWERS)
    with pytest.raises(ValueError, match=r"releases the models flowers, seefood: choose one, e.g. MODEL=flowers"):
        Released(store, None)


def test_rollback_of_a_model_looks_past_documents_that_changed_others_and_ends_where_it_was_not_released():
    newer = release("seefood", "1.1.0")
    history = [write(joined([newer, FLOWERS])), write(joined([SEEFOOD, FLOWERS])), write(SEEFOOD)]
    plan = plan_back("release.json", newer, history[1:], {"a"}, ["flowers"])
    assert (plan.model, [document["default"] for document in plan.documents]) == ("seefood", ["1.0.0"])
    plan = plan_back("release.json", FLOWERS, history[1:], {"a"}, ["seefood"])
    assert (plan.model, plan.documents, plan.watched) == ("flowers", [], True)
    with pytest.raises(ValueError, match="flowers is the only model that is released"):
        plan_withdraw("release.json", FLOWERS, {"a"}, [])


def part(**changes):
    """What an instance reports of a model."""
    part = {"state": "reconciled", "since": time.time(), "why": "", "release": "0", "default": "1.0.0", "versions": ["1.0.0"]}
    return part | {"ready": True, "shadow": None, "figures": {}, "worker_restarts": {}} | changes


def test_status_of_several_models_is_read_as_one_of_each(store):
    status = {"instance": "a", "models": {"flowers": part(state="failed", why="no luck"), "seefood": part()}}
    assert not unreadable(status)
    assert {name: one["state"] for name, one in parts_of(status).items()} == {"flowers": "failed", "seefood": "reconciled"}
    assert of_model(status, "seefood") == {"instance": "a", "model": "seefood", **part(since=status["models"]["seefood"]["since"])}
    # a model that it does not serve, and one that a server of one model does not name
    missing = of_model(status, "birds")
    assert (missing["state"], missing["release"], missing["ready"]) == ("starting", None, False)
    assert not unreadable(missing)
    old = {"instance": "a", **part()}
    assert of_model(old, "birds")["state"] == "reconciled"
    assert of_model({**old, "model": "seefood"}, "birds")["state"] == "starting"
    for broken in ({}, [], {"flowers": {}}, {"flowers": part() | {"state": 1}}):
        assert unreadable({"instance": "a", "models": broken})

    store.write_status("a", status)
    assert Fleet.of(store, Settings(), "flowers").statuses["a"]["why"] == "no luck"
    Released(store, "flowers").put(FLOWERS)
    table = status_table(store, Settings()).splitlines()
    assert [line.split()[1:3] for line in table[:2]] == [["flowers", "2.0.0"], ["seefood", "1.0.0"]]
    assert [line.split()[:2] for line in table[2:]] == [["instance", "model"], ["a", "flowers"], ["a", "seefood"]]


def test_history_shows_the_model_that_each_document_changed(store):
    flowers = Released(store, "flowers")
    flowers.put(release("flowers", "2.0.0"))
    Released(store, "seefood").put(release("seefood", "1.1.0"))
    Released(store, "flowers").put(None)
    rows = [line.split() for line in history_table(store).splitlines()[1:]]
    assert [row[1:3] for row in rows[1:]] == [["released", "seefood"], ["released", "flowers"], ["released", "seefood"]]
    assert rows[0][1:3] == ["removed", "flowers"]
