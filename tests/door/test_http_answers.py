"""Answers as the client sees them: their order, their ends, and bodies that nobody read."""

import pytest

from tests.door.http_client import GOOD, serve
from tests.waiting import until

HOST = b"Host: a\r\n"


@pytest.fixture(scope="module")
def served():
    with serve() as served:
        yield served


def request(method, target, *fields, body=b"", version=b"1.1"):
    lines = b"".join(field + b"\r\n" for field in fields)
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + HOST + lines + b"\r\n" + body


def test_answers_keep_the_order_of_requests(served):
    with served.connect() as client, served.connect() as other:
        client.send(request(b"POST", b"/hold", b"Content-Length: 3", body=b"abc") + GOOD + request(b"GET", b"/last"))
        assert other.ask(request(b"GET", b"/free")).status == 200
        assert [client.answer().json()["path"] for _ in range(3)] == ["/hold", "/good", "/last"]


def test_requests_behind_a_last_one_are_not_answered(served):
    with served.connect() as client:
        assert client.ask(request(b"GET", b"/a", b"Connection: close") + GOOD).header("connection") == "close"
        assert client.is_closed()


def test_many_requests_at_once_are_answered_in_order(served):
    paths = [f"/{number}" for number in range(3000)]
    with served.connect() as client:
        client.send(b"".join(request(b"GET", path.encode()) for path in paths))
        assert [client.answer().json()["path"] for _ in paths] == paths


def test_head_has_the_headers_of_get_and_no_body(served):
    with served.connect() as client:
        whole, head = client.ask(request(b"GET", b"/big?100")), client.ask(request(b"HEAD", b"/big?100"))
        assert (len(whole.body), head.body, head.header("content-length")) == (100, b"", "100")
        assert {name for name, _ in head.headers} == {name for name, _ in whole.headers}
        assert client.ask(GOOD).status == 200


def test_refused_head_request_gets_no_body(served):
    with served.connect() as client:
        assert client.ask(b"HEAD / HTTP/1.1\r\n\r\n").status == 400
        assert client.is_closed()


def test_answer_without_a_length_is_chunked_and_ends_the_connection_of_an_old_client(served):
    with served.connect() as client:
        answer = client.ask(request(b"GET", b"/parts"))
        assert (answer.body, answer.header("transfer-encoding")) == (b"onetwo", "chunked")
        old = client.ask(request(b"GET", b"/parts", b"Connection: keep-alive", version=b"1.0"))
        assert (old.body, old.header("transfer-encoding"), old.header("connection")) == (b"onetwo", None, "close")


def test_keep_alive_of_http_1_0_is_answered(served):
    with served.connect() as client:
        for _ in range(2):
            assert client.ask(request(b"GET", b"/", b"Connection: keep-alive", version=b"1.0")).header("connection") == "keep-alive"


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body_has_none(served, status):
    with served.connect() as client:
        answer = client.ask(request(b"GET", b"/status?%d" % status))
        assert answer.status == status
        assert (answer.header("content-length") is None) == (status == 204)
        assert client.ask(GOOD).json()["path"] == "/good"


def test_absolute_target_counts_instead_of_the_host_field(served):
    with served.connect() as client:
        seen = client.ask(b"GET http://b.example:8080/p%C3%A4th?q=1 HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n").json()
        assert (seen["path"], seen["query"]) == ("/päth", "q=1")
        assert seen["headers"] == [["host", "b.example:8080"], ["a", "b"]]


def test_trailers_are_no_headers(served):
    body = b"3\r\nabc\r\n0\r\nX-Top-K: 3\r\nAuthorization: b\r\n\r\n"
    with served.connect() as client:
        seen = client.ask(request(b"POST", b"/", b"Transfer-Encoding: chunked", body=body)).json()
        assert seen["length"] == 3
        assert [name for name, _ in seen["headers"]] == ["host", "transfer-encoding"]


