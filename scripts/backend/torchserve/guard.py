"""Runs TorchServe, and ends all its processes when the server is gone: `python guard.py SECONDS COMMAND ...`.

Its stdin is a pipe from the server (process.py). The kernel closes that pipe however the server ends, SIGKILL included. Then,
or when the server closes it to stop TorchServe, or when TorchServe has ended by itself, all processes of this group get
SIGTERM, and SIGKILL after SECONDS. A byte in the pipe means SIGKILL at once. Must lead a process group of its own.

Imports nothing of this project: it is run by its path, in an environment without PYTHONPATH.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def others() -> "list[psutil.Process]":
    """The other processes of this process's group."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and os.getpgid(process.pid) == os.getpgrp():
                found.append(process)
        except ProcessLookupError:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def end_others(child: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return when no other process of the group is left: SIGTERM first, SIGKILL after the time-out."""
    import psutil

    deadline = time.monotonic() + timeout_s
    os.killpg(os.getpgrp(), signal.SIGTERM)
    while True:
        child.poll()
        try:
            left = others()
            if not left:
                return
            if time.monotonic() > deadline:
                for process in left:  # in each round: one may just have started another
                    process.kill()
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)


def main() -> int:
    """Run the command until it ends or the pipe closes; its exit status."""
    # this process gets the SIGTERM that it sends to its group. A handler, since the children would inherit SIG_IGN
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    timeout_s, command = float(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # what ends the others is imported now: the command starts sooner, and at the end memory or files may be short
    import psutil  # noqa: F401

    over = threading.Event()
    received: list[bytes] = []

    def read_pipe() -> None:
        received.append(os.read(0, 1))
        over.set()

    def wait_for_child() -> None:
        child.wait()
        over.set()

    # daemons: one of them may wait for ever
    for target in (read_pipe, wait_for_child):
        threading.Thread(target=target, daemon=True).start()
    over.wait()
    end_others(child, 0 if received and received[0] else timeout_s)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
