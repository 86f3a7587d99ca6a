"""What the door costs: `make bench-door`. The same TorchServe through the door and by its own socket, in turn, in one run.

Both answer the same photos with the same worker, so that the difference is the door's: for each number of clients the throughput's
ratio, and the difference of the median latencies.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from scripts.archive.name import choose_archive, split_name
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import closed_loop
from scripts.bench.photos import read_photos
from scripts.bench.result import Result
from scripts.bench.server import BenchError, own_server, run_dir_of
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.phrases import counted

WARM_UP_S = 1.0
TIMEOUT_S = 60.0


class Step(NamedTuple):
    """The rounds of one number of clients: photos/s and median ms, through the door and without it."""

    clients: int
    door: list[Result]
    without: list[Result]

    @property
    def ratio(self) -> float:
        """The median, over the rounds, of the throughput through the door over that without it."""
        return statistics.median(one.throughput / other.throughput for one, other in zip(self.door, self.without, strict=True))

    @property
    def more_ms(self) -> float:
        """The median, over the rounds, of what the door adds to the median latency."""
        pairs = zip(self.door, self.without, strict=True)
        return statistics.median(one.percentile(50) - other.percentile(50) for one, other in pairs)


def measure(door: Target, without: Target, photos: list[bytes], clients: int, rounds: int, seconds: float) -> Step:
    """Rounds of load on both, each round in the other order than the one before. BenchError if one answers only errors."""
    step = Step(clients, [], [])
    sides = [(door, step.door), (without, step.without)]
    for _ in range(rounds):
        for target, results in sides:
            requests = [build_request(target, photo, "image/jpeg") for photo in photos]
            result = closed_loop(target, requests, clients, seconds, WARM_UP_S, TIMEOUT_S)
            if not result.latencies_ms:
                raise BenchError(f"{target.socket or target.url} answers only errors; the first was {result.first_error}")
            results.append(result)
        sides.reverse()
    return step


def bench(args: argparse.Namespace) -> None:
    """Measure and print. BenchError, ValueError or OSError if that cannot be."""
    archive = choose_archive(args.model_store, None, args.model)
    photos = [photo for _, photo in read_photos(args.photos)]
    route = f"/predictions/{split_name(archive)[0]}"
    with own_server(archive, args.model) as url:
        socket = run_dir_of(urlsplit(url).port or 80) / "sockets" / "inference"
        if not socket.exists():
            raise BenchError(f"there is no {socket}: TorchServe listens on no Unix socket on this machine")
        door, without = Target.of(url, route), Target.at_socket(str(socket.resolve()), route)
        print(f"{counted(len(photos), 'photo')}, {counted(args.rounds, 'round')} of {args.seconds:g} s each\n", flush=True)
        print("clients   photos/s through the door   without   ratio   p50 ms through the door   without    more", flush=True)
        for clients in args.concurrency:
            step = measure(door, without, photos, clients, args.rounds, args.seconds)
            rates = [statistics.median(one.throughput for one in side) for side in (step.door, step.without)]
            medians = [statistics.median(one.percentile(50) for one in side) for side in (step.door, step.without)]
            print(
                f"{clients:7}   {rates[0]:25.1f}   {rates[1]:7.1f}   {step.ratio:5.2f}"
                f"   {medians[0]:23.1f}   {medians[1]:7.1f}   {step.more_ms:5.1f}",
                flush=True,
            )


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones of 512 px")
    options.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 32])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0, help="of each side in each round, after its warm-up")
    options.add_argument("--model", metavar="NAME")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
