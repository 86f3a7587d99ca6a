"""A server that is busy, starts, is down for a while, or refuses one photo: what is waited for, and whose fault it is."""

import json
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from scripts.command import run
from scripts.predict import server as server_module
from scripts.predict.photo import PredictError
from scripts.predict.predict import main
from scripts.predict.server import Server
from tests.conftest import LIMIT_S, free_port
from tests.predict.scripted import ask, fine, serving


def test_a_server_that_is_busy_for_a_while_is_asked_again(texts):
    def busy(body, times):
        statuses = {1: (503, {"retry-after": "0"}), 2: (429, {"retry-after": "0"}), 3: (502, {}), 4: (None, {})}
        return (*statuses[times], {"message": "too much waits"}) if times in statuses else fine(body, times)

    with serving(busy) as server:
        rows = ask(server, texts[:20])
        assert all("predictions" in row for row in rows)
        assert set(server.asked.values()) == {5}


def test_a_photo_that_alone_is_refused_again_and_again_gets_that_as_its_error(texts):
    def one(body, times):
        return (503, {}, b"<html>") if body == "3.jpg" else fine(body, times)

    with serving(one) as server:
        rows = ask(server, texts)
    assert [row["message"] for row in rows if "predictions" not in row] == ["503 Service Unavailable"]
    assert len(rows) == 100


def test_a_server_that_starts_late_is_waited_for_and_one_that_does_not_is_given_up(texts, monkeypatch):
    port = free_port()
    client = Server(f"http://127.0.0.1:{port}", "food", None)
    found = []
    thread = threading.Thread(target=lambda: found.extend(client.answers(iter(texts[:3]))))
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
        list(client.answers(iter(texts[:3])))


def test_a_server_that_closes_connections_within_the_handshake_is_asked_again(texts, monkeypatch):
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
            list(client.answers(iter(texts[:1])))
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


def test_no_photo_fails_because_of_an_outage_that_ends(texts):
    outage = Outage(30)
    with serving(outage) as server:
        threading.Thread(target=lambda: outage.refused.wait(LIMIT_S) and outage.is_over.set(), daemon=True).start()
        rows = ask(server, texts)
    assert [row.get("message") for row in rows if "predictions" not in row] == []


def test_an_outage_that_does_not_end_is_no_photos_fault(texts, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 1.0)
    with serving(Outage(30)) as server:
        server.pages["/readyz"] = [(503, {"ready": False, "version": "1.0.0"})]
        rows = []
        with pytest.raises(PredictError, match="has answered nothing for 1 s"):
            rows.extend(Server(server.url, "food", None).answers(iter(texts)))
    assert all("predictions" in row for row in rows)


@pytest.mark.parametrize("when", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_busy_server_is_no_photos_fault(texts, when):
    def busy(body, times):
        refused = body in ("3.jpg", "5.jpg") and times <= 2 * server_module.TRIES
        return (503, {"retry-after": when}, {"message": "the server is busy"}) if refused else fine(body, times)

    with serving(busy) as server:
        assert all("predictions" in row for row in ask(server, texts))


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}])
@pytest.mark.parametrize("refused", [["0.jpg"], ["18.jpg", "19.jpg"]])
def test_a_photo_that_is_refused_by_a_ready_server_gets_its_row_though_no_other_is_answered(texts, monkeypatch, headers, refused):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.5)

    def some(body, times):
        return (503, headers, {"message": "no"}) if body in refused else fine(body, times)

    count = 1 if refused == ["0.jpg"] else 20
    with serving(some) as server:
        rows = ask(server, texts[:count])
    assert [row["photo"].rpartition("/")[2] for row in rows if row.get("type") == "UnansweredError"] == refused
    assert len(rows) == count


def test_a_quota_that_is_used_up_is_no_photos_fault(texts, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.5)
    with serving(lambda body, times: (429, {}, {})) as server, pytest.raises(PredictError, match="has answered nothing.*429"):
        ask(server, texts[:1])


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


def predict(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
    return run(main)


def test_rows_of_an_earlier_run_are_kept_while_the_server_starts(texts, monkeypatch, tmp_path):
    monkeypatch.setattr(server_module, "LOOK_S", 0.01)
    part, out = tmp_path / "labels.csv.part", tmp_path / "labels.csv"
    with serving(lambda body, times: fine(body, times) if body < "5" else (404, {}, {"message": "no more"})) as server:
        words = (texts[0].path.parent, "--out", out, "--url", server.url, "--model", "food")
        assert predict(monkeypatch, *words) == 1
        rows = part.read_bytes()
        assert len(rows.splitlines()) > 10
        server.pages["/readyz"] = [(503, {"ready": False, "version": None})] * 5 + server.pages["/readyz"]
        assert predict(monkeypatch, *words) == 1
        assert part.read_bytes()[: len(rows)] == rows
        monkeypatch.setattr(server_module, "PATIENCE_S", 0.1)
        server.pages["/readyz"] = [(503, {"ready": False, "version": None})]
        assert predict(monkeypatch, *words) == 1
        assert part.read_bytes()[: len(rows)] == rows


def test_photos_that_may_be_missing_are_said_and_change_the_exit_status(texts, monkeypatch, tmp_path, capsys):
    (tmp_path / "photos" / "locked").mkdir()
    scandir = os.scandir

    def locked(path):  # root may read any folder
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with serving(fine) as server:
        assert predict(monkeypatch, tmp_path / "photos", "--out", tmp_path / "labels.jsonl", "--url", server.url) == 3
    assert "photos are missing: 1 of what is not taken cannot be read" in capsys.readouterr().err
    assert [json.loads(line)["photo"] for line in (tmp_path / "labels.jsonl").read_text().splitlines()] == sorted(
        photo.name for photo in texts
    )
