"""How fast is a server: `make bench`, or `python -m scripts.bench.bench --url http://host:port/path --photos folder`.

Without --url our own server is started on a free port, and stopped in the end; any other one that takes a photo by POST
will do, as the raw body or (--field) in a form. Load is described in scripts/bench/load.py. Beside it, for a server on this
machine and where an archive is at hand, the in-process ceiling (scripts/bench/ceiling.py), measured before and after,
as a machine's speed drifts: the mean counts. A table on the terminal; bench.json and bench.png in --out.
"""

import argparse
import ipaddress
import json
import math
import mimetypes
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.archive.build import MODEL, archive_version, choose_archive, find_archives
from scripts.bench.ceiling import read_photos
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import MAX_CONCURRENCY, PERCENTILES, Result, closed_loop, open_loop
from scripts.paths import ROOT
from scripts.serving.ports import PortError, check_ports

CONCURRENCY = (1, 4, 16, 32)
WARM_UP_S = 5.0  # of a server before the first step: some a thousand requests until a JVM has compiled what they use
PROBE_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 60.0


class BenchError(RuntimeError):
    """Nothing can be measured; the message says what is wrong and what to do."""


def free_port() -> int:
    """A port that is free with the four after it, which TorchServe takes, too."""
    while True:
        port = random.randrange(20000, 50000)
        try:
            check_ports("127.0.0.1", port)
        except PortError:
            continue
        return port


@contextmanager
def own_server(model_store: Path, version: str | None) -> Iterator[str]:
    """The address of our own server, while it runs on a free port. BenchError with its words if it does not start."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(port), "--model-store", str(model_store)]
    # a session of its own: Ctrl-C reaches this script alone, which then ends the server
    process = subprocess.Popen(
        command + (["--version", version] if version else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        else:
            raise BenchError("our server did not start:\n" + "".join(said).strip())
        yield f"http://127.0.0.1:{port}/predictions/{MODEL}"
    finally:
        process.terminate()
        process.communicate(timeout=STOP_TIMEOUT_S)
        shutil.rmtree(ROOT / "build" / f"serve-{port}", ignore_errors=True)  # its port will not come again


def probe(target: Target) -> None:
    """BenchError unless somebody listens there."""
    try:
        socket.create_connection((target.host, target.port), PROBE_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        raise BenchError(f"{target.url} does not answer: {error}. Is the server up? Without URL our own is started") from error


def is_local(host: str) -> bool:
    """Whether a server on that host shares this machine's cores."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def measure_ceiling(archive: Path, photos: Path | None, seconds: float) -> dict[str, Any]:
    """What scripts/bench/ceiling.py measures, in its own process. BenchError with its last words if it fails."""
    with tempfile.TemporaryDirectory() as unpacked:
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)
        command = [sys.executable, "-m", "scripts.bench.ceiling", unpacked, "--seconds", str(seconds)]
        command += ["--photos", str(photos.resolve())] if photos else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"no ceiling: {archive.name} fails in process: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"archive": archive.name, **measured}


def mean_of(ceilings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What stood around the steps of load: a machine's speed drifts in a minute, and both sides must have the same."""
    figures = {name: statistics.mean(ceiling[name] for ceiling in ceilings) for name in ("photos_per_s", "latency_ms")}
    return {**ceilings[0], **figures}


def step_name(result: Result) -> str:
    """How a step is called in the table."""
    return (
        f"{result.setting:g} connection{'s' * (result.setting > 1)}" if result.mode == "closed" else f"{result.setting:g}/s offered"
    )


def table(results: Sequence[Result], ceiling: dict[str, Any] | None) -> str:
    """One line a step, below one for the ceiling."""
    titles = ["", "photos/s", "of ceiling", *(f"p{p:g} ms" for p in PERCENTILES), "generator", "errors"]
    rows = [titles]
    if ceiling:
        alone = f"{ceiling['latency_ms']:.1f}"
        rows.append(["in process", f"{ceiling['photos_per_s']:.1f}", "1.00", alone, *[""] * len(PERCENTILES)])
    for result in results:
        share = f"{result.throughput / ceiling['photos_per_s']:.2f}" if ceiling else "-"
        latencies = ["-" if math.isnan(ms := result.percentile(p)) else f"{ms:.1f}" for p in PERCENTILES]
        errors = ", ".join(f"{count} x {kind}" for kind, count in sorted(result.errors.items())) or "none"
        rows.append([step_name(result), f"{result.throughput:.1f}", share, *latencies, f"{result.busy_share:.0%} busy", errors])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(titles))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        cells[0] = row[0].ljust(widths[0])
        cells[-1] = row[-1] if len(row) == len(titles) else ""
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def notes(results: Sequence[Result], ceiling: dict[str, Any] | None) -> list[str]:
    """What a reader of the table has to know."""
    said = []
    if ceiling:
        said.append(
            f"in process: {ceiling['archive']}, {ceiling['precision']}, batches of {ceiling['batch_size']}; "
            "its latency is that of one photo alone"
        )
    for result in results:
        if result.bottleneck():
            said.append(f"{step_name(result)}: the load generator is the bottleneck: {result.bottleneck()}")
        if result.errors:
            said.append(f"{step_name(result)}: the first error was {result.first_error}")
    return said


