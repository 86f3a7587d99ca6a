"""The in-process ceiling of scripts/bench/bench.py: what an archive's handler does with no server around it.

Run as a process of its own (`python -m scripts.bench.ceiling unpacked-archive --seconds 3`), as one process loads one archive;
writes one line of JSON. Photos/s over whole batches of the archive's batchSize, and the median latency of one photo alone.
"""

import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from scripts.archive.read import load_handler, read_manifest
from scripts.bench.photos import read_photos
from scripts.command import parser, run


def measure(handler: Any, photos: list[bytes], batch_size: int, seconds: float) -> dict[str, float]:
    """{"photos_per_s", "latency_ms"}: two thirds of the time for batches, one for single photos. ValueError if none can be read."""
    forever = itertools.cycle(photos)

    def answer(count: int) -> int:
        crops = [crop for crop in handler.preprocess(list(itertools.islice(forever, count))) if not isinstance(crop, Exception)]
        if crops:
            handler.inference(crops)
        return len(crops)

    for size in (1, batch_size) * 3:  # the warm-up
        if not answer(size) and size == batch_size:
            raise ValueError("none of the photos can be read")
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds * 2 / 3:
        done += answer(batch_size)
    latencies: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds / 3 or not latencies:
        before = time.perf_counter()
        if answer(1):
            latencies.append(1000 * (time.perf_counter() - before))
    return {"photos_per_s": done / spent, "latency_ms": statistics.median(latencies)}


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("unpacked", type=Path)
    arguments.add_argument("--photos", type=Path)
    arguments.add_argument("--megapixels", type=float)
    arguments.add_argument("--seconds", type=float, default=3.0)
    args = arguments.parse_args()
    photos = [photo for _, photo in read_photos(args.photos, args.megapixels)]
    config = args.unpacked / read_manifest(args.unpacked)["model"]["configFile"]
    batch_size = yaml.safe_load(config.read_text(encoding="utf-8"))["batchSize"]
    handler = load_handler(args.unpacked)
    measured = measure(handler, photos, batch_size, args.seconds)
    described = {name: handler.describe()[name] for name in ("format", "precision")}
    print(json.dumps({**measured, "batch_size": batch_size, **described}))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
