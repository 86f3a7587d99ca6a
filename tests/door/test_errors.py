"""Whatever a request is, an error is our JSON with the request's id: over all routes and what parts of Starlette could answer."""

import pytest

from scripts.door.access.guard import Access
from scripts.door.access.rates import RateLimits
from scripts.door.state import State
from tests.door.asking import ask
from tests.door.test_openapi import routes_of
from tests.door.without_server import application

STATE = State(models={"seefood": {"default": "1.0.0", "versions": {"1.0.0": {}}}})
ORIGIN = "https://a.example"
ROUTES = sorted({route.path for route in routes_of(application(STATE))} | {"/nowhere", "/docs/", "/predictions/seefood/", "//"})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FIELDS = {
    "range without a unit": {"range": "a"},
    "range of another unit": {"range": "pages=1-2"},
    "range without an end": {"range": "bytes=x-y"},
    "range behind the end": {"range": "bytes=99999999-"},
    "ranges": {"range": "bytes=0-1,5-6,99999999-"},
    "conditions": {
        "if-none-match": "*",
        "if-modified-since": "Mon, 01 Jan 2035 00:00:00 GMT",
        "if-match": '"x"',
        "if-range": '"x"',
    },
    "accept nothing": {"accept": "nothing/atall;q=0", "accept-encoding": "identity;q=0", "accept-charset": "x"},
    "preflight of a stranger": {"origin": "https://evil.example", "access-control-request-method": "POST"},
    "preflight of nothing": {"origin": ORIGIN, "access-control-request-method": "TRACE", "access-control-request-headers": "x-a"},
    "form without a boundary": {"content-type": "multipart/form-data"},
    "compression that is none": {"content-encoding": "br"},
    "lengths that are none": {"inference-header-content-length": "-1"},
}


def check(answer, method):
    """An error is our JSON; what is none is whole, and bears the id, too."""
    assert answer.headers["x-request-id"] == "test-id"
    if answer.status_code < 400:
        assert answer.status_code == 200, "nothing here is answered in part, or not at all"
        return
    assert answer.headers["content-type"] == "application/json"
    if method != "HEAD":
        content = answer.json()
        # what a health path answers is no error: it has a form of its own
        if not {"live", "ready"} & set(content):
            assert (content["code"], content["request_id"]) == (answer.status_code, "test-id"), content
            assert content["type"]
            assert content["message"]


@pytest.fixture(scope="module", params=["for all", "for few"])
def app(request, tmp_path_factory):
    if request.param == "for all":
        return application(STATE)
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("")
    return application(STATE, Access(keys, (ORIGIN,), RateLimits(per_address=1e-3)))


@pytest.mark.parametrize("fields", FIELDS)
def test_every_error_is_our_json_with_the_requests_id(app, fields):
    for path in ROUTES:
        for method in METHODS:
            check(ask(app, method, path, headers=FIELDS[fields], content=b"body"), method)
