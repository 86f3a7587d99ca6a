"""What several models on one server cost each other: `make bench-models`. One exported model, packed under several names.

Prints the memory of all processes of the server; what clients of one model get in peace, while another model's new version is
watched, once it is loaded, and while another model is flooded.
"""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from scripts.bench.http_message import Target, build_request
from scripts.bench.load import closed_loop
from scripts.bench.photos import read_photos
from scripts.bench.result import Result
from scripts.bench.server import BenchError, own_server, run_dir_of
from scripts.command import parser, run
from scripts.paths import ROOT

MODELS = ("quiet", "other", "third")
WARM_UP_S, TIMEOUT_S = 1.0, 60.0
FLOOD = 64  # clients
POLL_S = 0.2


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
    head = psutil.Process(int((run_dir_of(port) / "serve.pid").read_text()))
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
    process = multiprocessing.get_context("spawn").Process(target=flood, args=(port, model, seconds, photos))
    process.start()
    try:
        time.sleep(seconds / 4)
        yield
    finally:
        process.join(seconds + TIMEOUT_S)
        process.kill()


def loaded(port: int, model: str, version: str) -> None:
    """Return once the door knows that version."""
    url = f"http://127.0.0.1:{port}/v2/models/{model}/versions/{version}"
    while not httpx.get(url, trust_env=False, timeout=TIMEOUT_S).is_success:
        time.sleep(POLL_S)


def bench(args: argparse.Namespace) -> None:
    """Measure and print. BenchError, ValueError or OSError if that cannot be."""
    photos = [photo for _, photo in read_photos(args.photos)]
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "release.json"
        rollout = ("scripts.rollout.rollout", "--release", release, "--model-store", release.parent, "start")
        for model, version in [*((model, "1.0.0") for model in MODELS[: args.models]), (MODELS[1], "1.1.0")]:
            packed = ("--version", version, "--model", model, "--model-store", release.parent)
            over(command("scripts.archive.build", args.exported, *packed))
            if version == "1.0.0":
                over(command(*rollout, version, "--model", model, "--unwatched"))
        with own_server(release=release) as url:
            port = urlsplit(url).port or 80
            target = Target.of(url, f"/predictions/{MODELS[0]}")
            requests = [build_request(target, photo, "image/jpeg") for photo in photos]

            def measure(seconds: float) -> Result:
                return closed_loop(target, requests, args.clients, seconds, WARM_UP_S, TIMEOUT_S)

            _show_memory(f"{args.models} models, started", memory_mb(port))
            print("photos/s    p50 ms    p99 ms   not 200   meanwhile")
            _row(measure(args.seconds), "peace")
            bake_s = 2 * args.seconds + 10
            going = command(*rollout, "1.1.0", "--model", MODELS[1], SEEFOOD_BAKE_S=str(bake_s))
            began = time.monotonic()
            loaded(port, MODELS[1], "1.1.0")
            took_s = time.monotonic() - began
            _row(measure(args.seconds), f"another model's new version, loaded within {took_s:.0f} s, is watched")
            over(going)
            _row(measure(args.seconds), "peace again")
            with flooded(port, MODELS[1], 2 * args.seconds + 5, photos):
                _row(measure(args.seconds), f"{FLOOD} clients of another model")
            _row(measure(args.seconds), "peace again")
            _show_memory(f"{args.models} models, after all this", memory_mb(port))


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
    options.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
