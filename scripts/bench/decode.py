"""What decoding and resizing a phone's photo costs, by ways other than handler/preprocess.py's beside it: `make bench-decode`.

CPU milliseconds a photo of 0.2 (512 x 384), 3 and 12 megapixels, medians of rounds in which the ways take turns; how far the crop
is off from preprocess()'s, and how many photos get another class from the newest archive. A library that is not there is named.
"""

import argparse
import importlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from handler.limits import factor_for
from handler.preprocess import INTERPOLATIONS, ORIENTATION, UPRIGHT, Spec, crop, layout, preprocess, read_photo, resized_side
from scripts.archive.name import choose_archive
from scripts.archive.read import load_handler, unpack
from scripts.bench.photos import PHONES, phone_photo, read_photos
from scripts.command import parser, run
from scripts.machine import cpu
from scripts.paths import ROOT
from scripts.phrases import counted

SIZES = {"512 px": 512 * 384 / 1e6, "3 MP": 3.0, "12 MP": 12.0}
Reader = Callable[[bytes, int], Image.Image]  # a JPEG's bytes at 1 / factor of its size, as it is stored
Cropper = Callable[[Image.Image, Spec], np.ndarray]  # an upright photo's crop, uint8 (H, W, 3)


class Way(NamedTuple):
    """One way to a crop; `load` imports its library. `factor`: by which it is decoded smaller, None: as preprocess() does it."""

    load: Callable[[], Reader]
    cropper: Cropper = crop
    factor: int | None = None


def pillow() -> Reader:
    """Pillow, without the checks of handler/photo_file.py."""

    def read(photo: bytes, factor: int) -> Image.Image:
        image = Image.open(io.BytesIO(photo), formats=("JPEG",))
        image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        return image

    return read


