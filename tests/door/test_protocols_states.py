"""What the protocols of others say of a server that is not ready, or serves nothing yet."""

import pytest

from scripts.door.state import State
from tests.door.asking import ask
from tests.door.without_server import application

MODELS = {"seefood": {"default": "1.0.0", "versions": {"1.0.0": {}}}}


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/seefood/ready", "/v1/models/seefood", "/ping"])
def test_not_ready_is_503(path):
    answer = ask(application(State(ready=False, why="a test says so", models=MODELS)), "GET", path)
    assert answer.status_code == 503
    assert "a test says so" in answer.text
    assert ask(application(State(ready=True, models=MODELS)), "GET", path).status_code == 200


def test_ping_says_unhealthy_in_our_form():
    content = ask(application(State()), "GET", "/ping").json()
    assert (content["status"], content["code"], content["request_id"]) == ("Unhealthy", 503, "test-id")


@pytest.mark.parametrize("path", ["/v2/models/seefood", "/v1/models/seefood:predict", "/invocations"])
def test_without_a_model_yet_503_with_retry_after(path):
    answer = ask(application(State(ready=False, why="starting")), "GET" if "v2" in path else "POST", path, content=b"a")
    assert (answer.status_code, answer.json()["type"]) == (503, "UnavailableError")
    assert answer.headers["retry-after"]
    assert ("error" in answer.json()) == ("v2" in path)


def test_several_models_need_a_target():
    models = MODELS | {"flowers": MODELS["seefood"]}
    answer = ask(application(State(ready=True, models=models)), "POST", "/invocations", content=b"a")
    assert answer.status_code == 400
    assert "flowers, seefood" in answer.json()["message"]
