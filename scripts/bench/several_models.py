"""What several models on one server cost each other: `make bench-models`. One exported model, packed under several names.

Prints the memory of all processes of the server, then what clients of one model get in turns of peace and of something else:
another model's new version is watched, or another model is flooded. Each turn stands beside the mean of the peace before and after
it, as a machine's speed drifts; of these ratios the median counts.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from scripts.backend.torchserve.process import PID_FILE
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import closed_loop
from scripts.bench.photos import read_photos
from scripts.bench.result import Result
from scripts.bench.server import BenchError, own_server, run_dir_of
from scripts.command import parser, run
from scripts.machine import cpu
from scripts.paths import ROOT

MODELS = ("quiet", "other", "third")
WARM_UP_S, TIMEOUT_S = 1.0, 60.0
FLOOD = 64  # clients
RAMP_S = 2.0  # until all of a flood's clients wait
SPARE_S = 4.0  # for which a version is watched longer than a measurement takes

Measure = Callable[[], Result]


def command(module: str, *arguments: object, **settings: str) -> "subprocess.Popen[str]":
    """A command of ours, as people give it."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def over(process: "subprocess.Popen[str]") -> None:
    """Wait for its end. BenchError with its last words if it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise BenchError(f"a command failed: {output.strip()[-500:]}")


def memory_mb(port: int) -> dict[str, float]:
    """The proportional set size of each process of our own server, in MB, summed by the program's name."""
    head = psutil.Process(int((run_dir_of(port) / PID_FILE).read_text()))
    parts: dict[str, float] = {}
    for process in [head, *head.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            command = " ".join(process.cmdline())
            names = {"model_service_worker": "workers", "handler.decoder": "decoders", "scripts.door": "door", "java": "JVM"}
            part = next((name for word, name in names.items() if word in command), "serve and the rest")
            parts[part] = parts.get(part, 0.0) + process.memory_full_info().pss / 1e6
    return parts


def flood(port: int, model: str, seconds: float, photos: list[bytes]) -> None:
    """In a process of its own: many clients of one model."""
    target = Target.of(f"http://127.0.0.1:{port}", f"/predictions/{model}")
    closed_loop(target, [build_request(target, photo, "image/jpeg") for photo in photos], FLOOD, seconds, 0.0, TIMEOUT_S)


@contextlib.contextmanager
def flooded(port: int, model: str, seconds: float, photos: list[bytes]) -> Iterator[None]:
    """Inside `with`, a model has far more clients than it can answer."""
    seconds += WARM_UP_S + 2 * RAMP_S
    process = multiprocessing.get_context("spawn").Process(target=flood, args=(port, model, seconds, photos))
    process.start()
    try:
        time.sleep(RAMP_S)
        yield
    finally:
        process.join(seconds + TIMEOUT_S)
        process.kill()


@contextlib.contextmanager
def watched(version: str, model: str, seconds: float, rollout: Sequence[object]) -> Iterator[None]:
    """Inside `with`, another version is served and watched: golden photos, and all that loading it takes, are over."""
    bake_s = seconds + WARM_UP_S + SPARE_S
    settings = {"SEEFOOD_BAKE_S": str(bake_s), "SEEFOOD_LOG_JSON": "true"}
    going = command("scripts.rollout.rollout", *rollout, version, "--model", model, "--answers", "unjudged", **settings)
    assert going.stdout is not None
    lines = []
    for line in going.stdout:
        lines.append(line)
        if line.startswith("{") and json.loads(line).get("step") == "watching":
            break
    try:
        if not lines or going.poll() is not None:
            raise BenchError(f"version {version} of {model} is not watched: {''.join(lines)[-500:]}")
        yield
    finally:
        over(going)


def in_turns(measure: Measure, pairs: int, what: str, meanwhile: Callable[[int], AbstractContextManager[None]]) -> None:
    """Measure peace, then by turns `meanwhile` and peace; print each, and the ratios of p99 and throughput."""
    peace = [measure()]
    _row(peace[0], "nothing")
    others = []
    for number in range(pairs):
        with meanwhile(number):
            others.append(measure())
        _row(others[-1], what)
        peace.append(measure())
        _row(peace[-1], "nothing")
    for name, figure in (("p99", _p99), ("photos/s", _throughput)):
        print(f"{what}, {name}: {ratios([figure(one) for one in others], [figure(one) for one in peace])}", flush=True)


def ratios(others: Sequence[float], peace: Sequence[float]) -> str:
    """The median and range of each of N figures by the mean of the two of N + 1 figures of peace around it."""
    found = [one / statistics.mean(around) for one, around in zip(others, itertools.pairwise(peace), strict=True)]
    return f"{statistics.median(found):.2f} times that of peace ({min(found):.2f} to {max(found):.2f}, {len(found)} pairs)"


def bench(args: argparse.Namespace) -> None:
    """Measure and print. BenchError, ValueError or OSError if that cannot be."""
    photos = [photo for _, photo in read_photos(args.photos)]
    versions = "1.0.0", "1.1.0"
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "release.json"
        rollout = ("--release", release, "--model-store", release.parent, "start")
        for model, version in [*((model, versions[0]) for model in MODELS[: args.models]), (MODELS[1], versions[1])]:
            packed = ("--version", version, "--model", model, "--model-store", release.parent)
            over(command("scripts.archive.build", args.exported, *packed))
            if version == versions[0]:
                over(command("scripts.rollout.rollout", *rollout, version, "--model", model, "--unwatched"))
        with own_server(release=release) as url:
            port = urlsplit(url).port or 80
            target = Target.of(url, f"/predictions/{MODELS[0]}")
            requests = [build_request(target, photo, "image/jpeg") for photo in photos]

            def measure() -> Result:
                return closed_loop(target, requests, args.clients, args.seconds, WARM_UP_S, TIMEOUT_S)

            def another(number: int) -> AbstractContextManager[None]:
                return watched(versions[(number + 1) % 2], MODELS[1], args.seconds, rollout)

            busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
            print(f"{cpu()}; load average at the start {busy}")
            _show_memory(f"{args.models} models, started", memory_mb(port))
            print("photos/s    p50 ms    p99 ms   not 200   meanwhile")
            in_turns(measure, args.pairs, "another model's new version is watched", another)
            in_turns(
                measure,
                args.pairs,
                f"{FLOOD} clients of another model",
                lambda _: flooded(port, MODELS[1], args.seconds, photos),
            )
            _show_memory(f"{args.models} models, after all this", memory_mb(port))


def _p99(result: Result) -> float:
    return result.percentile(99)


def _throughput(result: Result) -> float:
    return result.throughput


def _show_memory(what: str, parts: dict[str, float]) -> None:
    listed = ", ".join(f"{name} {size:.0f}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))
    print(f"{sum(parts.values()):.0f} MB (PSS) with {what}: {listed}", flush=True)


def _row(result: Result, meanwhile: str) -> None:
    figures = f"{result.throughput:8.1f}  {result.percentile(50):8.1f}  {result.percentile(99):8.1f}"
    print(f"{figures}  {sum(result.errors.values()):8}   {meanwhile}", flush=True)


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("--exported", type=Path, default=ROOT / "model_store" / "starter", help="folder that make export wrote")
    options.add_argument("--models", type=int, choices=(2, 3), default=3)
    options.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones of 512 px")
    options.add_argument("--clients", type=int, default=2)
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    options.add_argument("--pairs", type=int, default=5, help="measurements of each kind, between those of peace")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
