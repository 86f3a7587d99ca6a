"""The door before a real TorchServe: every form over the wire, alone and behind another request; and what happens behind it."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import LIMIT_S, SHARED
from tests.door.raw import Answer, read_answer, request
from tests.waiting import until

pytestmark = pytest.mark.server
FIELD = SHARED / "data" / "field_inputs"
MULTIPART = {"content-type": "multipart/form-data; boundary=XX"}
JSON = {"content-type": "application/json"}
# what the list beside the inputs says, where several answers are right the one that we give; and a word of an error's message
FORMS = {
    "forms/form_ok.bin": (MULTIPART, 200, ""),
    "forms/form_cte_base64.bin": (MULTIPART, 200, ""),
    "forms/form_cte_quoted_printable.bin": (MULTIPART, 415, "image"),
    "forms/form_filename_star_charset.bin": (MULTIPART, 200, ""),
    "forms/form_unknown_charset.bin": (MULTIPART, 200, ""),
    "forms/form_attachment.bin": (MULTIPART, 400, "Content-Disposition"),
    "forms/form_no_disposition.bin": (MULTIPART, 400, "Content-Disposition"),
    "forms/form_no_name.bin": (MULTIPART, 400, "name"),
    "forms/form_part_length_wrong.bin": (MULTIPART, 400, "Content-Length"),
    "json/json_with_bom.json": (JSON, 200, ""),
    "json/json_utf16.json": ({"content-type": "application/json; charset=utf-16"}, 200, ""),
    "json/json.json.gz": (JSON | {"content-encoding": "gzip"}, 200, ""),
    "photos/ok.jpg": ({}, 200, ""),
    "photos/eoi_missing.jpg": ({}, 200, ""),
    "photos/intact.jxl": ({}, 415, "JPEG XL"),
}


def check(answer: Answer, status: int, word: str) -> None:
    assert answer.status == status, answer
    if status == 200:
        assert answer.json()["predictions"]
    else:
        assert word in answer.json()["message"]
        assert answer.json()["code"] == status
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.skipif(not FIELD.exists(), reason="the inputs of ../shared are not here")
@pytest.mark.parametrize("name", FORMS)
def test_inputs_from_the_field_alone_and_pipelined(server, photo, name):
    headers, status, word = FORMS[name]
    odd = request("/predictions/seefood", (FIELD / name).read_bytes(), headers)
    good = request("/predictions/seefood?top_k=1", photo)
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as connection:
        connection.sendall(odd)
        with connection.makefile("rb") as stream:
            check(read_answer(stream), status, word)
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as connection:
        connection.sendall(good + odd + good)
        with connection.makefile("rb") as stream:
            assert len(read_answer(stream).json()["predictions"]) == 1
            check(read_answer(stream), status, word)
            # what a refused body has left does not harm what follows
            assert len(read_answer(stream).json()["predictions"]) == 1


def test_answers_come_in_the_order_of_the_requests(server, photo):
    sent = b"".join(
        [request("/predictions/seefood", photo), request("/readyz", method="GET"), request("/nowhere", method="GET")] * 3
    )
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as stream:
            answers = [read_answer(stream) for _ in range(9)]
    assert [answer.status for answer in answers] == [200, 200, 404] * 3
    assert ["predictions" in answer.json() for answer in answers] == [True, False, False] * 3


UNROUTED = {
    "a model that is not there": ("POST", "/predictions/nothing", 404, "nothing"),
    "a version that is not there": ("POST", "/predictions/seefood/9.9.9", 404, "9.9.9"),
    "a path that is not there": ("GET", "/models", 404, "/models"),
    "a method that a path has not": ("DELETE", "/predictions/seefood", 405, "DELETE"),
    "a photo for health": ("POST", "/readyz", 405, "POST"),
}


@pytest.mark.parametrize("what", UNROUTED)
def test_what_is_not_there_is_named(server, photo, what):
    method, path, status, word = UNROUTED[what]
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", content=photo, timeout=LIMIT_S)
    assert answer.status_code == status
    assert word in answer.json()["message"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert "DELETE" not in answer.headers["allow"]


def test_times_and_ids_come_with_an_answer(server, photo):
    answer = httpx.post(server.url, content=photo, headers={"x-request-id": "mine-1"}, timeout=LIMIT_S)
    assert answer.headers["x-request-id"] == "mine-1"
    parts = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert set(parts) >= {"body", "queue", "decode", "inference", "total"}
    assert float(parts["total"]) >= float(parts["inference"]) > 0


@pytest.mark.slow
def test_worker_that_ends_under_requests_costs_none_of_them(server, photo):
    stop, statuses = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(httpx.post(server.url, content=photo, timeout=LIMIT_S).status_code)

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        try:
            until(lambda: len(statuses) >= 20)
            server.part("worker").kill()
            so_far = len(statuses)
            until(lambda: len(statuses) >= so_far + 40)
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert set(statuses) == {200}


@pytest.mark.slow
def test_backend_that_is_gone_is_a_503_at_once_and_comes_back(server, photo):
    server.part("JVM").kill()
    seen = set()

    def is_back():
        answer = httpx.post(server.url, content=photo, timeout=LIMIT_S)
        seen.add(answer.status_code)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["type"] == "UnavailableError"
        return answer.status_code == 200 and 503 in seen

    until(is_back, lambda: seen)
    assert seen <= {200, 503}
    server.wait_ready()


def test_clients_that_hang_up_leave_no_work_behind(server, photo):
    worker = server.part("worker")
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for _ in range(60):
            connection = socket.create_connection(("127.0.0.1", server.port), LIMIT_S)
            connection.sendall(request("/predictions/seefood", photo))
            connection.close()
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert httpx.post(server.url, content=photo, timeout=LIMIT_S).status_code == 200
    assert json.loads(httpx.get(f"http://127.0.0.1:{server.port}/readyz", timeout=LIMIT_S).text)["ready"]