def to_json(result: Result, ceiling: dict[str, Any] | None) -> dict[str, Any]:
    """A step as bench.json holds it; None where there is no figure."""
    latencies = {f"p{p:g}_ms": result.percentile(p) if result.latencies_ms else None for p in PERCENTILES}
    return {
        "mode": result.mode,
        "concurrency" if result.mode == "closed" else "rate": result.setting,
        "seconds": result.seconds,
        "photos_per_s": result.throughput,
        "of_ceiling": result.throughput / ceiling["photos_per_s"] if ceiling else None,
        "answers": len(result.latencies_ms),
        **latencies,
        "errors": dict(result.errors),
        "first_error": result.first_error,
        "load_generator": {"cpu_share": result.cpu_share, "busy_share": result.busy_share, "late_ms": result.late_ms},
        "bottleneck": result.bottleneck(),
    }


def write(report: dict[str, Any], out: Path) -> list[str]:
    """The files that were written into `out`: bench.json, and bench.png where matplotlib is installed."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / "bench.json.part"
    part.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    part.replace(out / "bench.json")
    try:
        from scripts.bench.plot import plot
    except ImportError:
        print("no bench.png: matplotlib is not installed (make setup installs it)", file=sys.stderr)
        return [str(out / "bench.json")]
    plot(report, out / "bench.png")
    return [str(out / "bench.json"), str(out / "bench.png")]


def run_steps(target: Target, requests: Sequence[bytes], args: argparse.Namespace) -> list[Result]:
    """All steps of load, each with a line when it is done. BenchError if the server answers nothing but errors."""
    rates = args.rate or []
    concurrencies = args.concurrency or ([] if rates else list(CONCURRENCY))
    warm_up_s = min(2.0, args.seconds)
    closed_loop(target, requests, max(concurrencies, default=1), min(WARM_UP_S, args.seconds), 0, args.timeout)
    results: list[Result] = []
    for load, settings in ((closed_loop, concurrencies), (open_loop, rates)):
        for setting in settings:
            result = load(target, requests, setting, args.seconds, warm_up_s, args.timeout)
            if not result.latencies_ms and not results:
                raise BenchError(f"{target.url} gives no answer but errors; the first was {result.first_error or 'none in time'}")
            print(f"  {step_name(result)}: {result.throughput:.1f} photos/s, median {result.percentile(50):.1f} ms", flush=True)
            results.append(result)
    return results


def bench(args: argparse.Namespace) -> None:
    """Measure, print, write. BenchError, ValueError or OSError if that cannot be."""
    photos = read_photos(args.photos)
    archive = None
    if args.url is None:
        archive = choose_archive(args.model_store, args.version)
    elif is_local(Target.of(args.url).host):
        archive = choose_archive(args.model_store, args.version) if find_archives(args.model_store) else None
    ceilings: list[dict[str, Any]] = []

    def look_at_ceiling() -> None:
        if archive is not None:
            try:
                ceilings.append(measure_ceiling(archive, args.photos, args.seconds))
                print(f"  in process: {ceilings[-1]['photos_per_s']:.1f} photos/s", flush=True)
            except BenchError as error:
                print(f"  {error}", flush=True)

    def load(url: str) -> list[Result]:
        target = Target.of(url)
        probe(target)
        types = {suffix: mimetypes.guess_type(f"photo{suffix}")[0] or "application/octet-stream" for suffix, _ in photos}
        requests = [build_request(target, photo, types[suffix], args.field) for suffix, photo in photos]
        return run_steps(target, requests, args)

    kind = f"of {args.photos}" if args.photos else "drawn here, 512 px"
    print(f"{args.url or f'our server with {archive.name if archive else None}'}: {len(photos)} photos {kind}", flush=True)
    if args.url:
        probe(Target.of(args.url))  # before the ceiling takes its time
    look_at_ceiling()
    if args.url:
        results = load(args.url)
    else:
        assert archive is not None
        with own_server(args.model_store, archive_version(archive)) as url:
            results = load(url)
    look_at_ceiling()
    ceiling = mean_of(ceilings) if ceilings else None
    report = {
        "url": args.url or f"our server, {archive.name if archive else None}",
        "photos": len(photos),
        "photo_bytes": sum(len(photo) for _, photo in photos) // len(photos),
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "ceiling": ceiling,
        "steps": [to_json(result, ceiling) for result in results],
    }
    print("\n" + table(results, ceiling) + "\n")
    for note in notes(results, ceiling):
        print(note)
    print("written: " + ", ".join(write(report, args.out)))


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="default: our own server, started for this")
    parser.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones of 512 px")
    parser.add_argument("--concurrency", type=int, nargs="+", help=f"closed loop, default {CONCURRENCY}")
    parser.add_argument("--rate", type=float, nargs="+", help="open loop: requests/s (then no closed loop, unless asked for)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each step, after its warm-up")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds after which a request counts as timed out")
    parser.add_argument("--field", help="send photos as this field of a multipart form")
    parser.add_argument("--version", help="serve this version, not the newest; the ceiling's, too")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    args = parser.parse_args()
    if not all(1 <= number <= MAX_CONCURRENCY for number in args.concurrency or []):
        parser.error(f"CONCURRENCY is {args.concurrency}, expected numbers from 1 to {MAX_CONCURRENCY}")
    if not all(0 < number < math.inf for number in [args.seconds, args.timeout, *(args.rate or [])]):
        parser.error("SECONDS, RATE and --timeout are positive numbers")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: our server is ended on the way out
    try:
        bench(args)
    except (BenchError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
