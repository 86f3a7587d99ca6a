"""Answers of a server: their order and form, what concerns one photo or all, keys and certificates."""

import gc
import json
import signal
import ssl
import subprocess
import threading
import time

import pytest

from scripts.door.http.tls import make_self_signed
from scripts.predict.photo import PredictError
from scripts.predict.server import AT_A_TIME, Server
from tests.conftest import LIMIT_S, ROOT, picture_bytes
from tests.predict.scripted import Scripted, ask, fine, serving
from tests.serving.server import serving_starter


def test_rows_come_in_the_order_of_the_photos_and_few_requests_at_a_time(texts):
    def slow(body, times):
        time.sleep(0.001 * (hash(body) % 10))
        return fine(body, times)

    with serving(slow) as server:
        rows = ask(server, texts)
        assert [row["photo"] for row in rows] == [photo.name for photo in texts]
        assert 1 < server.most <= AT_A_TIME
        assert {path for path, _ in server.requests} == {"/predictions/food"}
        server.requests.clear()
        ask(server, texts[:1], f"{server.url}/below/", version="1.1.0")
        assert server.requests[0][0] == "/below/predictions/food/1.1.0"
        assert Server(server.url, None, None).identity == {"url": server.url, "model": "food", "version": "1.0.0"}


@pytest.mark.parametrize("status", [400, 413, 415, 422, 500])
def test_an_error_of_one_photo_is_its_row(texts, status):
    def one(body, times):
        error = {"code": status, "type": "PhotoError", "message": "no photo", "request_id": "1"}
        return (status, {}, error) if body == "3.jpg" else fine(body, times)

    with serving(one) as server:
        rows = ask(server, texts[:6])
    assert [row["photo"] for row in rows if "predictions" not in row] == [texts[3].name]
    assert {name: rows[3][name] for name in ("code", "type", "message")} == {
        "code": status,
        "type": "PhotoError",
        "message": "no photo",
    }
    assert "request_id" not in rows[3]


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
def test_what_concerns_all_photos_ends_the_run(texts, status, headers, content, message):
    with serving(lambda body, times: (status, headers, content)) as server, pytest.raises(PredictError, match=message):
        ask(server, texts if status != 200 else texts[:1])  # one is enough to see the form of an answer
    assert len(server.requests) < len(texts)


def test_the_key_is_sent(texts, monkeypatch):
    monkeypatch.setenv("SEEFOOD_API_KEY", "sf_secret")
    with serving(fine) as server:
        ask(server, texts[:1])
        assert server.requests[0][1]["authorization"] == "Bearer sf_secret"
    monkeypatch.setenv("SEEFOOD_API_KEY", "sf_secret\n")
    with pytest.raises(ValueError, match="is there a line break in it"):
        Server("http://127.0.0.1:1", "food", None)


def test_a_certificate_that_is_not_trusted_is_named_with_the_remedy(texts, tmp_path, monkeypatch):
    certificate = make_self_signed(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Scripted(fine) as server:
        # the handshake is left to the connection's own thread, which closes what fails
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Server(server.url.replace("http://127.0.0.1", "https://localhost"), "food", None)
        with pytest.raises(PredictError, match=r"its certificate is not trusted \(.*\): SSL_CERT_FILE=ca.pem"):
            list(client.answers(iter(texts[:2])))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert len(list(client.answers(iter(texts[:2])))) == 2
        server.shutdown()
    with serving(fine) as server:
        client = Server(server.url.replace("http:", "https:"), "food", None)
        with pytest.raises(PredictError, match=r"no TLS is spoken there \(.*\): is it http://"):
            list(client.answers(iter(texts[:2])))


@pytest.mark.parametrize("url", ["food.example.com", "ftp://host", "http://", "http://a:b@host", "http://host/?q=1"])
def test_an_address_of_no_server_is_refused(url):
    with pytest.raises(ValueError, match="URL "):
        Server(url, "food", None)


# a connection that was begun at that moment is closed with the process; Python says so only where it is asked to
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_ctrl_c_while_a_task_runs_leaves_no_complaint(texts, caplog):
    class Interrupted:
        def stamp(self):
            return ""

        def read(self):
            return b"a"

        @property
        def name(self):  # asked in a task
            raise KeyboardInterrupt

    with serving(fine) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(server, [Interrupted(), *texts[:3]])
        gc.collect()
    assert not caplog.messages


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
