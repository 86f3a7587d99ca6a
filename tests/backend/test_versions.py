"""A version that proves itself or does not, against a stand-in for TorchServe: what each answer to a golden photo means."""

import base64
import http.server
import json
import threading

import pytest

from scripts.backend.torchserve.management import ManagementError, Server, new_client
from scripts.backend.torchserve.versions import UnansweredError, VersionError, load, prove, read_golden, wait_until_idle
from scripts.serving.repair import undo_changes
from scripts.steps import Steps

GOLDEN = {
    "photos": [{"name": "a.jpg", "image": base64.b64encode(b"photo").decode(), "probabilities": [0.75, 0.25]}],
    "tolerance": {"f32": 1e-3},
}
RIGHT = {"version": "1.0.0", "predictions": [{"index": 0, "probability": 0.7501}, {"index": 1, "probability": 0.25}]}
WORKER = {"pid": 0, "status": "READY"}


@pytest.fixture
def golden(tmp_path):
    (tmp_path / "golden.json").write_text(json.dumps(GOLDEN))
    return read_golden(tmp_path)


@pytest.fixture
def torchserve():
    """Set .answers[path] to (status, JSON); .requests holds (method, path)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            path = self.path.split("?")[0]
            stand_in.requests.append((self.command, path))
            status, content = stand_in.answers.get(path, (404, {"message": "no such model"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the base class's names

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stand_in:
        url = f"http://127.0.0.1:{stand_in.server_port}"
        described = {"jobQueueStatus": {"pendingRequests": 0}, "workers": [WORKER], "customizedMetadata": {"precision": "f32"}}
        stand_in.answers = {
            "/models": (200, {}),
            "/models/flowers/1.0.0": (200, [described]),
            "/predictions/flowers/1.0.0": (200, RIGHT),
        }
        stand_in.described, stand_in.requests = described, []
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        with new_client(5) as client:
            stand_in.server = Server(url, url, client=client)
            yield stand_in
        stand_in.shutdown()


def test_version_that_answers_its_golden_photos_is_proved_with_its_precision(torchserve, golden):
    assert prove(torchserve.server, "flowers", "1.0.0", golden, 5)["precision"] == "f32"
    assert ("POST", "/predictions/flowers/1.0.0") in torchserve.requests


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (200, {**RIGHT, "version": "0.9.0"}, "is answered by version 0.9.0, not 1.0.0"),
        (
            200,
            {**RIGHT, "predictions": [{"index": 0, "probability": 0.8}]},
            "answered incorrectly: probability off by 0.05, tolerance 0.001",
        ),
        (
            200,
            {**RIGHT, "predictions": [{"index": 0, "probability": float("nan")}]},
            "answered incorrectly: probability off by nan",
        ),
        (200, {"version": "1.0.0"}, "unexpected answer format"),
        (200, ["x"], "unexpected answer format"),
        (503, {}, "got status 503"),
    ],
)
def test_any_other_answer_is_an_error_that_names_the_photo(torchserve, golden, status, answer, reason):
    torchserve.answers["/predictions/flowers/1.0.0"] = (status, answer)
    with pytest.raises(VersionError, match=f"golden photo 'a.jpg'.*{reason}") as caught:
        prove(torchserve.server, "flowers", "1.0.0", golden, 5)
    assert isinstance(caught.value, UnansweredError) == (status != 200)


def test_version_that_cannot_be_registered_is_unregistered(torchserve):
    torchserve.answers["/models"] = (500, {"message": "no space"})
    with pytest.raises(VersionError, match=r"1\.0\.0 cannot be registered: POST /models: 500 no space"):
        load(torchserve.server, "flowers", "1.0.0", "x", 5, None, lambda: None)
    assert torchserve.requests[-1] == ("DELETE", "/models/flowers/1.0.0")


def test_version_whose_workers_are_not_ready_in_time_is_unregistered(torchserve):
    torchserve.described["workers"] = [{"pid": -1, "status": "LOADING"}]
    beats = []
    with pytest.raises(VersionError, match=r"was not ready within 0\.3 s"):
        load(torchserve.server, "flowers", "1.0.0", "x", 0.3, None, lambda: beats.append(1))
    assert beats
    assert torchserve.requests[-1] == ("DELETE", "/models/flowers/1.0.0")


def test_version_with_queued_requests_is_not_idle(torchserve, golden):
    assert wait_until_idle(torchserve.server, "flowers", "1.0.0", golden, 5, 0.1)
    torchserve.described["jobQueueStatus"]["pendingRequests"] = 1
    assert not wait_until_idle(torchserve.server, "flowers", "1.0.0", golden, 0.3, 0.1)
    torchserve.answers.clear()
    with pytest.raises(ManagementError, match="404 no such model"):
        wait_until_idle(torchserve.server, "flowers", "1.0.0", golden, 5, 0.1)


def test_version_that_leaves_is_neither_scaled_up_nor_unregistered_by_the_repair_of_changes_by_hand(torchserve, capsys):
    """TorchServe has scaled a version down that it could not unregister."""
    down = {"modelVersion": "1.0.0", "minWorkers": 0, "maxWorkers": 0}
    torchserve.answers |= {"/models": (200, {"models": [{"modelName": "flowers"}]}), "/models/flowers/all": (200, [down])}
    assert undo_changes(torchserve.server, "flowers", {}, {"1.0.0"}, None, Steps(False)) == set()
    assert {method for method, _ in torchserve.requests} == {"GET"}
    assert capsys.readouterr().out == ""
