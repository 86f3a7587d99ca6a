"""What scripts/serving/serve.py takes from its environment."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from scripts.backend.torchserve.process import ServeError
from scripts.release.document import entry_of, make, parse, write
from scripts.release.folder_store import FolderStore
from scripts.serving.own_document import newest_release
from scripts.serving.serve import own_name, stop
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import ROOT, free_port
from tests.rollout.rolling import report


@pytest.fixture
def metadata():
    """An endpoint as ECS gives one to each task: set `answer`; its address."""

    class Endpoint(http.server.BaseHTTPRequestHandler):
        answer = b"{}"

        def do_GET(self):
            self.send_response(200 if self.path == "/v4/abc/task" else 404)
            self.end_headers()
            self.wfile.write(Endpoint.answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Endpoint.address = f"http://127.0.0.1:{server.server_port}/v4/abc"
        yield Endpoint
        server.shutdown()


def test_instance_on_ecs_is_called_as_its_task_is(metadata, monkeypatch):
    metadata.answer = json.dumps({"TaskARN": "arn:aws:ecs:eu-central-1:1:task/seefood/0f9de17a6465404e8b1b2356dc13c2f8"}).encode()
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", metadata.address)
    assert own_name(8080, Steps(False)) == "0f9de17a6465404e8b1b2356dc13c2f8"


def test_instance_that_ecs_does_not_name_goes_by_its_host(metadata, monkeypatch, capsys):
    assert own_name(8080, Steps(False)) == f"{socket.gethostname()}-8080"
    for address in (metadata.address, metadata.address + "/no", "http://127.0.0.1:1"):
        monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", address)
        assert own_name(8080, Steps(False)) == f"{socket.gethostname()}-8080"
        assert "the ECS task's id is not known" in capsys.readouterr().out


@pytest.fixture
def model_store(tmp_path):
    for name in ("seefood-0.5.0.mar", "flowers-1.0.0.mar", "flowers-1.1.0.mar"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_first_document_is_for_the_newest_archive_of_the_model(model_store):
    store = FolderStore(model_store / "release.json")
    with pytest.raises(ValueError, match="holds the models flowers, seefood: choose one"):
        newest_release(model_store, store, None, Steps(False))
    newest_release(model_store, store, "flowers", Steps(False))
    assert released(store) == ("flowers", "1.1.0")
    (model_store / "flowers-1.2.0.mar").write_bytes(b"newer")
    newest_release(model_store, store, None, Steps(False))  # the model is now the document's
    assert released(store) == ("flowers", "1.2.0")
    newest_release(model_store, store, "seefood", Steps(False))
    assert released(store) == ("seefood", "0.5.0")


def test_another_model_is_not_written_into_a_document_that_a_running_server_follows(model_store):
    store = FolderStore(model_store / "release.json")
    newest_release(model_store, store, "flowers", Steps(False))
    report(store, "host-8080")
    with pytest.raises(
        ValueError,
        match=r"host-8080 serves flowers by .*release.json: make rollout MODEL=seefood .*RELEASE=model_store/seefood.json",
    ):
        newest_release(model_store, store, "seefood", Steps(False))
    assert released(store) == ("flowers", "1.1.0")
    newest_release(model_store, store, "flowers", Steps(False))  # a second server of the same model
    store.write_status("host-8080", None)
    newest_release(model_store, store, "seefood", Steps(False))
    assert released(store) == ("seefood", "0.5.0")


@pytest.mark.parametrize("arguments", [[], ["--version", "1.0.0"]], ids=str)
def test_a_taken_port_changes_no_release_and_no_folder(model_store, tmp_path, arguments):
    store = FolderStore(model_store / "release.json")
    newest_release(model_store, store, "flowers", Steps(False))
    (model_store / "flowers-2.0.0.mar").write_bytes(b"newer")
    kept = model_store / "run" / "own" / "release.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the server that holds the port")
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(port), "--model-store", str(model_store)]
        command += ["--run-dir", str(model_store / "run"), "--model", "flowers", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the inference port {port} is taken" in done.stderr
    assert released(store) == ("flowers", "1.1.0")
    assert kept.read_text() == "of the server that holds the port"


def test_document_that_somebody_rolled_out_stays_and_another_model_is_refused(model_store, capsys):
    store = FolderStore(model_store / "release.json")
    versions = {"1.0.0": entry_of(model_store / "flowers-1.0.0.mar")}
    store.write(write(make(versions, "1.0.0", "released", "rolled out", "somebody")), None)
    newest_release(model_store, store, None, Steps(False))
    assert "note: flowers-1.1.0.mar is newer than the released 1.0.0" in capsys.readouterr().out
    newest_release(model_store, store, "flowers", Steps(True))
    assert json.loads(capsys.readouterr().out)["archive"] == "flowers-1.1.0.mar"
    with pytest.raises(ValueError, match="is a release of the model flowers, not of seefood"):
        newest_release(model_store, store, "seefood", Steps(False))
    assert released(store) == ("flowers", "1.0.0")


def released(store):
    document = parse(store.read()[0])
    return document["model"], document["default"]


def test_stop_without_a_server_names_the_port(tmp_path):
    with pytest.raises(ServeError, match=r"^no server is running on port 8123$"):
        stop(8123, tmp_path, Settings())
    (tmp_path / "serve.pid").write_text(str(os.getpid()))  # of a server that was killed, whose id another process has got
    with pytest.raises(ServeError, match="no server is running on port 8123"):
        stop(8123, tmp_path, Settings())
    assert not (tmp_path / "serve.pid").exists()
    (tmp_path / "serve.pid").write_text("")  # as a full disk may leave it
    with pytest.raises(ServeError, match="no server is running on port 8123"):
        stop(8123, tmp_path, Settings())


def test_release_may_come_from_the_environment():
    assert Settings.from_environment({"SEEFOOD_RELEASE": "s3://bucket/release.json"}).release == "s3://bucket/release.json"
    assert Settings.from_environment({"RELEASE": "s3://bucket/release.json"}).release == ""
    assert Settings.from_environment({"SEEFOOD_MANAGEMENT_TOKEN": "x"}) == Settings()
    with pytest.raises(ValueError, match="SEEFOOD_RELEASES is set, expected one of"):
        Settings.from_environment({"SEEFOOD_RELEASES": "x"})


def test_message_for_people_is_a_step_where_logs_are_json(capsys):
    Steps(False).say("ready, go", "ready", version="1.0.0")
    Steps(True).say("ready, go", "ready", version="1.0.0")
    message, line = capsys.readouterr().out.splitlines()
    assert message == "ready, go"
    assert json.loads(line) == {"at": json.loads(line)["at"], "step": "ready", "version": "1.0.0"}
