"""What Python writes on standard error, in a log of JSON: one line for each message, a traceback within it."""

import io
import json
import os
import subprocess
import sys
import threading
import traceback
from types import SimpleNamespace

import pytest

from scripts.backend.torchserve.sockets import Addresses
from scripts.command import run
from scripts.errors import SeeFoodError
from scripts.serving.door import Door
from scripts.serving.plain_text import MOST_LINES, MOST_TEXT, ErrorSteps, Messages, fields_of
from scripts.settings import Settings
from scripts.steps import MOST_BYTES, Steps
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.waiting import until

CHAINED = """
def f(): raise KeyError("a")
try:
    f()
except KeyError as error:
    raise ValueError("no such class") from error
"""
ADDRESSES = Addresses("unix:/nowhere/inference", "unix:/nowhere/management", "unix:/nowhere/metrics")


@pytest.fixture
def logged(monkeypatch):
    """logged(): the steps so far. In a loop, capsys loses what another thread prints between its reading and its emptying."""
    printed = io.StringIO()
    # in sys itself pytest sets its own again, before the test begins
    monkeypatch.setattr("scripts.steps.sys", SimpleNamespace(stdout=printed))
    return lambda: [json.loads(line) for line in printed.getvalue().splitlines()]


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


UNFLUSHED = {
    "no newline": ("sys.stderr.write('a line')", ["a line"]),
    "a newline and no flush": ("sys.stderr.write('a line\\n')", ["a line"]),
    "a thread that goes on": (
        "threading.Thread(target=lambda: (sys.stderr.write('of a thread'), time.sleep(60)), daemon=True).start(); time.sleep(0.2)",
        ["of a thread"],
    ),
    "a warning": ("warnings.warn('be careful', UserWarning)", ["<string>:2: UserWarning: be careful"]),
    "a warning with its line": (
        "warnings.showwarning('careful', UserWarning, 'a.py', 3, line='code()')",
        ["a.py:3: UserWarning: careful"],
    ),
    "two warnings": (
        "[warnings.showwarning(f'no {n}', UserWarning, 'a.py', n, line='x()') for n in (1, 2)]",
        ["a.py:1: UserWarning: no 1", "a.py:2: UserWarning: no 2"],
    ),
    "a destructor": ("A = type('A', (), {'__del__': lambda self: 1 / 0}); A()", ["ZeroDivisionError: division by zero"]),
    "its end by an error": ("1 / 0", ["ZeroDivisionError: division by zero"]),
}


