"""A watched rollout against an instance that only reports: order, restoring, interruption, logs. No TorchServe."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from scripts.archive.name import choose_archive
from scripts.command import run
from scripts.release.document import parse
from scripts.release.folder_store import FolderStore
from scripts.release.store import DeniedError, StoreError
from scripts.rollout.retry import until_read
from scripts.rollout.rollout import main
from scripts.rollout.unmanaged import unmanaged_server
from tests.conftest import LIMIT_S, ROOT
from tests.rollout.rolling import alike, release, report, reversion

SHADOW = {"photos": 2, "agreed": 1, "changes": [["ramen", "pho", 1]], "median_ms": {"1.0.0": 10, "1.1.0": 9}}
SHADOW |= {"refused": {"1.0.0": 0, "1.1.0": 0}}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The starter, under two versions."""
    folder, starter = tmp_path_factory.mktemp("archives"), choose_archive(ROOT / "model_store", None)
    return {version: reversion(starter, version, folder) for version in ("1.0.0", "1.1.0")}


@pytest.fixture
def store(archives, tmp_path):
    """Releases 1.0.0."""
    store = FolderStore(tmp_path / "release.json")
    store.put(archives["1.0.0"])
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    return store


@pytest.fixture
def follow(store):
    """Let instance "a" report as `state_of(document)` says, until the test ends."""
    over, threads = threading.Event(), []

    def loop(state_of):
        while not over.wait(0.05):
            document = parse(store.read()[0])
            report(store, "a", **state_of(document))

    def begin(state_of=lambda document: {}):
        report(store, "a")
        threads.append(threading.Thread(target=loop, args=(state_of,)))
        threads[0].start()

    yield begin
    over.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def rollout(store, archives, monkeypatch, capsys):
    """(exit status, steps, stderr) of a rollout command."""
    monkeypatch.setenv("SEEFOOD_LOG_JSON", "true")
    monkeypatch.setenv("SEEFOOD_BAKE_S", "0.2")
    monkeypatch.setenv("SEEFOOD_POLL_S", "0.1")
    monkeypatch.setenv("SEEFOOD_ROLLOUT_S", "20")

    def call(*arguments):
        command = ["rollout", "--release", store.address, "--model-store", str(archives["1.0.0"].parent), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        status = run(main)
        output, error = capsys.readouterr()
        return status, [json.loads(line) for line in output.splitlines()], error

    return call


def stages(store):
    documents = [parse(text) for text in store.history()]
    return [(document["stage"], document["default"]) for document in reversed(documents)]


def test_every_line_of_a_watched_rollout_and_of_the_way_back_is_json(store, follow, rollout):
    follow(lambda document: {"shadow": alike(document) | SHADOW} if "shadow" in document else {})
    status, steps, error = rollout("start", "1.1.0", "--shadow", "2")
    assert status == 0, error
    assert stages(store) == [("released", "1.0.0"), ("shadow", "1.0.0"), ("baking", "1.1.0"), ("released", "1.1.0")]
    (compared,) = [step for step in steps if step["step"] == "compared by captured photos"]
    assert "1.1.0 and 1.0.0 agree on 1 of 2 captured photos (50.0 %)\n  1 x ramen -> pho" in compared["report"]
    assert steps[-1]["default"] == "1.1.0"
    assert store.has("seefood-1.1.0.mar")
    written = [parse(text)["written"] for text in store.history()]
    assert written == sorted(written, reverse=True)
    assert len(set(written)) == 4

    status, steps, error = rollout("back")
    assert status == 0, error
    assert steps[-1]["default"] == "1.0.0"
    assert stages(store)[-1] == ("released", "1.0.0")


def test_store_that_is_away_at_every_other_reading_undoes_nothing(store, follow, rollout, monkeypatch):
    follow()
    statuses, readings = FolderStore.statuses, []

    def now_and_then(self):
        readings.append(1)
        if len(readings) % 2 == 0:
            raise StoreError("the store is away")
        return statuses(self)

    monkeypatch.setattr(FolderStore, "statuses", now_and_then)
    status, _, error = rollout("start", "1.1.0")
    assert (status, error) == (0, "")
    assert parse(store.read()[0])["default"] == "1.1.0"


def test_reading_waits_for_the_store_until_the_deadline_and_not_where_it_is_denied():
    for error, deadline in ((StoreError("away"), 0.0), (DeniedError("denied"), time.monotonic() + LIMIT_S)):
        calls = []

        def read(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            until_read(read, deadline)
        assert len(calls) == 1


def test_version_that_fails_is_undone_with_the_reason(store, follow, rollout):
    follow(lambda document: {"state": "failed", "why": "no such luck"} if document["default"] == "1.1.0" else {})
    status, steps, error = rollout("start", "1.1.0")
    assert status == 1
    assert error.splitlines() == ["error: a: no such luck", "1.0.0 is served again"]
    assert stages(store) == [("released", "1.0.0"), ("baking", "1.1.0"), ("released", "1.0.0")]
    assert [step["step"] for step in steps] == ["released", "restoring", "released", "reconciled"]


def test_interrupted_rollout_is_undone_and_exits_as_interrupted(store, follow, rollout):
    interrupted = threading.Event()

    def state_of(document):
        if document["default"] == "1.0.0":
            return {}
        if not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGTERM)
        return {"state": "reconciling"}

    follow(state_of)
    status, steps, error = rollout("start", "1.1.0")
    assert status == 143
    assert error.endswith("interrupted\n")
    assert steps[-1]["result"] == "1.0.0 is served again"
    assert stages(store)[-1] == ("released", "1.0.0")


def test_instance_that_stops_reporting_fails_the_rollout(store, follow, rollout, monkeypatch):
    monkeypatch.setenv("SEEFOOD_STALE_S", "3")
    report(store, "b")
    follow()
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    assert "b stopped reporting" in error
    assert "1.0.0 is served again" in error


@pytest.mark.parametrize(
    ("url", "management_url", "management"),
    [
        ("http://host:8080", None, "http://host:8081"),
        ("https://host:8443/", None, "https://host:8444"),
        ("http://[::1]:8080", None, "http://[::1]:8081"),
        ("http://host:8080", "http://host:9000/", "http://host:9000"),
        ("https://food.example.com", "http://host:9000", "http://host:9000"),
    ],
)
def test_management_is_the_port_after_predictions_unless_given(url, management_url, management, monkeypatch):
    monkeypatch.setenv("SEEFOOD_MANAGEMENT_TOKEN", "m")
    monkeypatch.setenv("SEEFOOD_INFERENCE_TOKEN", "i")
    server = unmanaged_server(url, management_url)
    assert (server.management, server.inference) == (management, url.rstrip("/"))
    assert (server.management_token, server.inference_token) == ("m", "i")


@pytest.mark.parametrize("url", ["host:8080", "http://", "ftp://host:8080", "http://host:8080/predictions/seefood", "http://host"])
def test_address_that_cannot_be_rolled_is_refused(url):
    with pytest.raises(ValueError, match="URL is '"):
        unmanaged_server(url, None)


def asked(old, new):
    """A report of 120 captured photos, to which each version answered with one class."""
    row = [[0, 0.8, True], [1, 0.8, True]]
    photos = {"golden": [], "captured": [row] * 120 if old != new else [[row[0], row[0]]] * 120}
    return SHADOW | {"versions": ["1.0.0", "1.1.0"], "labels": [old, new], "only": [[], []]} | photos


def answered(label, number):
    """The figures of a version that gave this answer so often."""
    classes = {"pho": 0, "ramen": 0} | {label: number}
    answers = {"classes": classes, "unsure": 0, "probabilities": {"0.5": 0, "0.9": number}, "probability": 0.8 * number}
    return {"outcomes": {"answered": number}, "seconds": {}, "answers": answers}


@pytest.mark.parametrize("really", [False, True])
@pytest.mark.slow
def test_other_answers_to_clients_are_confirmed_by_asking_both_versions_again(really, store, follow, rollout):
    bakes, reports = [], 0

    def state_of(document):
        nonlocal reports
        figures = {"1.0.0": answered("pho", 500)}
        if document["stage"] != "baking":
            return {"figures": figures}
        if document["written"] not in bakes:
            bakes.append(document["written"])
        reports += 1
        figures["1.1.0"] = answered("ramen", 300 * reports)
        return {"figures": figures, "shadow": asked("pho", "ramen" if really and len(bakes) == 2 else "pho")}

    follow(state_of)
    status, steps, error = rollout("start", "1.1.0", "--bake", "2")
    assert len(bakes) == 2, (steps, error)
    names = [step["step"] for step in steps]
    assert names.count("compared by the same photos") == 2
    assert status == really, error
    if really:
        assert "error: 1.1.0 is worse: of 120 captured photos that both versions were asked: it calls " in error
        assert "it calls 100 % ramen, 0 % before" in error
        assert error.endswith("1.0.0 is served again\n")
    else:
        assert "the photos have changed, not the answers" in names
        assert stages(store)[-1] == ("released", "1.1.0")


def test_version_that_answers_differently_on_purpose_goes_on_unless_it_calls_everything_one_class(store, follow, rollout):
    found = asked("pho", "ramen")
    found["captured"][60:] = [[[0, 0.8, True]] * 2] * 60
    follow(lambda document: {"shadow": found} if "shadow" in document else {})
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    assert "If it shall answer so: make rollout VERSION=1.1.0 ANSWERS=differ" in error
    status, steps, error = rollout("start", "1.1.0", "--answers", "differ")
    assert status == 0, error
    (differ,) = [step for step in steps if step["step"] == "answers differ, as was asked for"]
    assert "it calls 50 % ramen, 0 % before" in differ["why"]
    assert stages(store)[-1] == ("released", "1.1.0")
    rollout("back")
    found["captured"] = [[[label, 0.8, True], [1, 0.8, True]] for label in (0, 2)] * 60
    found["labels"] = ["pho", "ramen", "tacos"]
    for purpose in ([], ["--answers", "differ"]):
        status, steps, error = rollout("start", "1.1.0", *purpose)
        assert status == 1
        assert "it calls 100 % ramen, 0 % before" in error
        assert "ANSWERS" not in error  # nobody wants that: no remedy is named


def golden_alone(document):
    """A report of four golden photos that the versions answer otherwise, and of no captured ones."""
    row = [[0, 0.4, False], [1, 0.3, False]]
    return alike(document) | {"labels": ["pho", "ramen"], "golden": [row] * 4} if "shadow" in document else None


def test_version_of_whose_answers_too_few_were_seen_is_restored_and_goes_on_if_that_is_asked_for(store, follow, rollout):
    follow(lambda document: {"shadow": golden_alone(document)})
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    assert "the answers of 1.1.0 are not judged: " in error
    assert "0 captured photos (40 are needed); 0 answers (the old version: 0), too few to compare: 100 of each are needed" in error
    assert "make rollout VERSION=1.1.0 ANSWERS=unjudged\n1.0.0 is served again" in error
    status, steps, error = rollout("start", "1.1.0", "--answers", "unjudged")
    assert status == 0, error
    assert "answers not judged" in [step["step"] for step in steps]
    assert parse(store.read()[0])["why"] == "1.1.0 in place of 1.0.0; answers not judged"


@pytest.mark.parametrize("cause", ["the photos", "the version"])
@pytest.mark.slow
def test_without_captured_photos_the_old_version_is_served_again_to_see_what_has_changed(cause, store, follow, rollout):
    counts = {"1.0.0": {"pho": 900, "ramen": 100}, "1.1.0": {"pho": 0, "ramen": 0}}

    def figures(classes):
        number = sum(classes.values())
        answers = {"classes": dict(classes), "unsure": 0, "probabilities": {"0.5": 0, "0.9": number}, "probability": 0.8 * number}
        return {"outcomes": {"answered": number}, "seconds": {}, "answers": answers}

    def state_of(document):
        # from the rollout on people send other photos, or the new version calls all of them ramen
        default = document["default"]
        label = "ramen" if document["stage"] == "baking" and (cause == "the photos" or default == "1.1.0") else "pho"
        counts[default][label] += 100
        found = {"figures": {version: figures(classes) for version, classes in counts.items()}}
        return found | {"shadow": golden_alone(document)}

    follow(state_of)
    status, steps, error = rollout("start", "1.1.0", "--bake", "2")
    names = [step["step"] for step in steps]
    assert "serving the old version again, to see whether the photos have changed" in names, error
    if cause == "the photos":
        assert status == 0, error
        assert "the photos have changed, not the answers" in names
        assert stages(store)[-4:] == [("baking", "1.1.0"), ("baking", "1.0.0"), ("baking", "1.1.0"), ("released", "1.1.0")]
    else:
        assert status == 1
        assert "then 1.0.0 was served again: it calls 0 % pho, 100 % before; it calls 100 % ramen, 0 % before" in error
        assert stages(store)[-3:] == [("baking", "1.1.0"), ("baking", "1.0.0"), ("released", "1.0.0")]


def test_report_of_another_document_confirms_nothing(store, follow, rollout):
    follow(lambda document: {"shadow": asked("pho", "ramen") | {"release": "of another one"}} if "shadow" in document else {})
    status, steps, error = rollout("start", "1.1.0")
    assert status == 1
    (compared,) = [step for step in steps if step["step"] == "compared by the same photos"]
    assert compared["found"] == "no server has asked both versions the same photos"
    assert "not judged" in error


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "by itself"])
@pytest.mark.parametrize("when", ["before it is watched", "while it is watched"])
def test_version_that_hung_is_undone_even_if_it_answers_again(when, restarted, store, follow, rollout):
    baking_since = []

    def state_of(document):
        if document["default"] == "1.0.0":
            return {}
        baking_since.append(time.monotonic())
        hangs_s = (0, 2) if when == "before it is watched" else (0.2, 2)  # the watch takes 0.3 s
        age_s = time.monotonic() - baking_since[0]
        if hangs_s[0] <= age_s < hangs_s[1]:
            return {"ready": False, "why": "requests wait"}
        return {"worker_restarts": {"1.1.0": int(restarted and age_s >= hangs_s[1])}}

    follow(state_of)
    status, _, error = rollout("start", "1.1.0")
    assert status == 1
    worse, again = error.splitlines()
    assert worse.startswith("error: 1.1.0 is worse: ")
    assert worse.endswith("a was not ready: requests wait")
    assert again == "1.0.0 is served again"
    assert stages(store)[-1] == ("released", "1.0.0")
