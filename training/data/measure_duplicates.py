"""How often near-duplicates are missed, and different things taken for them: `python -m training.data.measure_duplicates PHOTOS`.

PHOTOS is a folder of photos of different things, in class folders or not. They are taken as they are, and pasted before one
background: a tray, a white page, a page of a catalogue, a scene of a fixed camera. Copies of each are made in every way of COPIES.
For each kind it prints the share of copies that are not in their photo's group, and of photos that share a group with another
photo, without copies; beside them those of the rule of version 0.2, a correlation of grey thumbnails. --time N measures the
time for N thumbnails instead, cut out of the photos, and for N before one background.
"""

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.command import parser, run
from scripts.phrases import counted
from training.data.duplicates import groups_of, near_duplicate_pairs
from training.data.scenes import COPIES, Scene, other_scenes, scenes, tray
from training.data.thumbnail import PIXELS, SIZE, thumbnail_of
from training.params import NEAR_DUPLICATES

GREY_SIDE, GREY_CORRELATION = 16, 0.93  # of version 0.2


def grey_groups(images: list[Image.Image]) -> np.ndarray:
    """Group number (N,) of each image by the rule of version 0.2."""
    greys = np.stack([np.asarray(i.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX), np.float32) for i in images])
    greys -= greys.mean((1, 2), keepdims=True)
    greys /= np.linalg.norm(greys, axis=(1, 2), keepdims=True) + 1e-6
    rows, mirrored = greys.reshape(len(greys), -1), greys[:, :, ::-1].reshape(len(greys), -1)
    return groups_of(np.argwhere((rows @ rows.T >= GREY_CORRELATION) | (rows @ mirrored.T >= GREY_CORRELATION)), len(greys))


def colour_groups(images: list[Image.Image], limit: float) -> np.ndarray:
    """Group number (N,) of each image by today's rule."""
    return groups_of(near_duplicate_pairs(np.stack([thumbnail_of(image) for image in images]), limit), len(images))


def merged(groups: np.ndarray) -> float:
    """The share of images that share a group with another one."""
    return float((np.bincount(groups)[groups] > 1).mean())


def measure(kinds: dict[str, Scene], photos: list[Image.Image], copied: int, limit: float) -> dict[str, list[float]]:
    """Print a row a kind; the share of missed copies by the way they were made, over all kinds, by both rules."""
    missed_by_way: dict[str, list[list[float]]] = {way: [] for way in COPIES}
    print(f"{'':30}  {'copies missed':>15}  {'photos merged':>15}\n{'':30}  {'0.2':>7} {'now':>7}  {'0.2':>7} {'now':>7}")
    for kind, scene in kinds.items():
        rng = random.Random(kind)
        images = [scene(photo, rng) for photo in photos]
        copies = [change(image) for change in COPIES.values() for image in images[:copied]]
        rules: list[Callable[[list[Image.Image]], np.ndarray]] = [grey_groups, lambda images: colour_groups(images, limit)]
        missed = []
        for rule in rules:
            # a copy among its photo's group, one kind of copies at a time as it would come
            groups = rule(images + copies)
            of_copies = groups[len(images) :].reshape(len(COPIES), copied)
            missed.append((of_copies != groups[:copied]).mean(1))
        for way, *shares in zip(COPIES, *missed, strict=True):
            missed_by_way[way].append([float(share) for share in shares])
        apart = [merged(rule(images)) for rule in rules]
        print(f"{kind:30}  {missed[0].mean():7.1%} {missed[1].mean():7.1%}  {apart[0]:7.1%} {apart[1]:7.1%}", flush=True)
    return {way: [float(share) for share in np.mean(rows, axis=0)] for way, rows in missed_by_way.items()}


def time_search(photos: list[Image.Image], count: int, limit: float) -> None:
    """Print how long it takes for `count` thumbnails, cut out of the photos, and before one background."""
    rng, numpy_rng = random.Random(0), np.random.default_rng(0)
    small = [photo.resize((192, 192)) for photo in photos[:2000]]
    thumbnails = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    for number in range(count):
        side, image = rng.randint(80, 128), small[number % len(small)]
        x, y = rng.randint(0, 192 - side), rng.randint(0, 192 - side)
        cut = image.resize((SIZE, SIZE), Image.Resampling.BOX, box=(x, y, x + side, y + side))
        thumbnails[number] = np.asarray(cut)
    ground = np.asarray(tray().resize((SIZE, SIZE), Image.Resampling.BOX))
    for name in ("different photos", "one background"):
        if name == "one background":
            here = slice(SIZE // 3, SIZE * 2 // 3)
            things = thumbnails[:, here, here].copy()
            thumbnails[:] = ground
            thumbnails[:, here, here] = things
            thumbnails = (thumbnails + numpy_rng.normal(0, 2, thumbnails.shape)).clip(0, 255).astype(np.uint8)
        start = time.monotonic()
        pairs = near_duplicate_pairs(thumbnails.reshape(count, PIXELS), limit)
        print(f"{counted(count, 'thumbnail')}, {name}: {time.monotonic() - start:.0f} s, {counted(len(pairs), 'pair')}", flush=True)


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("photos", type=Path)
    arguments.add_argument("--limit", type=float, default=NEAR_DUPLICATES, help="near_duplicates in params.yaml")
    arguments.add_argument("--count", type=int, default=300, help="photos of each kind")
    arguments.add_argument("--copied", type=int, default=60, help="those of which copies are made")
    arguments.add_argument("--other", action="store_true", help="kinds that no value was chosen by, and other photos")
    arguments.add_argument("--time", type=int, metavar="N")
    args = arguments.parse_args()
    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(paths) < args.count or not 10 <= args.copied <= args.count:
        raise ValueError(
            f"{args.photos} has {counted(len(paths), 'photo')}, expected --count {args.count}, and --copied 10 to --count"
        )
    random.Random(int(args.other)).shuffle(paths)
    photos = [Image.open(path).convert("RGB") for path in (paths if args.time else paths[: args.count])]
    if args.time:
        time_search(photos, args.time, args.limit)
        return
    ways = measure((other_scenes if args.other else scenes)(photos), photos, args.copied, args.limit)
    print(f"\n{'copies missed, over all kinds':30}  {'0.2':>7} {'now':>7}")
    for way, (before, now) in ways.items():
        print(f"{way:30}  {before:7.1%} {now:7.1%}")


if __name__ == "__main__":
    sys.exit(run(main))
