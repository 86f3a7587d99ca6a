"""TorchServe's management API through the door: what a program on this machine may ask, and what nobody may."""

import httpx
import pytest

from scripts.door.api.management import Management, ManagementLimits
from tests.conftest import LIMIT_S
from tests.door.asking import ask

PORT = 8081
HOST = {"host": f"localhost:{PORT}"}


@pytest.fixture
def manage(tmp_path):
    """Ask the API, before a TorchServe that is not there: what is passed on to it is answered 503. Its metrics are `counted 1`."""

    def ask_it(method, path, token="", **options):
        app = Management(f"unix:{tmp_path / 'nobody'}", PORT, lambda: b"counted 1\n", ManagementLimits(token))

        async def once(scope, receive, send):
            try:
                await app(scope, receive, send)
            finally:
                await app.close()

        options["headers"] = HOST | dict(options.get("headers", {}))
        return ask(once, method, path, **options)

    return ask_it


def is_error(answer, status):
    content = answer.json()
    assert (answer.status_code, content["code"]) == (status, status), content
    assert content["request_id"] == answer.headers["x-request-id"]
    return True


PASSED = 503  # to a TorchServe that is not there


@pytest.mark.parametrize("host", ["localhost:8081", "127.0.0.1:8081", "[::1]:8081", "LOCALHOST:8081"])
def test_this_machine_may_ask(manage, host):
    assert is_error(manage("GET", "/models", headers={"host": host}), PASSED)
    assert is_error(manage("GET", "/models", headers={"host": host, "origin": f"http://{host}"}), PASSED)


@pytest.mark.parametrize(
    "host", ["evil.example:8081", "localhost", "localhost:8080", "localhost:8081.evil.example", "192.0.2.1:8081", ""]
)
@pytest.mark.parametrize("path", ["/models", "/metrics", "/nowhere"])
def test_name_that_leads_here_is_refused(manage, host, path):
    assert is_error(manage("GET", path, headers={"host": host}), 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://localhost:8081"},
        {"sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/models?url=seefood.mar"), ("GET", "/metrics")])
def test_page_of_another_site_is_refused(manage, headers, method, path):
    assert is_error(manage(method, path, headers=headers), 403)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_metrics_need_no_token(manage, method):
    answer = manage(method, "/metrics", token="secret")
    assert (answer.status_code, answer.headers["content-length"]) == (200, "10")
    assert answer.headers["content-type"].startswith("text/plain")


def test_metrics_take_no_other_method(manage):
    answer = manage("POST", "/metrics")
    assert is_error(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


def test_token_is_needed_if_one_is_set(manage):
    answer = manage("GET", "/models", token="secret")
    assert is_error(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert is_error(manage("GET", "/models", token="secret", headers={"authorization": "Bearer wrong"}), 401)
    assert is_error(manage("GET", "/models", token="secret", headers={"authorization": "bearer secret"}), PASSED)


@pytest.mark.parametrize(
    "url",
    [
        *("http://evil.example/a.mar", "file:///tmp/a.mar", "/tmp/folder", "../a.mar", "a/../b.mar", "a/b", "..", ".", ".hidden"),
        *("s3://bucket/a.mar", "a\\b", "a%2fb", "a..b", "a b", "\u0430.mar", "a.mar\n"),
    ],
)
def test_only_names_in_the_model_store_are_loaded(manage, url):
    assert manage("POST", "/models", params={"url": url}).status_code in (400, 403)
    assert manage("POST", "/models", json={"url": url}).status_code in (400, 403)
    assert manage("POST", "/models?url=good.mar", json={"url": url}).status_code in (400, 403)
    assert manage("POST", "/models", params=[("url", "good.mar"), ("url", url)]).status_code in (400, 403)


@pytest.mark.parametrize(
    "options", [{"params": {"url": "a.mar"}}, {"json": {"url": "a.mar", "synchronous": True, "batch_size": 4}}]
)
def test_names_in_the_model_store_are_passed_on(manage, options):
    assert is_error(manage("POST", "/models", **options), PASSED)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"params": {"name": "a"}}, 400),
        ({"json": {"url": ["a.mar"]}}, 400),
        ({"json": ["a.mar"]}, 400),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"data": {"url": "a.mar"}}, 415),
        ({"content": b"a" * 70_000}, 413),
        ({}, 400),
    ],
)
def test_registration_that_cannot_be_is_refused(manage, options, status):
    assert is_error(manage("POST", "/models", **options), status)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/workflows",
        "/token",
        "/models/",
        "/models/a/b/c",
        "/models/a//set-default",
        "/models/%2e%2e",
        "/models/%2e%2e/b",
        "//models",
    ],
)
def test_what_the_api_does_not_have_is_404(manage, path):
    assert is_error(manage("GET", path), 404)


def test_other_methods_are_405_with_allow(manage):
    answer = manage("PATCH", "/models/seefood")
    assert is_error(answer, 405)
    assert answer.headers["allow"] == "DELETE, GET, PUT"


@pytest.mark.server
def test_torchserve_is_managed_through_the_door(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port + 1}", timeout=LIMIT_S, trust_env=False) as client:
        assert [model["modelName"] for model in client.get("/models").json()["models"]] == ["seefood"]
        described = client.get("/models/seefood/0.5.0", params={"customized": "true"}).json()[0]
        assert described["customizedMetadata"]["version"] == "0.5.0"
        assert client.put("/models/seefood/0.5.0/set-default").status_code == 200
        missing = client.get("/models/other")
        assert (missing.status_code, missing.json()["type"]) == (404, "ModelNotFoundException")
        assert missing.json()["request_id"] == missing.headers["x-request-id"]
        refused = client.post("/models", params={"url": "not-there.mar", "synchronous": "true"})
        assert 400 <= refused.status_code < 500
        assert client.post("/models", params={"url": "/tmp"}).status_code == 403
        assert client.get("/models", headers={"host": "evil.example"}).status_code == 421
