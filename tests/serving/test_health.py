"""What /readyz rests on: a front end that stands in for TorchServe's, and answers, waits, refuses or hangs as each test says."""

import contextlib
import http.server
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from handler.expected import Expected
from scripts.backend.torchserve.management import Server, Workers, answers, new_client
from scripts.backend.torchserve.versions import Golden
from scripts.serving.health import Health
from scripts.serving.probe import DefaultVersion
from scripts.serving.repair import HangsError, Repair
from scripts.settings import Settings
from scripts.steps import Steps
from tests.conftest import LIMIT_S
from tests.waiting import until

SETTINGS = Settings(check_s=0.1, look_s=0.05, look_timeout_s=0.3, stall_s=0.5, repair_s=1.0)
RIGHT = {"predictions": [{"index": 0, "probability": 0.75}], "version": "1.0.0"}
FULL = {"code": 503, "type": "ServiceUnavailableException", "message": 'Model "flowers" has no worker to serve inference request.'}
WORKER = {"id": "9000", "pid": 0, "status": "READY"}


class FrontEnd(http.server.ThreadingHTTPServer):
    """Photos get `answer`, (status, content), or None until there is one: they wait."""

    daemon_threads = True

    def __init__(self):
        self.answer, self.workers, self.calls = (200, RIGHT), [WORKER], []
        self.once = None  # the answer to the next photo alone
        self.answered = 0  # what the workers have counted
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def server(self):
        url = f"http://127.0.0.1:{self.server_port}"
        return Server(url, url, client=new_client(2))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send(200, {"status": "Healthy"} if self.path == "/ping" else [{"workers": self.server.workers}])

    def do_PUT(self):
        self.server.calls.append(self.path)
        self.send(202, {})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        while self.server.answer is None:
            time.sleep(0.01)
        once, self.server.once = self.server.once, None
        self.send(*(once or self.server.answer))

    def send(self, status, content):
        body = json.dumps(content).encode()
        with contextlib.suppress(OSError):  # whoever waited may have gone
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def front_end():
    with FrontEnd() as front_end:
        threading.Thread(target=front_end.serve_forever, daemon=True).start()
        yield front_end
        front_end.answer = front_end.answer or (200, RIGHT)  # nothing waits any more
        front_end.shutdown()


@pytest.fixture
def health(front_end):
    golden = Golden(["a.jpg"], [b"photo"], {"f32": Expected([[0.75]], [0.5], 0.001)}, [""])
    with Health(SETTINGS, Steps(False), lambda: {("flowers", "1.0.0"): float(front_end.answered)}) as health:
        health.set_default(DefaultVersion(front_end.server, "flowers", "1.0.0", golden, "f32"))
        wait(health, True)
        yield health


def wait(health, ready, why=""):
    """Seconds until it is (not) ready."""
    started = time.monotonic()
    until(lambda: health.readiness()[0] == ready, health.readiness, pause_s=0.01)
    assert why in health.readiness()[1].get("why", "")
    return time.monotonic() - started


def looks(health, front_end, seconds, moves):
    """Whether it was ready, at each look for so long, while the workers answer others or do not."""
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        front_end.answered += moves
        seen.append(health.readiness()[0])
        time.sleep(0.02)
    return seen


def repair_for_long(repair, workers):
    until(lambda: repair(workers), pause_s=0.02)


@pytest.mark.parametrize("answer", [None, (503, FULL)])
def test_busy_is_ready_for_as_long_as_others_are_answered_and_a_stall_is_not(health, front_end, answer):
    front_end.answer = answer
    assert all(looks(health, front_end, 4 * SETTINGS.stall_s, moves=1))
    assert wait(health, False, "none has been answered for more than 0.5 s") >= SETTINGS.stall_s / 2
    front_end.answer = (200, RIGHT)
    wait(health, True)


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (200, {**RIGHT, "predictions": [{"index": 0, "probability": 0.7}]}, "answered incorrectly"),
        (200, {**RIGHT, "version": "0.9.0"}, "is answered by version 0.9.0"),
        (500, {"code": 500, "type": "InternalServerException", "message": "Worker died."}, "Worker died"),
        (503, {"code": 503, "type": "InternalServerException", "message": "Prediction failed"}, "Prediction failed"),
    ],
)
def test_wrong_answers_and_errors_of_the_worker_are_not_ready_though_others_are_answered(health, front_end, status, answer, why):
    front_end.answer = (status, answer)
    looks(health, front_end, 0.1, moves=1)
    wait(health, False, why)