def simplejpeg() -> Reader:
    """simplejpeg: libjpeg-turbo alone, a wheel."""
    library = importlib.import_module("simplejpeg")

    def read(photo: bytes, factor: int) -> Image.Image:
        height, width, _, _ = library.decode_jpeg_header(photo)
        return Image.fromarray(library.decode_jpeg(photo, min_height=height // factor, min_width=width // factor, min_factor=1))

    return read


def turbojpeg(crops: bool = False) -> Reader:
    """PyTurboJPEG, by a libturbojpeg 3 that is installed beside it, or at the path that the environment's TURBOJPEG names.

    `crops`: blocks outside the middle square are cut out first, without a loss.
    """
    library = importlib.import_module("turbojpeg")
    decoder = library.TurboJPEG(os.environ.get("TURBOJPEG"))

    def read(photo: bytes, factor: int) -> Image.Image:
        if crops:
            width, height, _, _ = decoder.decode_header(photo)
            side = min(width, height)
            left, top = ((width - side) // 2 // 16 * 16, (height - side) // 2 // 16 * 16)
            photo = decoder.crop(photo, left, top, side, side)
        return Image.fromarray(decoder.decode(photo, pixel_format=library.TJPF_RGB, scaling_factor=(1, factor)))

    return read


def opencv() -> Reader:
    """OpenCV's headless wheel."""
    library = importlib.import_module("cv2")
    library.setNumThreads(1)

    def read(photo: bytes, factor: int) -> Image.Image:
        scale = library.IMREAD_COLOR_RGB if factor == 1 else getattr(library, f"IMREAD_REDUCED_COLOR_{factor}")
        pixels = library.imdecode(np.frombuffer(photo, np.uint8), scale | library.IMREAD_IGNORE_ORIENTATION)
        return Image.fromarray(pixels if factor == 1 else pixels[..., ::-1])

    return read


def with_gap(image: Image.Image, spec: Spec) -> np.ndarray:
    """All of it resized, first by whole steps down to 1.5 times the size, then cropped."""
    return whole(image, spec, gap=1.5)


def whole(image: Image.Image, spec: Spec, gap: float | None = None) -> np.ndarray:
    """All of it resized, then cropped, as timm's evaluation transform does it."""
    ((width, height), (left, top)), size = layout(image.size, spec), spec.input_size[1]
    small = image.resize((width, height), INTERPOLATIONS[spec.interpolation], reducing_gap=gap)
    return np.array(small.crop((left, top, left + size, top + size)))


def at_once(image: Image.Image, spec: Spec) -> np.ndarray:
    """Only what is cropped is resized, both ways by one call, whose order Pillow chooses by the part's size."""
    ((width, height), (left, top)), size = layout(image.size, spec), spec.input_size[1]
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.array(image.resize((size, size), INTERPOLATIONS[spec.interpolation], box))


def by_area(image: Image.Image, spec: Spec) -> np.ndarray:
    """The middle resized by OpenCV's means over areas."""
    library = importlib.import_module("cv2")
    scale = min(image.size) / resized_side(spec)
    side = round(spec.input_size[1] * scale)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = np.asarray(image)[top : top + side, left : left + side]
    resized: np.ndarray = library.resize(middle, spec.input_size[1:], interpolation=library.INTER_AREA)
    return resized


WAYS = {
    "Pillow, draft": Way(pillow),
    "Pillow, draft, all of it resized": Way(pillow, whole),
    "Pillow, draft, the crop in one call": Way(pillow, at_once),
    "Pillow, full size": Way(pillow, factor=1),
    "Pillow, draft, reducing_gap": Way(pillow, with_gap),
    "simplejpeg": Way(simplejpeg),
    "PyTurboJPEG": Way(turbojpeg),
    "PyTurboJPEG, cropped first": Way(lambda: turbojpeg(crops=True)),
    "OpenCV": Way(opencv),
    "OpenCV, INTER_AREA": Way(opencv, by_area),
}


class Measured(NamedTuple):
    """Of one way and size: CPU ms a photo, by how many levels of 255 its crops are off at most and on average, other classes."""

    ms: float
    most: int
    mean: float
    changed: int


def made(way: Way) -> Callable[[bytes, Spec], np.ndarray]:
    """The whole way from a JPEG's bytes to its crop. ImportError or RuntimeError without its library."""
    read = way.load()

    def answer(photo: bytes, spec: Spec) -> np.ndarray:
        header = Image.open(io.BytesIO(photo))
        image = read(photo, way.factor or factor_for(min(header.size), resized_side(spec)))
        orientation = header.getexif().get(ORIENTATION, 1)
        return way.cropper(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image, spec)

    return answer


def available(ways: dict[str, Way]) -> dict[str, Callable[[bytes, Spec], np.ndarray]]:
    """preprocess() and those of the ways whose libraries are installed; a line for each of the others."""
    found: dict[str, Callable[[bytes, Spec], np.ndarray]] = {"preprocess()": preprocess}
    for name, way in ways.items():
        try:
            found[name] = made(way)
        except (ImportError, RuntimeError) as error:
            print(f"{name}: not installed ({str(error).splitlines()[0]})", flush=True)
    return found


def measure(
    ways: dict[str, Callable[[bytes, Spec], np.ndarray]],
    photos: list[bytes],
    spec: Spec,
    classes: Callable[[list[np.ndarray]], np.ndarray],
    seconds: float,
) -> dict[str, Measured]:
    """Each way's figures on these photos; the ways take turns, photo by photo."""
    crops = {name: [way(photo, spec) for photo in photos] for name, way in ways.items()}  # the warm-up, too
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for photo in photos:
            for name, way in ways.items():
                before = time.process_time()
                way(photo, spec)
                taken[name].append(1000 * (time.process_time() - before))
    expected = np.stack(crops["preprocess()"]).astype(int)
    top1 = classes(crops["preprocess()"])
    measured = {}
    for name, given in crops.items():
        off = np.abs(np.stack(given) - expected)
        changed = int((classes(given) != top1).sum())
        measured[name] = Measured(statistics.median(taken[name]), int(off.max()), float(off.mean()), changed)
    return measured


def table(by_size: dict[str, dict[str, Measured]]) -> str:
    """A line a way: its milliseconds and differences at each size."""
    titles = ["", *(f"{size}: ms | off by | mean | other class" for size in by_size)]
    lines = [f"| {' | '.join(titles)} |", "|---" * (1 + 4 * len(by_size)) + "|"]
    for name in next(iter(by_size.values())):
        rows = [measured[name] for measured in by_size.values()]
        cells = [f"{one.ms:.2f} | {one.most} | {one.mean:.2f} | {one.changed}" for one in rows]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def bench(args: argparse.Namespace) -> None:
    """Measure and print. ValueError or OSError if that cannot be."""
    photos, ways = read_photos(args.photos), available(WAYS)
    archive = choose_archive(args.model_store, None, args.model)
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder) / "archive")
        handler = load_handler(Path(folder) / "archive")
    spec = Spec.from_dict(handler.spec.to_dict())  # of this checkout's class, not the archive's

    def classes(crops: list[np.ndarray]) -> np.ndarray:
        answers = [handler.program(np.stack([one])).probabilities[0].argmax() for one in crops]
        return np.array(answers)

    print(f"{cpu()}; crops and classes of {archive.name}", flush=True)
    by_size = {}
    for size, megapixels in SIZES.items():
        count = args.count if megapixels < 1 else min(args.count, PHONES)
        made_photos = [phone_photo(read_photo(photo), megapixels, seed) for seed, (_, photo) in enumerate(photos[:count])]
        photo_bytes = sum(map(len, made_photos)) // len(made_photos)
        print(f"{size}: {counted(len(made_photos), 'photo')} of {photo_bytes:,} bytes", flush=True)
        by_size[size] = measure(ways, made_photos, spec, classes, args.seconds)
    print("\n" + table(by_size))


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, help="folder, searched with all its folders; default: drawn ones")
    options.add_argument("--count", type=int, default=100, help=f"photos of the smallest size; of the others at most {PHONES}")
    options.add_argument("--seconds", type=float, default=5.0, help="of each size, all ways together")
    options.add_argument("--model", metavar="NAME")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    bench(options.parse_args())


if __name__ == "__main__":
    sys.exit(run(main))