def test_upgrade_is_ignored_and_the_body_is_read(served):
    with served.connect() as client:
        ask = request(b"POST", b"/", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"Content-Length: 3", body=b"abc")
        assert client.ask(ask).json()["length"] == 3
        assert client.ask(GOOD).json()["path"] == "/good"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-123", True), (b"a" * 128, True), (b"a" * 129, False), (b"a b", False), (b"", False), (b'a"b', False), (b"\xe4", False)],
)
def test_id_of_a_request_is_the_clients_own_if_it_is_a_sane_one(served, given, kept):
    with served.connect() as client:
        answer = client.ask(request(b"GET", b"/", b"X-Request-Id: " + given))
        assert answer.header("x-request-id") == answer.json()["request_id"]
        assert (answer.header("x-request-id").encode() == given) == kept
        refused = client.ask(request(b"GET", b"/", b"X-Request-Id: " + given, HOST.strip()))
        assert (refused.header("x-request-id").encode() == given) == kept


def test_answer_that_breaks_off_has_no_end(served):
    with served.connect() as client:
        client.send(request(b"GET", b"/half"))
        received = client.file.read()
        assert received.endswith(b"3\r\nabc\r\n")


def test_id_that_the_application_sets_is_there_once(served):
    with served.connect() as client:
        assert client.ask(request(b"GET", b"/status?200")).header("x-request-id") == "of-the-app"


def test_fault_of_the_application_is_a_500_in_json(served, caplog):
    with served.connect() as client:
        for path in (b"/fault", b"/wrong", b"/short"):
            assert client.ask(request(b"GET", path)).json()["code"] == 500
        assert client.ask(GOOD).status == 200
    assert "ZeroDivisionError" in caplog.text


# --- 100-continue ---

EXPECTS = (b"Expect: 100-continue", b"Content-Length: 3")


def test_client_that_waits_is_told_to_continue(served):
    with served.connect() as client:
        assert client.ask(request(b"POST", b"/", *EXPECTS)).status == 100
        assert client.ask(b"abc").json()["length"] == 3
        assert client.ask(GOOD).status == 200


def test_final_answer_instead_of_continue_ends_the_connection(served):
    with served.connect() as client:
        answer = client.ask(request(b"POST", b"/early", *EXPECTS))
        assert (answer.status, answer.header("connection")) == (413, "close")
        assert client.is_closed()


def test_request_without_a_body_is_not_told_to_continue(served):
    with served.connect() as client:
        assert client.ask(request(b"GET", b"/", b"Expect: 100-continue")).status == 200


def test_old_client_is_not_told_to_continue(served):
    with served.connect() as client:
        assert client.ask(request(b"POST", b"/", *EXPECTS, body=b"abc", version=b"1.0")).status == 200


# --- bodies that the application does not read ---


def test_short_body_is_read_past(served):
    with served.connect() as client:
        client.send(request(b"POST", b"/early", b"Content-Length: 1000", body=bytes(500)))
        assert client.answer().status == 413
        client.send(bytes(500))
        assert client.ask(GOOD).json()["path"] == "/good"


@pytest.mark.parametrize("framing", [b"Content-Length: 31000000", b"Transfer-Encoding: chunked"])
def test_client_that_sends_a_long_body_to_its_end_sees_the_early_answer(served, framing):
    """nginx and many clients read only when they have sent everything: a reset would hide the answer."""
    piece = bytes(62000) if framing.startswith(b"Content") else b"F230\r\n" + bytes(62000) + b"\r\n"
    with served.connect() as client:
        client.send(request(b"POST", b"/early", framing))
        for _ in range(500):
            client.send(piece)
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (413, "close")
        assert client.is_closed()


def test_long_body_arrives_whole(served):
    with served.connect() as client:
        assert (
            client.ask(request(b"POST", b"/", b"Content-Length: 28000000", body=bytes(28_000_000))).json()["length"] == 28_000_000
        )
        chunks = (b"1000\r\n" + bytes(4096) + b"\r\n") * 2000 + b"0\r\n\r\n"
        assert client.ask(request(b"POST", b"/", b"Transfer-Encoding: chunked", body=chunks + GOOD)).json()["length"] == 4096 * 2000
        assert client.answer().json()["path"] == "/good"


def test_malformed_body_is_told_to_the_client_and_to_the_application(served):
    with served.connect() as client:
        client.send(request(b"POST", b"/broken", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\nxyz"))
        assert client.answer().status == 400
        assert client.is_closed()
    until(lambda: "/broken" in served.app.gone)
