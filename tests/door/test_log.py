"""The access log: what a line holds, and a reader that is slow or gone."""

import json
import os
import threading

import pytest

from scripts.door.app import Door
from scripts.door.log import MOST_LINES, AccessLog
from scripts.door.state import State
from scripts.door.times import Times
from scripts.steps import MOST_BYTES
from tests.conftest import LIMIT_S
from tests.door.asking import ask
from tests.door.without_server import WithId, predictions

SCOPE = {"method": "POST", "path": "/predictions/seefood", "state": {"request_id": "an-id", "version": "0.5.0"}}


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is left in `writer` can be flushed


def test_line_of_a_request(pipe):
    reader, writer = pipe
    log = AccessLog(True, out=writer)
    times = Times(received=1234)
    times.take_worker("decode;dur=3.25, inference;dur=10")
    log(SCOPE, 200, 56, times)
    log.close()
    line = json.loads(reader.readline())
    expected = {"request_id": "an-id", "version": "0.5.0", "method": "POST", "path": "/predictions/seefood", "status": 200}
    assert expected.items() <= line.items()
    assert (line["received"], line["sent"], line["ms"]["decode"], line["ms"]["inference"]) == (1234, 56, 3.2, 10.0)


def test_health_checks_are_logged_where_they_fail(pipe):
    reader, writer = pipe
    log = AccessLog(True, out=writer)
    for status in (200, 503):
        log({**SCOPE, "method": "GET", "path": "/readyz"}, status, 56, Times())
    log.close()
    assert json.loads(reader.readline())["status"] == 503


def test_requests_do_not_wait_for_a_reader_that_reads_nothing(pipe):
    reader, writer = pipe
    lost = []
    log = AccessLog(True, lost.append, out=writer)
    count = 2 * MOST_LINES + 1000  # the pipe holds some hundred
    asked = threading.Thread(target=lambda: [log(SCOPE, 200, 56, Times()) for _ in range(count)])
    asked.start()
    asked.join(LIMIT_S)
    assert not asked.is_alive()
    assert sum(lost) > MOST_LINES
    threading.Thread(target=log.close).start()
    written = [json.loads(reader.readline()) for _ in range(count - sum(lost))]
    assert {line["request_id"] for line in written} == {"an-id"}


def test_reader_that_is_gone_ends_nothing(pipe):
    reader, writer = pipe
    lost = []
    log = AccessLog(True, lost.append, out=writer)
    reader.close()
    for _ in range(100):
        log(SCOPE, 200, 56, Times())
    log.close()
    assert sum(lost) == 100


def test_traceback_of_a_fault_is_in_the_line_of_its_request(pipe):
    reader, writer = pipe

    class Broken:
        async def ask(self, question):
            raise RuntimeError("no code foresaw it")

        def close(self):
            pass

    state = State(ready=True, models={"seefood": {"default": "0.5.0", "versions": {"0.5.0": {}}}})
    found = predictions(state, Broken())
    log = AccessLog(True, out=writer)
    door = Door(found, state, found.metrics, log)
    answer = ask(WithId(door.application()), "POST", "/predictions/seefood", content=b"a photo")
    log.close()
    line = json.loads(reader.readline())
    assert (answer.status_code, answer.json()["request_id"]) == (500, "test-id")
    assert (line["request_id"], line["version"], line["status"], line["cause"]) == ("test-id", "0.5.0", 500, "InternalError")
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].rstrip().endswith("RuntimeError: no code foresaw it")


@pytest.mark.parametrize("text", ["\n" * 5000, '"' * 5000, "\x00é\U0001f600" * 2000, "a" * 100_000])
@pytest.mark.parametrize("place", ["path", "error", "raised", "all"])
def test_line_fits_what_a_pipe_keeps_together_whatever_is_in_it(pipe, text, place):
    reader, writer = pipe
    log = AccessLog(True, out=writer)
    ends = f"{text}the end"
    state = {"request_id": "an-id", **({"error": ends} if place in ("error", "all") else {})}
    state |= {"raised": ("RuntimeError", ends, ends)} if place in ("raised", "all") else {}
    log({"method": "POST", "path": text if place in ("path", "all") else "/", "state": state}, 500, 56, Times())
    log.close()
    line = reader.readline()
    assert len(line.encode()) <= MOST_BYTES
    found = json.loads(line)
    assert found["request_id"] == "an-id"
    if place in ("raised", "all"):
        assert found["traceback"].endswith("the end")


class Failing:
    def __call__(self, *args):
        raise RuntimeError("no code foresaw it")

    answered = __call__


@pytest.mark.parametrize("part", ["spans", "metrics"])
def test_what_fails_beside_the_log_takes_no_line_from_it(pipe, part, capsys):
    reader, writer = pipe
    state, log = State(ready=True), AccessLog(True, out=writer)
    found = predictions(state)
    door = Door(found, state, found.metrics, log, spans=Failing() if part == "spans" else None)
    if part == "metrics":
        door.metrics.answered = Failing()
    assert ask(WithId(door.application()), "GET", "/predictions/seefood").status_code == 405
    log.close()
    assert json.loads(reader.readline())["status"] == 405
    assert "a request is not noted by" in capsys.readouterr().err
