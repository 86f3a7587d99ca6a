"""The training process of a trial: watched while it runs, and ended with its sweep."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from training.tracking.store import CLOSE_S

POLL_S = 0.5
SAVE_S = 4 * CLOSE_S  # for a training to end its step, save its state and send its records


def watch(command: list[str], output: IO[bytes], should_prune: Callable[[], bool]) -> tuple[bool, int]:
    """Run a training until it ends; (whether it was pruned, its exit status). It never outlives this call."""
    # in a session of its own: Ctrl-C reaches the sweep alone, which then ends the training
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return False, process.wait(POLL_S)
            if should_prune():
                return True, _end(process)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> int:
    """End a process and all of its session, by SIGKILL what has not ended after SAVE_S. Its exit status."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAVE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def trainings(out: Path) -> list[psutil.Process]:
    """The processes that train into this folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()  # raises for a zombie, of which a container without an init keeps some
            if "training.train" in command and "--out" in command:
                given = Path(process.cwd(), command[command.index("--out") + 1])
                found += [process] if given.resolve() == out.resolve() else []
    return found


def end_left_over(out: Path) -> None:
    """End a training into this folder that outlived its sweep, after it has saved its state: two must not write there."""
    for end, limit_s in (("terminate", SAVE_S), ("kill", CLOSE_S)):
        for process in (left := trainings(out)):
            with suppress(psutil.Error):
                getattr(process, end)()
        ends_at = time.monotonic() + limit_s
        while left and trainings(out) and time.monotonic() < ends_at:
            time.sleep(POLL_S)
