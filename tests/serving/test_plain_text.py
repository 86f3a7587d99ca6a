"""What Python writes on standard error, in a log of JSON: one line for each message, a traceback within it."""

import json
import os
import subprocess
import sys
import threading
import traceback

import pytest

from scripts.backend.torchserve.sockets import Addresses
from scripts.command import run
from scripts.errors import SeeFoodError
from scripts.serving.door import Door
from scripts.serving.plain_text import ErrorSteps, Messages, fields_of
from scripts.settings import Settings
from scripts.steps import MOST_BYTES, Steps
from tests.conftest import LIMIT_S, free_port

CHAINED = """
def f(): raise KeyError("a")
try:
    f()
except KeyError as error:
    raise ValueError("no such class") from error
"""
ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def written_by(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (CHAINED, "ValueError: no such class"),
        ("import threading\nthreading.Thread(target=lambda: 1 / 0, name='a').start()", "ZeroDivisionError: division by zero"),
        ("class A:\n def __del__(self): 1 / 0\nA()", "ZeroDivisionError: division by zero"),
    ],
)
def test_traceback_is_within_one_message_and_the_next_line_is_another(code, last):
    messages = Messages()
    lines = ["warning: before", *written_by(code).splitlines(), "warning: after"]
    found = [one for line in lines for one in messages.add(line)] + list(messages.end())
    assert found[0] == "warning: before"
    assert all("most recent call" in one for one in found[1:-1])
    assert found[-1] == "warning: after"
    assert fields_of(found[-2])["why"] == last
    assert "Traceback" in fields_of(found[-2])["traceback"]


def test_what_serve_writes_on_standard_error_becomes_steps(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", ErrorSteps(Steps(True)))

    def fails():
        raise SeeFoodError("nothing can be served: an archive is broken\n  its log line\n  another")

    assert run(fails) == 1
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        traceback.print_exc()
        sys.stderr.flush()
    thread = threading.Thread(target=lambda: [].pop(), name="one")
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    thread.start()
    thread.join()
    sys.stderr.flush()
    error, division, of_thread = lines_of(capsys)
    assert error["why"] == "nothing can be served: an archive is broken"
    assert "its log line" in error["traceback"]
    assert division["why"] == "ZeroDivisionError: division by zero"
    assert of_thread["why"] == "IndexError: pop from empty list"
    assert "Exception in thread one" in of_thread["traceback"]


def test_what_a_door_writes_as_it_ends_is_one_line(capsys):
    door = Door("127.0.0.1", 0, ADDRESSES, Settings(), Steps(True), dict)
    door._command = [sys.executable, "-c", "import sys\nprint('warning: a', file=sys.stderr)\n" + CHAINED]
    door._start()
    door._process.wait()
    lines = []
    while len(lines) < 3:
        lines += lines_of(capsys)
    assert [(line["step"], line["why"]) for line in lines] == [
        ("door", "warning: a"),
        ("door", "KeyError: 'a'"),
        ("door", "ValueError: no such class"),
    ]
    assert "Traceback" in lines[2]["traceback"]
    door.stop()


@pytest.mark.parametrize("why", ["a" * 100_000, "é" * 100_000, "\n" * 100_000])
def test_line_is_no_longer_than_a_pipe_keeps_together_and_a_texts_end_is_in_it(why, capsys):
    Steps(True)("problem", version="1.0.0", why=why + "the end", traceback="b" * 10_000)
    (text,) = capsys.readouterr().out.splitlines()
    assert len(text.encode()) < MOST_BYTES
    line = json.loads(text)
    assert (line["step"], line["version"], line["why"][-7:]) == ("problem", "1.0.0", "the end")


def test_server_that_cannot_start_writes_json_alone(tmp_path):
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--model-store", str(tmp_path)]
    environment = os.environ | {"SEEFOOD_LOG_JSON": "true", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["step"] == "error"
    assert str(tmp_path) in line["why"]
