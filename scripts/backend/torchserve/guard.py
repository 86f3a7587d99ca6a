"""Runs TorchServe, and ends all of it when serve.py is gone: `python guard.py SECONDS COMMAND ...`, serve.py's pipe as stdin.

The kernel closes that pipe however serve.py ends, SIGKILL included. Then, or when serve.py closes it to stop TorchServe, or
when TorchServe itself has ended, all processes of this group get SIGTERM, and SIGKILL after SECONDS; a letter in the pipe
means SIGKILL at once. Must be the leader of a process group of its own.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil


def others() -> list[psutil.Process]:
    """The processes of this process's group, itself excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and os.getpgid(process.pid) == os.getpgrp():
                found.append(process)
        except ProcessLookupError:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def end_others(child: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return when no other process of the group is left: SIGTERM, and SIGKILL after the time-out."""
    deadline = time.monotonic() + timeout_s
    os.killpg(os.getpgrp(), signal.SIGTERM)
    while True:
        child.poll()
        try:
            left = others()
            if not left:
                return
            if time.monotonic() > deadline:
                for process in left:  # again and again: one may just be starting another
                    process.kill()
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)


def main() -> int:
    """Run the command until it ends or shall end; its exit status."""
    # a handler, as SIG_IGN would be inherited: what this process sends to its group must not end itself
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    timeout_s, command = float(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    over = threading.Event()
    told: list[bytes] = []

    def read_pipe() -> None:
        told.append(os.read(0, 1))
        over.set()

    def wait_for_child() -> None:
        child.wait()
        over.set()

    for target in (read_pipe, wait_for_child):
        threading.Thread(target=target, daemon=True).start()
    over.wait()
    end_others(child, 0 if told and told[0] else timeout_s)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
