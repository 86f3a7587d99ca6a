"""What the door counts as answered, failed and shed: our faults apart from clients' and from too much at a time."""

import pytest

from scripts.door.metrics import outcome_of
from scripts.door.state import State
from tests.door.asking import ask
from tests.door.without_server import application

MODELS = {"seefood": {"default": "1.0.0", "versions": {"1.0.0": {}}}}
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
