"""Answers of a server, as it is on the network: busy, gone for a while, refusing, changing its version."""

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.door.http.tls import make_self_signed
from scripts.predict import server as server_module
from scripts.predict.photo import LocalPhoto, PredictError
from scripts.predict.server import AT_A_TIME, Server
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.predict.test_tables import answered
from tests.serving.server import serving_starter


class Scripted(ThreadingHTTPServer):
    """Answers photo `body` by what `script` returns for (body, how often it came): (status, headers, content)."""

    daemon_threads = True

    def __init__(self, script, port=0):
        self.script, self.asked, self.requests, self.now, self.most = script, {}, [], 0, 0
        models = [{"name": "model", "schema": {"enum": ["food"]}}]
        self.pages = {  # by path: (status, content), one after the other, the last one for good
            "/openapi.json": [(200, {"paths": {"/predictions/{model}": {"post": {"parameters": models}}}})],
            "/readyz": [(200, {"ready": True, "version": "1.0.0"})],
            "/v1/models": [(200, {"models": ["food"]})],
        }
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Answering)

    def handle_error(self, request, client_address):
        """A client that went away: nothing to print."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, server = self.rfile.read(int(self.headers["content-length"])).decode("latin-1"), self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            server.asked[body] = server.asked.get(body, 0) + 1
            server.requests.append((self.path, dict(self.headers)))
        status, headers, content = server.script(body, server.asked[body])
        with server.lock:
            server.now -= 1
        self.answer(status, headers, content)

    def do_GET(self):
        answers = self.server.pages.get(self.path.removeprefix("/below"), [(404, {"message": "none"})])
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.answer(status, {}, content)

    def answer(self, status, headers, content):
        if status is None:
            self.close_connection = True
            return
        data = json.dumps(content).encode() if not isinstance(content, bytes) else content
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(script, port=0):
    with Scripted(script, port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fine(body, times):
    answer = answered(body)
    del answer["photo"]
    return 200, {}, answer


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(100)]
    for path in paths:
        path.write_text(path.name)
    return [LocalPhoto(path) for path in paths]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(server_module, "PAUSE_S", 0.01)


def ask(server, photos, url="", version=None):
    return list(Server(url or server.url, None if server else "food", version).answers(iter(photos)))


def test_rows_come_in_the_order_of_the_photos_and_few_requests_at_a_time(photos):
    def slow(body, times):
        time.sleep(0.001 * (hash(body) % 10))
        return fine(body, times)

    with serving(slow) as server:
        rows = ask(server, photos)
        assert [row["photo"] for row in rows] == [photo.name for photo in photos]
        assert 1 < server.most <= AT_A_TIME
        assert {path for path, _ in server.requests} == {"/predictions/food"}
        server.requests.clear()
        ask(server, photos[:1], f"{server.url}/below/", version="1.1.0")
        assert server.requests[0][0] == "/below/predictions/food/1.1.0"
        assert Server(server.url, None, None).identity == {"url": server.url, "model": "food", "version": "1.0.0"}


def test_a_server_that_is_busy_for_a_while_is_asked_again(photos):
    def busy(body, times):
        statuses = {1: (503, {"retry-after": "0"}), 2: (429, {"retry-after": "0"}), 3: (502, {}), 4: (None, {})}
        return (*statuses[times], {"message": "too much waits"}) if times in statuses else fine(body, times)

    with serving(busy) as server:
        rows = ask(server, photos[:20])
        assert all("predictions" in row for row in rows)
        assert set(server.asked.values()) == {5}


@pytest.mark.parametrize("status", [400, 413, 415, 422, 500])
def test_an_error_of_one_photo_is_its_row(photos, status):
    def one(body, times):
        error = {"code": status, "type": "PhotoError", "message": "no photo", "request_id": "1"}
        return (status, {}, error) if body == "3.jpg" else fine(body, times)

    with serving(one) as server:
        rows = ask(server, photos[:6])
    assert [row["photo"] for row in rows if "predictions" not in row] == [photos[3].name]
    assert {name: rows[3][name] for name in ("code", "type", "message")} == {
        "code": status,
        "type": "PhotoError",
        "message": "no photo",
    }
    assert "request_id" not in rows[3]


def test_a_photo_that_alone_is_refused_again_and_again_gets_that_as_its_error(photos):
    def one(body, times):
        return (503, {}, b"<html>") if body == "3.jpg" else fine(body, times)

    with serving(one) as server:
        rows = ask(server, photos)
    assert [row["message"] for row in rows if "predictions" not in row] == ["503 Service Unavailable"]
    assert len(rows) == 100


@pytest.mark.parametrize(
    ("status", "headers", "content", "message"),
    [
        (
            401,
            {},
            {"message": "a key is needed"},
            r"refuses to answer \(401\): a key is needed; SEEFOOD_API_KEY=... in the environment",
        ),
        (404, {}, {"message": "there is no model 'food'"}, "answers 404: there is no model 'food'"),
        (301, {"location": "https://other/"}, b"", "answers 301 to https://other/"),
        (200, {}, b"<html>hello", "answers no predictions but '<html>hello'"),
        *(
            (200, {}, {"predictions": predictions}, r"/predictions/food answers '.*', expected {\"predictions\": \[{\"label\"")
            for predictions in (
                ["ramen"],
                [[0.1, 0.9]],
                [{"class": "ramen"}],
                [{"label": "ramen"}],
                [{"label": "ramen", "probability": None}],
                [{"label": 7, "probability": 0.5}],
                [{"label": "\ud800", "probability": 0.5}],
                [{"label": "ramen", "probability": 0.5}, "soup"],
            )
        ),
        (200, {}, {"predictions": [{"label": "a", "probability": 1}], "sure": "yes"}, "expected"),
        (200, {}, {"predictions": [{"label": "a", "probability": 1}], "version": 1}, "expected"),
    ],
)
def test_what_concerns_all_photos_ends_the_run(photos, status, headers, content, message):
    with serving(lambda body, times: (status, headers, content)) as server, pytest.raises(PredictError, match=message):
        ask(server, photos)
    assert len(server.requests) < len(photos)


def test_the_key_is_sent(photos, monkeypatch):
    monkeypatch.setenv("SEEFOOD_API_KEY", "sf_secret")
    with serving(fine) as server:
        ask(server, photos[:1])
        assert server.requests[0][1]["authorization"] == "Bearer sf_secret"
    monkeypatch.setenv("SEEFOOD_API_KEY", "sf_secret\n")
    with pytest.raises(ValueError, match="is there a line break in it"):
        Server("http://127.0.0.1:1", "food", None)


def test_a_server_that_starts_late_is_waited_for_and_one_that_does_not_is_given_up(photos, monkeypatch):
    port = free_port()
    client = Server(f"http://127.0.0.1:{port}", "food", None)
    found = []
    thread = threading.Thread(target=lambda: found.extend(client.answers(iter(photos[:3]))))
    thread.start()
    with serving(fine, port):
        thread.join(LIMIT_S)
    assert len(found) == 3
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    thread = threading.Thread(target=lambda: found.append(client.identity["version"]))
    thread.start()
    with serving(fine, port):
        thread.join(LIMIT_S)
    assert found[3] == "1.0.0"
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.1)
    with pytest.raises(PredictError, match=r"has answered nothing for 0.1 s: .*; the same command goes on where it stopped"):
        list(client.answers(iter(photos[:3])))


def test_a_certificate_that_is_not_trusted_is_named_with_the_remedy(photos, tmp_path, monkeypatch):
    certificate = make_self_signed(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Scripted(fine) as server:
        # the handshake is left to the connection's own thread, which closes what fails
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Server(server.url.replace("http://127.0.0.1", "https://localhost"), "food", None)
        with pytest.raises(PredictError, match=r"its certificate is not trusted \(.*\): SSL_CERT_FILE=ca.pem"):
            list(client.answers(iter(photos[:2])))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert len(list(client.answers(iter(photos[:2])))) == 2
        server.shutdown()
    with serving(fine) as server:
        client = Server(server.url.replace("http:", "https:"), "food", None)
        with pytest.raises(PredictError, match=r"no TLS connection is made \(.*\): is it http://"):
            list(client.answers(iter(photos[:2])))


def test_a_server_that_closes_connections_within_the_handshake_is_asked_again(photos, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = []

        def close():
            while len(closed) < 3:
                connection, _ = listener.accept()
                connection.recv(1)
                connection.close()
                closed.append(connection)
            listener.close()

        threading.Thread(target=close, daemon=True).start()
        client = Server(f"https://127.0.0.1:{listener.getsockname()[1]}", "food", None)
        with pytest.raises(PredictError, match="has answered nothing for"):
            list(client.answers(iter(photos[:1])))
    assert len(closed) == 3


class Outage:
    """A server that answers some photos, then refuses all until it `is_over`."""

    def __init__(self, answers, refusal=(502, {}, {})):
        self.left, self.refusal, self.is_over, self.refused = answers, refusal, threading.Event(), threading.Event()

    def __call__(self, body, times):
        if not self.is_over.is_set():
            self.left -= 1
            if self.left < 0:
                if times > server_module.TRIES + 1:
                    self.refused.set()
                return self.refusal
        return fine(body, times)


def test_no_photo_fails_because_of_an_outage_that_ends(photos):
    outage = Outage(30)
    with serving(outage) as server:
        threading.Thread(target=lambda: outage.refused.wait(LIMIT_S) and outage.is_over.set(), daemon=True).start()
        rows = ask(server, photos)
    assert [row.get("message") for row in rows if "predictions" not in row] == []


def test_an_outage_that_does_not_end_is_no_photos_fault(photos, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 1.0)
    with serving(Outage(30)) as server:
        server.pages["/readyz"] = [(503, {"ready": False, "version": "1.0.0"})]
        rows = []
        with pytest.raises(PredictError, match="has answered nothing for 1 s"):
            rows.extend(Server(server.url, "food", None).answers(iter(photos)))
    assert all("predictions" in row for row in rows)


@pytest.mark.parametrize("when", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_busy_server_is_no_photos_fault(photos, when):
    def busy(body, times):
        refused = body in ("3.jpg", "5.jpg") and times <= 2 * server_module.TRIES
        return (503, {"retry-after": when}, {"message": "the server is busy"}) if refused else fine(body, times)

    with serving(busy) as server:
        assert all("predictions" in row for row in ask(server, photos))


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}])
@pytest.mark.parametrize("refused", [["0.jpg"], ["18.jpg", "19.jpg"]])
def test_a_photo_that_is_refused_by_a_ready_server_gets_its_row_though_no_other_is_answered(photos, monkeypatch, headers, refused):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.5)

    def some(body, times):
        return (503, headers, {"message": "no"}) if body in refused else fine(body, times)

    count = 1 if refused == ["0.jpg"] else 20
    with serving(some) as server:
        rows = ask(server, photos[:count])
    assert [row["photo"].rpartition("/")[2] for row in rows if row.get("type") == "UnansweredError"] == refused
    assert len(rows) == count


def test_a_quota_that_is_used_up_is_no_photos_fault(photos, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.5)
    with serving(lambda body, times: (429, {}, {})) as server, pytest.raises(PredictError, match="has answered nothing.*429"):
        ask(server, photos[:1])


def test_a_server_that_starts_is_waited_for_until_it_has_a_model_and_a_version(monkeypatch):
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    with serving(fine) as server:
        (_, document), empty = server.pages["/openapi.json"][0], [{"name": "model", "schema": {"type": "string"}}]
        starting = {"paths": {"/predictions/{model}": {"post": {"parameters": empty}}}}
        server.pages["/openapi.json"] = [(503, {"message": "wait"}), (200, starting), (200, document)]
        not_yet = {"ready": False, "version": None}
        server.pages["/readyz"] = [(503, not_yet), (503, not_yet), (200, not_yet), (200, {"ready": True, "version": "2.0.0"})]
        assert Server(server.url, None, None).identity == {"url": server.url, "model": "food", "version": "2.0.0"}


def test_the_version_is_that_of_the_model(monkeypatch):
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    with serving(fine) as server:
        server.pages["/v1/models"] = [(200, {"models": ["drinks", "food"]})]
        server.pages["/v2/models/food"] = [(503, {"message": "wait"}), (200, {"name": "food", "versions": ["3.0.0"]})]
        assert Server(server.url, "food", None).identity["version"] == "3.0.0"
        assert Server(server.url, "drinks", None).identity["version"] == "1.0.0"
        assert Server(server.url, "drinks", "0.9.0").identity["version"] == "0.9.0"


@pytest.mark.parametrize("url", ["food.example.com", "ftp://host", "http://", "http://a:b@host", "http://host/?q=1"])
def test_an_address_of_no_server_is_refused(url):
    with pytest.raises(ValueError, match="URL "):
        Server(url, "food", None)


@pytest.mark.slow
def test_ctrl_c_waits_for_no_answer(command, drawn, tmp_path):
    asked = threading.Event()

    def hang(body, times):
        asked.set()
        time.sleep(LIMIT_S)
        return fine(body, times)

    with serving(hang) as server:
        words = [*command, str(drawn), "--out", str(tmp_path / "labels.csv"), "--url", server.url]
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) as process:
            assert asked.wait(LIMIT_S)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=LIMIT_S / 2)[1].decode()
    assert process.returncode == 130
    assert error == "interrupted: the same command goes on where it stopped; without OUT it starts anew\n"


@pytest.mark.server
@pytest.mark.slow
def test_a_server_and_the_archive_give_the_same_rows(predict, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(picture_bytes(number))
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("not a photo")
    (folder / "large.jpg").write_bytes(bytes(21_000_000))
    (folder / "broken.jpg").write_bytes(picture_bytes(1)[:2000])
    tables = {}
    with serving_starter(tmp_path / "model_store") as server:
        for name, arguments in {"archive": [], "server": ["--url", f"http://127.0.0.1:{server.port}"]}.items():
            done = predict(folder, "--out", tmp_path / f"{name}.jsonl", *arguments)
            assert done.returncode == 3, done.stderr
            tables[name] = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert len(tables["archive"]) == 44
    for ours, theirs in zip(tables["archive"], tables["server"], strict=True):
        # a batch of another size may differ in the last digits
        for answer in (ours, theirs):
            for one in answer.get("predictions", []):
                one["probability"] = pytest.approx(one["probability"], abs=1e-3) if answer is ours else one["probability"]
        assert theirs == ours
