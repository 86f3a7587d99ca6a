"""What the door counts as answered, failed and shed: our faults apart from clients' and from too much at a time."""

import ast

import pytest

from scripts.door.metrics import SHED, Metrics, outcome_of
from scripts.door.state import State
from scripts.door.times import Times
from tests.conftest import ROOT
from tests.door.asking import ask
from tests.door.without_server import application, predictions

MODELS = {"seefood": {"default": "1.0.0", "versions": {"1.0.0": {}}}}
SCOPE = {"method": "POST", "path": "/predictions/seefood", "state": {}}
TWO_PHOTOS = {"files": [("a", b"one"), ("b", b"two")]}


def counted(app):
    """{(outcome, cause): count}"""
    found = {}
    for family in app.app.door.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "seefood_door_outcomes_total" and sample.value:
                found[sample.labels["outcome"], sample.labels["cause"]] = sample.value
    return found


@pytest.mark.parametrize(
    ("status", "kind", "outcome"),
    [
        (200, "", "answered"),
        (500, "ModelError", "failed"),
        (500, "InternalError", "failed"),
        (503, "UnavailableError", "failed"),
        (0, "", "failed"),
        (503, "BusyError", "shed"),
        (503, "PhotoError", "shed"),
        (503, "RequestError", "shed"),
        (422, "PhotoError", ""),
        (404, "NotFoundError", ""),
        (429, "RateError", ""),
        (499, "", ""),
    ],
)
def test_outcome_of_a_photo(status, kind, outcome):
    assert outcome_of("POST", status, kind) == outcome_of("PUT", status, kind) == outcome
    assert outcome_of("GET", status, kind) == ("failed" if status == 500 else "")


@pytest.mark.parametrize("path", ["/predictions/seefood", "/v2/models/seefood/infer", "/v1/models/seefood:predict", "/invocations"])
def test_photo_without_a_worker_fails_whatever_the_protocol(path):
    body = {
        "/v2/models/seefood/infer": {
            "json": {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["/9j/4AAQSkZJRg=="]}]}
        },
        "/v1/models/seefood:predict": {"json": {"instances": [{"b64": "/9j/4AAQSkZJRg=="}]}},
    }.get(path, {"content": b"a photo"})
    app = application(State(ready=True, models=MODELS))
    assert ask(app, "POST", path, **body).status_code == 503
    assert counted(app) == {("failed", "UnavailableError"): 1}


def test_upload_without_room_is_shed():
    app = application(State(ready=True, models=MODELS))
    app.app.door.predictions.bytes_in_flight.limit = 0
    answer = ask(app, "POST", "/predictions/seefood", content=b"a photo")
    assert (answer.status_code, answer.json()["type"]) == (503, "BusyError")
    assert counted(app) == {("shed", "BusyError"): 1}


def test_fault_of_the_door_itself_fails():
    app = application(State(ready=True, models={"seefood": {}}))
    with pytest.raises(KeyError):  # for the server, which logs it; the client has its answer
        ask(app, "POST", "/predictions/seefood", content=b"a photo")
    assert counted(app) == {("failed", "InternalError"): 1}


def test_clients_faults_and_health_checks_count_as_nothing():
    app = application(State(ready=False, why="starting", models=MODELS))
    for path in ("/readyz", "/ping", "/v2/health/ready", "/v2/models/seefood/ready", "/v1/models/seefood"):
        assert ask(app, "GET", path).status_code == 503
    for path, body, status in (
        ("/predictions/seefood", TWO_PHOTOS, 400),
        ("/predictions/nothing", {"content": b"a"}, 404),
        ("/nowhere", {"content": b"a"}, 404),
        ("/readyz", {"content": b"a"}, 405),
    ):
        assert ask(app, "POST", path, **body).status_code == status
    assert counted(app) == {}


def samples(metrics):
    return {(one.name, *one.labels.values()): one.value for family in metrics.registry.collect() for one in family.samples}


def test_each_cause_is_shown_as_0_before_its_first_photo():
    """Also those of errors that are raised elsewhere: increase() does not see the value with which a series begins."""
    before = samples(Metrics())
    for outcome, causes in {"answered": {""}, "shed": SHED, "failed": {""} | raised_kinds() - set(SHED)}.items():
        for cause in causes:
            assert before["seefood_door_outcomes_total", outcome, cause] == 0


def raised_kinds():
    """The "type" of each DoorError of 500 or 503 that the door's code raises; not of feedback, which brings no photo."""
    kinds = set()
    for path in set((ROOT / "scripts" / "door").rglob("*.py")) - {ROOT / "scripts" / "door" / "feedback.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DoorError" and len(node.args) > 2:
                status, kind = node.args[1:3]
                if isinstance(status, ast.Constant) and status.value in (500, 503):
                    kinds.add(kind.value)
    assert len(kinds) > 3
    return kinds


@pytest.mark.parametrize(("body_s", "total_s", "expected"), [(20, 20.3, "0.5"), (0.1, 3.1, "5.0"), (0.1, 0.1, "0.005")])
def test_answer_seconds_begin_with_the_whole_body(body_s, total_s, expected):
    metrics, times = Metrics(), Times(started=100, body_s=body_s, answered=100 + total_s, ended=900)
    metrics.answered(SCOPE, 200, 10, times)
    buckets = [le for name, *le in samples(metrics) if name.endswith("answer_seconds_bucket") and samples(metrics)[name, *le]]
    assert buckets[0] == [expected]


@pytest.mark.parametrize("times", [Times(), Times(answered=5.0), Times(body_s=1.0)])
def test_what_brings_no_photos_or_gets_no_answer_has_no_answer_seconds(times):
    metrics = Metrics()
    metrics.answered(SCOPE, 200, 10, times)
    assert samples(metrics)["seefood_door_answer_seconds_count",] == 0


def test_bytes_that_are_held_are_shown():
    state = State()
    way = predictions(state)
    way.bytes_in_flight._held["seefood"] = 1234
    assert samples(way.metrics)["seefood_door_bytes_in_flight",] == 1234