def test_one_golden_photo_that_a_workers_end_took_with_it_does_not_count(health, front_end):
    front_end.once = (500, {"code": 500, "type": "InternalServerException", "message": "Worker died."})
    assert all(looks(health, front_end, 0.6, moves=0))
    assert front_end.once is None


def test_version_without_workers_is_not_ready_whatever_was_answered_before(health, front_end):
    front_end.answer, front_end.workers = (503, FULL), []
    looks(health, front_end, 0.1, moves=1)
    wait(health, False, "has no worker")


def test_front_end_that_accepts_and_hangs_is_not_ready_at_the_second_look_and_then_hangs_for_good(health, front_end):
    front_end.shutdown()  # its socket still takes connections, and nobody reads them
    began = time.monotonic()
    wait(health, False, "the front end does not answer")
    repair = Repair(health, "flowers", SETTINGS, Steps(False))
    with pytest.raises(HangsError, match="its front end has not answered"):
        repair_for_long(repair, Workers(1, 1))
    assert health.silent_s > (time.monotonic() - began) / 2  # most of it is what looks have waited
    threading.Thread(target=front_end.serve_forever, daemon=True).start()
    wait(health, True)


def test_front_end_that_refuses_connections_is_not_ready(health, front_end):
    front_end.shutdown()
    front_end.server_close()
    wait(health, False)


@pytest.mark.parametrize("trickle", [b"", b"H"])
def test_a_look_takes_no_longer_than_its_patience_whatever_it_meets(trickle):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(100):
                    connection.sendall(trickle)
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        assert not answers(url, "/ping", 0.5)
        assert time.monotonic() - started < 5


def test_state_that_no_look_has_renewed_is_not_ready(health, monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(health, "_look", lambda *_: hang.wait())
    wait(health, False, "the last look is too long ago")
    hang.set()
    wait(health, True)


def test_stall_restarts_the_workers_first_and_then_torchserve(health, front_end, capsys):
    repair = Repair(health, "flowers", SETTINGS, Steps(False))
    repair(Workers(1, 2))
    front_end.answer = None
    with pytest.raises(HangsError, match="new workers have not helped"):
        repair_for_long(repair, Workers(1, 2))
    versions = "/models/flowers/1.0.0?min_worker="
    assert front_end.calls == [f"{versions}0&max_worker=0", f"{versions}1&max_worker=2"]
    assert capsys.readouterr().out.count('repair: what="workers restarted" version=1.0.0') == 1


def test_torchserve_is_not_restarted_for_one_model_while_others_are_served_well(front_end):
    default = DefaultVersion(front_end.server, "flowers", "1.0.0", None, "f32")
    hangs = SimpleNamespace(stuck_s=99.0, default=default, why="requests wait", ready=False)
    health = SimpleNamespace(silent_s=0.0, models={"flowers": hangs, "birds": SimpleNamespace(ready=True)})
    repair = Repair(health, "flowers", Settings(repair_s=0.05), Steps(False))
    until(lambda: repair(Workers(1, 1)) or len(front_end.calls) >= 6)  # its workers are, time and again
    health.models["birds"].ready = False
    with pytest.raises(HangsError, match="new workers have not helped"):
        repair_for_long(repair, Workers(1, 1))


def test_time_in_which_this_process_was_stopped_counts_for_nothing(health, front_end, monkeypatch):
    front_end.answer = None
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)
    until(lambda: "none has been answered" in health.readiness()[1].get("why", ""), pause_s=0.01)
    assert health.models["flowers"].stuck_s < 60


def test_before_anything_is_served_it_is_live_and_not_ready():
    health = Health(Settings(alive_s=LIMIT_S), Steps(False))
    assert health.live
    assert health.readiness() == (False, {"ready": False, "version": None, "why": "starting"})


def test_it_is_live_until_the_main_loop_has_not_called_beat_for_too_long():
    health = Health(Settings(alive_s=0.05), Steps(False))
    until(lambda: not health.live)
    health.beat()
    assert health.live


def test_door_that_does_not_answer_is_not_ready(health):
    health.door_answers = lambda: False
    wait(health, False, "the door does not answer")
    health.door_answers = lambda: True
    wait(health, True)
