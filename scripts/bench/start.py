"""How soon a server answers: `make bench-start`. From its start to the first right answer to a golden photo, through the door.

The first start compiles the programs, and after it Java's classes are put into an archive; it is not counted. The starts after it
have a warm disk, as each but the first has on a machine. CPU is that of all the server's processes by then: where other work uses
the cores, compare it, and not the seconds on the clock.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from scripts.archive.name import choose_archive, split_name
from scripts.archive.read import unpack
from scripts.backend.torchserve.environment import java_home
from scripts.backend.torchserve.front_end import FrontEnd
from scripts.backend.torchserve.versions import Golden, read_golden
from scripts.bench.server import READY_TIMEOUT_S, STOP_TIMEOUT_S, BenchError, free_port, run_dir_of
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.serving.instance_metrics import Processes

POLL_S = 0.01
PARTS = ("serve", "door", "torchserve", "worker")


class Start(NamedTuple):
    """Seconds until the first right answer, and CPU seconds by part until then."""

    seconds: float
    cpu_s: dict[str, float]


def start(archive: Path, port: int, golden: Golden) -> Start:
    """Start a server on this port, and end it after its first right answer. BenchError if it gives none."""
    model, version = split_name(archive)
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(port), "--run-dir", str(run_dir_of(port))]
    command += ["--model-store", str(archive.parent), "--model", model, "--version", version]
    environment = {name: value for name, value in os.environ.items() if name != "SEEFOOD_RELEASE"}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not _is_answered(f"http://127.0.0.1:{port}/predictions/{model}", golden):
                if server.poll() is not None or time.monotonic() - began > READY_TIMEOUT_S:
                    output.seek(0)
                    raise BenchError(f"our server gives no right answer:\n{output.read().strip()}")
                time.sleep(POLL_S)
            seconds = time.monotonic() - began
            return Start(seconds, Processes(psutil.Process(server.pid)).read()[0])
        finally:
            _wait_for_classes(server.pid)
            server.terminate()
            server.wait(timeout=STOP_TIMEOUT_S)


def _is_answered(url: str, golden: Golden) -> bool:
    """Whether the first golden photo is answered rightly now."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
        answer = httpx.post(url, content=golden.photos[0], headers={"x-top-k": str(golden.num_classes)}, trust_env=False).json()
        off, tolerance = golden.off(0, answer["predictions"])
        return bool(off <= tolerance)
    return False


def _wait_for_classes(pid: int) -> None:
    """Return once the archive of classes is there, if the server of this process makes one (front_end.py)."""
    front_end, deadline = FrontEnd(java_home()), time.monotonic() + READY_TIMEOUT_S
    while front_end.lacks_archive and psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(1.0)


def bench(args: argparse.Namespace) -> None:
    """Measure and print. BenchError, ValueError or OSError if that cannot be."""
    archive = choose_archive(args.model_store, None, args.model)
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder) / "archive")
        golden = read_golden(Path(folder) / "archive")
    port = free_port()
    try:
        start(archive, port, golden)
        print(f"{archive.name}, {counted(args.rounds, 'start')}\n")
        print("start    s to the first right answer   CPU s   " + "   ".join(PARTS))
        starts = []
        for i in range(args.rounds):
            starts.append(start(archive, port, golden))
            _print(str(i + 1), starts[-1])
        cpu_s = {part: statistics.median(one.cpu_s[part] for one in starts) for part in PARTS}
        _print("median", Start(statistics.median(one.seconds for one in starts), cpu_s))
    finally:
        shutil.rmtree(run_dir_of(port), ignore_errors=True)


def _print(name: str, one: Start) -> None:
    parts = "   ".join(f"{one.cpu_s[part]:{len(part)}.2f}" for part in PARTS)
    print(f"{name:6}   {one.seconds:28.2f}   {sum(one.cpu_s.values()):5.2f}   {parts}", flush=True)


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--model", metavar="NAME")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
