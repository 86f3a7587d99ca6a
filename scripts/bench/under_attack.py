"""What ordinary clients get while the door is attacked: `make bench-attacks`. Each attack comes from a process of its own.

For each: photos/s and the median latency of some ordinary clients in peace, and right after it under the attack; answers that were
no 200; the door's memory before, and its most meanwhile.
"""

import argparse
import contextlib
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from scripts.archive.name import choose_archive, split_name
from scripts.bench.attacks import ATTACKS, MEGABYTE, Seen, Stop
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import closed_loop
from scripts.bench.photos import read_photos
from scripts.bench.result import Result
from scripts.bench.server import BenchError, own_server
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.phrases import counted

WARM_UP_S, TIMEOUT_S = 1.0, 60.0
BEGIN_S = 5.0  # for an attack to begin in full
END_S = 60.0
LOOK_S = 0.1  # between two looks at the door's memory


def attack(name: str, port: int, stop: Stop) -> Seen:
    """In its own process: no descriptors or threads of the ordinary clients' are used."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return ATTACKS[name](port, stop)


@contextlib.contextmanager
def attacked(name: str, port: int) -> Iterator[None]:
    """Inside `with`, the attack goes on."""
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    process = spawn.Process(target=attack, args=(name, port, stop))
    process.start()
    try:
        time.sleep(BEGIN_S)
        yield
    finally:
        stop.set()
        process.join(END_S)
        process.kill()
    if process.exitcode:
        raise BenchError(f"the attack {name!r} ended by itself: status {process.exitcode}")


class Memory:
    """The door's memory in MB: before, and at most inside `with`."""

    def __init__(self, port: int) -> None:
        self.process = door_at(port)
        self.before = self.most = self._now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        return int(self.process.memory_info().rss) // MEGABYTE


def door_at(port: int) -> psutil.Process:
    """The door's process of our own server."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "scripts.door.door" in words and words[words.index("--port") + 1] == str(port):
                return process
    raise BenchError(f"there is no door on port {port}")


def bench(args: argparse.Namespace) -> None:
    """Measure and print. BenchError, ValueError or OSError if that cannot be."""
    unknown = sorted(set(args.attacks) - set(ATTACKS))
    if unknown:
        raise ValueError(f"there is no attack {unknown[0]!r}, expected one of: {'; '.join(ATTACKS)}")
    archive = choose_archive(args.model_store, None, args.model)
    with own_server(archive, args.model) as url:
        target, port = Target.of(url, f"/predictions/{split_name(archive)[0]}"), urlsplit(url).port or 80
        requests = [build_request(target, photo, "image/jpeg") for _, photo in read_photos(args.photos)]
        print(f"{counted(args.clients, 'ordinary client')}, {args.seconds:g} s in peace and {args.seconds:g} s under each attack\n")
        print("photos/s in peace   under attack   ratio   p50 ms in peace   under attack   not 200   MB of the door, most   attack")
        for name in args.attacks:
            with Memory(port) as memory:
                before = closed_loop(target, requests, args.clients, args.seconds, WARM_UP_S, TIMEOUT_S)
                with attacked(name, port):
                    under = closed_loop(target, requests, args.clients, args.seconds, WARM_UP_S, TIMEOUT_S)
            print(row(name, before, under, memory), flush=True)


def row(name: str, before: Result, under: Result, memory: Memory) -> str:
    """A line of the table. BenchError if there was no answer at all."""
    if not before.latencies_ms or not under.latencies_ms:
        raise BenchError(f"no photo was answered at {name!r}; the first error was {before.first_error or under.first_error}")
    ratio, failed = under.throughput / before.throughput, sum(before.errors.values()) + sum(under.errors.values())
    medians = f"{before.percentile(50):15.1f}   {under.percentile(50):12.1f}"
    rates = f"{before.throughput:17.1f}   {under.throughput:12.1f}   {ratio:5.2f}"
    return f"{rates}   {medians}   {failed:7}   {memory.before:14} {memory.most:7}   {name}"


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("attacks", nargs="*", default=list(ATTACKS), metavar="ATTACK", help="its name; default: all")
    options.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones of 512 px")
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--model", metavar="NAME")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
