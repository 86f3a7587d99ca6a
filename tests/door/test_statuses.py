"""Each status of the README's table, as a client meets it: doors with settings of their own in front of one real TorchServe."""

import json

import pytest

from handler.captured import ANSWER, FEEDBACK, key_of, place_of
from scripts.door.access.keys import new_key
from scripts.door.api.statuses import STATUSES
from tests.door.own_door import STATE, door, sockets_of
from tests.door.raw import request
from tests.door.stand_in import RAISED, answering

pytestmark = pytest.mark.server
PATH = "/predictions/seefood"


@pytest.fixture(scope="module")
def sockets(server):
    return sockets_of(server.port)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key, and the file that holds it."""
    key, line = new_key("kitchen")
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(line + "\n")
    return key, file


@pytest.fixture(scope="module")
def seen(sockets, photo, keys, tmp_path_factory):
    """By status, an answer of it."""
    answers = {}
    with door(sockets, request_head_s=1, heat_maps=0) as one:
        answers[503] = one.ask(request(PATH, photo))  # serve has told nothing yet
        one.tell(STATE)
        answers |= {status: one.ask(sent) for status, sent in asked(photo).items()}
        answers[421] = one.ask(b"GET /models HTTP/1.1\r\nhost: example.org\r\n\r\n", one.port + 1)
    key, file = keys
    with door(sockets, api_keys=file, rate_per_key=0.1) as one:
        one.tell(STATE)
        answers[401] = one.ask(request(PATH, photo))
        for _ in range(2):
            answers[429] = one.ask(request(PATH, photo, {"x-api-key": key}))
    folder = tmp_path_factory.mktemp("captured")
    path = place_of(folder, key_of("a")) / f"1-{key_of('a')}{ANSWER}"
    path.parent.mkdir()
    path.write_text(json.dumps({"id": "a", "model": "seefood", "version": "1", "labels": []}))
    path.with_suffix(FEEDBACK).mkdir()  # so that no file can be
    with door(sockets, capture_share=1, capture_dir=folder) as one:
        one.tell(STATE)
        answers[507] = one.ask(request("/feedback", b'{"id": "a", "label": null}', {"content-type": "application/json"}))
    with answering(tmp_path_factory.mktemp("s"), lambda photo: RAISED) as backend, door(backend) as one:
        one.tell(STATE)
        answers[500] = one.ask(request(PATH, photo))
    return answers


def asked(photo: bytes) -> dict[int, bytes]:
    """By status, a request that is answered with it."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\n".encode()
    return {
        200: request(PATH, photo),
        400: request(PATH, b""),
        403: request("/explanations/seefood", photo),
        404: request("/predictions/nothing", photo),
        405: request(PATH, method="GET"),
        408: head,
        411: head + b"\r\n",
        413: head + b"content-length: 40000000\r\n\r\n" + bytes(29 * 1024 * 1024),
        414: b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        415: request(PATH, b"no photo at all"),
        417: head + b"expect: wonders\r\n\r\n",
        422: request(PATH, photo[: len(photo) // 3]),
        431: head + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
        501: b"BREW /tea HTTP/1.1\r\nhost: a\r\n\r\n",
        505: b"GET / HTTP/3.0\r\nhost: a\r\n\r\n",
    }


def test_each_status_is_answered_by_a_request(seen):
    assert set(seen) == set(STATUSES)
    assert {status: answer.status for status, answer in seen.items()} == {status: status for status in STATUSES}


def test_each_error_has_the_one_form(seen):
    for status, answer in seen.items():
        if status != 200:
            error = answer.json()
            assert (error["code"], error["request_id"]) == (status, answer.headers["x-request-id"])
            assert error["message"]
            assert error["type"].endswith("Error")


def test_who_shall_come_again_is_told_when(seen):
    assert all(int(seen[status].headers["retry-after"]) >= 1 for status in (429, 503))
    assert set(seen[405].headers["allow"].split(", ")) == {"POST", "PUT"}