@pytest.mark.parametrize("case", UNFLUSHED)
def test_what_is_never_flushed_is_logged_when_the_process_ends(case):
    code, expected = UNFLUSHED[case]
    begin = (
        "import sys, threading, time, warnings; from scripts.steps import Steps; from scripts.serving.plain_text import ErrorSteps"
    )
    command = [sys.executable, "-c", f"{begin}; sys.stderr = ErrorSteps(Steps(True))\n{code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.stderr == ""
    assert [json.loads(line)["why"] for line in done.stdout.splitlines()] == expected


def test_what_is_never_flushed_is_logged_while_the_process_goes_on(logged):
    stderr = ErrorSteps(Steps(True))
    stderr.write("half a line")
    until(logged)
    stderr.write(" and the rest\n")
    until(lambda: len(logged()) > 1)
    assert [line["why"] for line in logged()] == ["half a line", " and the rest"]


def test_threads_that_write_at_a_time_get_a_message_each(capsys):
    stderr, together = ErrorSteps(Steps(True)), threading.Barrier(8)

    def fail(number):
        try:
            raise ValueError(number)
        except ValueError as error:
            lines = traceback.format_exception(error)
        for line in lines:
            together.wait()  # each thread's first line, then each one's second, ...
            stderr.write(line)
        together.wait()

    threads = [threading.Thread(target=fail, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stderr.flush()
    lines = lines_of(capsys)
    assert sorted(line["why"] for line in lines) == [f"ValueError: {number}" for number in range(8)]
    assert all(line["traceback"].count("Traceback") == 1 for line in lines)


def test_message_that_never_ends_takes_no_more_than_its_bounds_and_keeps_its_first_line_and_its_last():
    messages = Messages()
    lines = ["Traceback (most recent call last):", *(f'  File "{n}"' + "x" * 10_000 for n in range(5000)), "KeyError: 'the end'"]
    (found,) = [one for line in lines for one in messages.write(line + "\n")]
    assert found.count("\n") <= MOST_LINES
    assert len(found) <= MOST_TEXT + 100
    assert found.startswith("Traceback")
    assert fields_of(found)["why"] == "KeyError: 'the end'"
    assert "lines left out" in found
    for _ in range(1000):  # a line without an end
        assert list(messages.write("y" * 1000)) == []
    (found,) = messages.end()
    assert len(found) < MOST_TEXT


def test_lines_that_are_messages_by_themselves_stay_so_and_indented_ones_belong_to_the_one_before():
    text = "warning: a\nwarning: b\n  of b\r\n\nc\nerror: it failed\nits second line\nerror: another\n"
    messages = Messages()
    found = list(messages.write(text)) + list(messages.end())
    assert found == ["warning: a", "warning: b\n  of b", "c", "error: it failed\nits second line", "error: another"]


def door_that_runs(code):
    door = Door("127.0.0.1", 0, ADDRESSES, Settings(), Steps(True), dict)
    door._command = [sys.executable, "-c", code]
    door._start()
    return door


def test_what_a_door_writes_without_a_newline_is_logged_while_it_runs(logged):
    door = door_that_runs("import sys, time\nsys.stderr.write('no newline')\nsys.stderr.flush()\ntime.sleep(600)")
    until(logged)
    assert [(line["step"], line["why"]) for line in logged()] == [("door", "no newline")]
    door.stop()


def test_what_a_door_writes_as_it_ends_is_one_line(logged):
    door = door_that_runs("import sys\nprint('warning: a', file=sys.stderr)\n" + CHAINED)
    door._process.wait(LIMIT_S)
    until(lambda: len(logged()) >= 3)
    assert [(line["step"], line["why"]) for line in logged()] == [
        ("door", "warning: a"),
        ("door", "KeyError: 'a'"),
        ("door", "ValueError: no such class"),
    ]
    assert "Traceback" in logged()[2]["traceback"]
    door.stop()


@pytest.mark.parametrize("why", ["a" * 100_000, "é" * 100_000, "\n" * 100_000])
def test_line_is_no_longer_than_a_pipe_keeps_together_and_a_texts_end_is_in_it(why, capsys):
    Steps(True)("problem", version="1.0.0", why=why + "the end", traceback="b" * 10_000)
    (text,) = capsys.readouterr().out.splitlines()
    assert len(text.encode()) < MOST_BYTES
    line = json.loads(text)
    assert (line["step"], line["version"], line["why"][-7:]) == ("problem", "1.0.0", "the end")


@pytest.mark.parametrize(
    "details",
    [
        {"photos": ["a.jpg"] * 100_000},
        {"photos": ["a" * 100_000]},
        {"counts": {str(number): number for number in range(10_000)}},
        {"deep": [[["a"] * 10_000] * 3], "why": "b" * 10_000},
        {f"name_{number}": number for number in range(5000)},
        {"seconds": [0.123456] * 10_000, "why": "short"},
    ],
)
def test_line_is_bounded_whatever_its_details_are(details, capsys):
    Steps(True)("problem", **details)
    (text,) = capsys.readouterr().out.splitlines()
    assert len(text.encode()) < MOST_BYTES
    assert json.loads(text)["step"] == "problem"


def test_server_that_cannot_start_writes_json_alone(tmp_path):
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--model-store", str(tmp_path)]
    environment = os.environ | {"SEEFOOD_LOG_JSON": "true", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["step"] == "error"
    assert str(tmp_path) in line["why"]
