"""How fast is a server: `make bench`, or `python -m scripts.bench.bench --url http://host:port --photos folder`.

Without --url our own server is started on a free port, and stopped in the end. Any other will do that takes a photo by POST on
--route, as the raw body or as a form's field (--field). scripts/bench/load.py describes the load. Beside it, for a server on this
machine and where an archive is at hand, stands the in-process ceiling (scripts/bench/ceiling.py), measured before and after,
as a machine's speed drifts: the mean counts. A table on the terminal; bench.json and bench.png in --out.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handler.limits import MAX_PIXELS
from scripts.archive.name import choose_archive, find_archives, split_name
from scripts.archive.read import unpack
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import MAX_CONCURRENCY, closed_loop, open_loop
from scripts.bench.photos import read_photos
from scripts.bench.report import notes, step_name, table, to_json, write
from scripts.bench.result import Result
from scripts.bench.server import BenchError, is_local, own_server, probe
from scripts.command import parser, run
from scripts.machine import cpu
from scripts.paths import ROOT
from scripts.phrases import counted

CONCURRENCY = (1, 4, 16, 32)
WARM_UP_S = 5.0  # of a server before the first step: about a thousand requests until a JVM has compiled what they use


def measure_ceiling(archive: Path, photos: Path | None, seconds: float, megapixels: float | None = None) -> dict[str, Any]:
    """The figures of scripts/bench/ceiling.py, in its own process. BenchError with its last line if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "archive"
        unpack(archive, unpacked)
        command = [sys.executable, "-m", "scripts.bench.ceiling", str(unpacked), "--seconds", str(seconds)]
        command += ["--photos", str(photos.resolve())] if photos else []
        command += ["--megapixels", str(megapixels)] if megapixels else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
        raise BenchError(f"no ceiling: {archive.name} fails in process: {reason}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"archive": archive.name, **measured}


def mean_of(ceilings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ceilings before and after the load as one: a machine's speed drifts in a minute, and both sides must have the same."""
    means = {name: statistics.mean(ceiling[name] for ceiling in ceilings) for name in ("photos_per_s", "latency_ms")}
    return {**ceilings[0], **means}


def run_steps(target: Target, requests: Sequence[bytes], args: argparse.Namespace) -> list[Result]:
    """All steps of load, each with a line when it is done. BenchError if the server answers only errors."""
    rates = args.rate or []
    concurrencies = args.concurrency or ([] if rates else list(CONCURRENCY))
    warm_up_s = min(2.0, args.seconds)
    closed_loop(target, requests, max(concurrencies, default=1), min(WARM_UP_S, args.seconds), 0, args.timeout)
    results: list[Result] = []
    for load, settings in ((closed_loop, concurrencies), (open_loop, rates)):
        for setting in settings:
            result = load(target, requests, setting, args.seconds, warm_up_s, args.timeout)
            if not result.latencies_ms and not results:
                raise BenchError(f"{target.url} answers only errors; the first was {result.first_error or 'none in time'}")
            print(f"  {step_name(result)}: {result.throughput:.1f} photos/s, median {result.percentile(50):.1f} ms", flush=True)
            results.append(result)
    return results


def archive_of(args: argparse.Namespace) -> Path | None:
    """The archive that our own server serves, or whose ceiling stands beside another here. ValueError if there is none."""
    if args.url is not None and not (is_local(Target.of(args.url).host) and find_archives(args.model_store, args.model)):
        return None
    return choose_archive(args.model_store, args.version, args.model)


def route_of(args: argparse.Namespace, archive: Path | None) -> str:
    """The path that takes photos. BenchError if neither that nor the model's name is known."""
    model = args.model or (split_name(archive)[0] if archive else None)
    if args.route is None and model is None:
        raise BenchError(f"the path of {args.url} is unknown: set ROUTE=/predict, or MODEL=name for /predictions/name")
    return args.route or f"/predictions/{model}"


@contextmanager
def server_of(args: argparse.Namespace, archive: Path | None) -> Iterator[str]:
    """The address of the server under load, which is our own unless one is named."""
    if args.url:
        yield args.url
        return
    assert archive is not None
    with own_server(archive, args.model) as url:
        yield url


def measured_ceilings(archive: Path | None, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One ceiling, or none if there is no archive or it fails; a line says so."""
    if archive is None:
        return []
    try:
        ceiling = measure_ceiling(archive, args.photos, args.seconds, args.megapixels)
    except BenchError as error:
        print(f"  {error}", flush=True)
        return []
    print(f"  in process: {ceiling['photos_per_s']:.1f} photos/s", flush=True)
    return [ceiling]


def bench(args: argparse.Namespace) -> None:
    """Measure, print, write. BenchError, ValueError or OSError if that cannot be."""
    photos, archive = read_photos(args.photos, args.megapixels), archive_of(args)
    route = route_of(args, archive)
    server = Target.of(args.url, route).url if args.url else f"our server, {archive.name if archive else None}"
    kind = f"of {args.photos}" if args.photos else "drawn here, 512 px"
    if args.megapixels:
        kind += f", enlarged to {args.megapixels:g} megapixels as a phone writes them"
    print(f"{server}: {counted(len(photos), 'photo')} {kind}", flush=True)
    if args.url:
        probe(Target.of(args.url, route))  # before the ceiling takes its time
    ceilings = measured_ceilings(archive, args)
    with server_of(args, archive) as url:
        target = Target.of(url, route)
        requests = [build_request(target, photo, mime_type, args.field) for mime_type, photo in photos]
        results = run_steps(target, requests, args)
    ceilings += measured_ceilings(archive, args)
    ceiling = mean_of(ceilings) if ceilings else None
    made_by = f"{cpu()}, {ceiling['format']} {ceiling['precision']}" if ceiling else f"{cpu()}, format and precision unknown"
    report = {
        "url": server,
        "photos": len(photos),
        "photo_bytes": sum(len(photo) for _, photo in photos) // len(photos),
        "cpu": cpu(),
        "machine": platform.platform(),
        "ceiling": ceiling,
        "steps": [to_json(result, ceiling) for result in results],
    }
    print(f"\n{made_by}\n" + table(results, ceiling) + "\n")
    for note in notes(results, ceiling):
        print(note)
    print("written: " + ", ".join(write(report, args.out)))


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    options = parser(__doc__)
    options.add_argument("--url", help="a server's address, http://host:port; default: our own server, started for this")
    options.add_argument("--route", help="the path that takes photos; default: /predictions/MODEL")
    options.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones of 512 px")
    options.add_argument("--megapixels", type=float, help="the first of them, enlarged to so many, as a phone writes them")
    options.add_argument("--concurrency", type=int, nargs="+", help=f"closed loop, default {CONCURRENCY}")
    options.add_argument("--rate", type=float, nargs="+", help="open loop: requests/s (then a closed loop only if asked for)")
    options.add_argument("--seconds", type=float, default=10.0, help="of each step, after its warm-up")
    options.add_argument("--timeout", type=float, default=30.0, help="seconds after which a request counts as timed out")
    options.add_argument("--field", help="send photos as this field of a multipart form")
    options.add_argument("--model", metavar="NAME", help="serve this model; default: the only one in the model store")
    options.add_argument("--version", help="serve this version, not the newest; the ceiling's, too")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    options.add_argument("--out", type=Path, default=Path("build/bench"))
    args = options.parse_args()
    if not all(1 <= number <= MAX_CONCURRENCY for number in args.concurrency or []):
        options.error(f"CONCURRENCY is {args.concurrency}, expected numbers from 1 to {MAX_CONCURRENCY}")
    if not all(0 < number < math.inf for number in [args.seconds, args.timeout, *(args.rate or [])]):
        options.error("SECONDS, RATE and --timeout are positive numbers")
    if args.megapixels is not None and not 0 < args.megapixels <= MAX_PIXELS / 1e6:
        options.error(f"MEGAPIXELS is {args.megapixels:g}, expected a number over 0, at most {MAX_PIXELS / 1e6:.0f}")
    return args


def main() -> None:
    """Command line; see the module's docstring."""
    bench(arguments())


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
