"""The in-process ceiling of scripts/bench/bench.py: what an archive's handler does with no server around it.

Run as a process of its own (`python -m scripts.bench.ceiling unpacked-archive --seconds 3`), as one process loads one archive;
writes one line of JSON. Photos/s over whole batches of the archive's batchSize, and the median latency of one photo alone.
"""

import argparse
import io
import itertools
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFilter

from scripts.archive.build import MANIFEST, load_handler

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif"}
MAX_PHOTO_BYTES = 256 * 1024 * 1024  # of all photos together, as they are held in memory
DRAWN, DRAWN_SIDE = 24, 512  # how many photos are made where the user names none, and their pixels a side


def draw_photo(seed: int) -> Image.Image:
    """A picture with shapes, soft light and grain: a JPEG of it takes about as many bytes, and as long to decode, as a photo's."""
    rng, side = random.Random(seed), DRAWN_SIDE
    image = Image.new("RGB", (8, 8))
    image.putdata([(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(64)])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, radius = rng.randrange(side), rng.randrange(side), rng.randrange(4, side // 8)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        getattr(pen, rng.choice(("ellipse", "rectangle")))((x - radius, y - radius, x + radius, y + radius), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(1.5))
    for cell, share in ((8, 0.12), (2, 0.12), (1, 0.06)):  # texture from coarse to fine
        noise = bytearray(rng.randbytes((side // cell) ** 2 * 3))
        texture = Image.frombytes("RGB", (side // cell, side // cell), bytes(noise)).resize((side, side), Image.Resampling.BICUBIC)
        image = Image.blend(image, texture, share)
    return image


def read_photos(folder: Path | None) -> list[tuple[str, bytes]]:
    """(suffix, bytes) of a folder's photos in a random but fixed order, or of drawn ones. ValueError if there is none."""
    if folder is None:
        return [(".jpg", _jpeg(draw_photo(seed))) for seed in range(DRAWN)]
    if not folder.exists():
        raise ValueError(f"{folder} does not exist: PHOTOS is a folder of photos, or one photo")
    found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no photo ({', '.join(sorted(SUFFIXES))})")
    random.Random(0).shuffle(found)
    photos, left = [], MAX_PHOTO_BYTES
    for path in found:
        photos.append((path.suffix.lower(), path.read_bytes()))
        left -= len(photos[-1][1])
        if left < 0:
            break
    return photos


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    photos = [photo for _, photo in read_photos(args.photos)]
    manifest = json.loads((args.unpacked / MANIFEST).read_text(encoding="utf-8"))
    batch_size = yaml.safe_load((args.unpacked / manifest["model"]["configFile"]).read_text(encoding="utf-8"))["batchSize"]
    handler = load_handler(args.unpacked)
    measured = measure(handler, photos, batch_size, args.seconds)
    print(json.dumps({**measured, "batch_size": batch_size, "precision": handler.program.precision}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
