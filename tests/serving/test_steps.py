"""Steps that nobody can read any more raise nothing, in whichever thread: a closed pipe, a full disk, no standard output at all."""

import contextlib
import os
import threading

import pytest

from scripts.steps import Steps


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def closed_terminal():
    parent, child = os.openpty()
    os.close(parent)
    return os.fdopen(child, "w")


def device(path, encoding="utf-8"):
    return os.fdopen(os.open(path, os.O_WRONLY), "w", encoding=encoding)


def closed():
    file = device(os.devnull)
    file.close()
    return file


OUTPUTS = {
    "broken pipe": broken_pipe,
    "closed terminal": closed_terminal,
    "full disk": lambda: device("/dev/full"),
    "closed": closed,
    "none": lambda: None,
    "that cannot write this": lambda: device(os.devnull, "ascii"),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_step_that_nobody_can_read_ends_no_thread(output, as_json, monkeypatch):
    file, over = OUTPUTS[output](), []
    monkeypatch.setattr("sys.stdout", file)
    steps = Steps(as_json)

    def run():
        for _ in range(3):
            steps("door", says="é" * 100_000)
            steps.say("é" * 100_000, "serving")
        over.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    monkeypatch.undo()
    assert over
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()
