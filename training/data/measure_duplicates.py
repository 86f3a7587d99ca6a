"""How often near-duplicates are missed, and different things taken for them: `python -m training.data.measure_duplicates PHOTOS`.

PHOTOS is a folder of photos of different things, in class folders or not. They are taken as they are, and pasted before one
background: a tray, a white page, a page of a catalogue, a scene of a fixed camera. Copies of each are made in every way of COPIES.
For each kind it prints the share of copies that are not in their photo's group, and of photos that share a group with another
photo, without copies; beside them those of the rule of version 0.2, a correlation of grey thumbnails. --time N measures the
time for N thumbnails instead, cut out of the photos, and for N before one background.
"""

import io
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from scripts.command import parser, run
from scripts.phrases import counted
from training.data.duplicates import groups_of, near_duplicate_pairs
from training.data.thumbnail import SIZE, thumbnail_of
from training.params import NEAR_DUPLICATES

Change = Callable[[Image.Image], Image.Image]
GREY_SIDE, GREY_CORRELATION = 16, 0.93  # of version 0.2


def encoded(image: Image.Image, image_format: str, **options: int) -> Image.Image:
    """The image written to a file and read again."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """The image without these shares of its sides."""
    x, y = image.size
    return image.crop((round(left * x), round(top * y), x - round(right * x), y - round(bottom * y)))


COPIES: dict[str, Change] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "square, 128 pixels": lambda image: image.resize((128, 128)),
    "brightness x 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness x 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast x 0.7": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "contrast x 1.3": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "gamma 1.3": lambda image: image.point([round(255 * (k / 255) ** 1.3) for k in range(256)] * 3),
    "colour x 1.4": lambda image: ImageEnhance.Color(image).enhance(1.4),
    "greyscale": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "JPEG, quality 30": lambda image: encoded(image, "JPEG", quality=30),
    "WebP, quality 30": lambda image: encoded(image, "WEBP", quality=30),
    "cropped by 2 % all round": lambda image: cropped(image, 0.02, 0.02, 0.02, 0.02),
    "cropped by 4 % all round": lambda image: cropped(image, 0.04, 0.04, 0.04, 0.04),
    "cropped by 5 % at the top": lambda image: cropped(image, 0, 0.05, 0, 0),
    "mirrored, cropped, JPEG 50": lambda image: encoded(ImageOps.mirror(cropped(image, 0.03, 0.01, 0, 0.02)), "JPEG", quality=50),
}


def shot(image: Image.Image, rng: random.Random, light: float = 0.06, shift: float = 2.0, noise: float = 3.0) -> Image.Image:
    """The scene as a camera takes it: a little moved, lighter or darker, with noise, as JPEG."""
    move = (1, 0, rng.uniform(-shift, shift), 0, 1, rng.uniform(-shift, shift))
    image = image.transform(image.size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
    image = image.crop((4, 4, image.width - 4, image.height - 4))
    pixels = np.asarray(image, np.float32) * rng.uniform(1 - light, 1 + light)
    pixels += np.random.default_rng(rng.randrange(2**30)).normal(0, noise, pixels.shape)
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=88)


def pasted(ground: Image.Image, photo: Image.Image, side: int, place: tuple[int, int]) -> Image.Image:
    """The photo, cut to an ellipse, on a copy of the ground."""
    dish = ImageOps.fit(photo, (side, round(0.8 * side)))
    mask = Image.new("L", dish.size)
    ImageDraw.Draw(mask).ellipse((2, 2, dish.width - 3, dish.height - 3), fill=255)
    scene = ground.copy()
    scene.paste(dish, (place[0] - dish.width // 2, place[1] - dish.height // 2), mask.filter(ImageFilter.GaussianBlur(1)))
    return scene


def tray() -> Image.Image:
    """A tray with plate, cutlery and napkin on a wooden table."""
    grain = np.random.default_rng(5).normal((150, 110, 70), 12, (248, 328, 3))
    image = Image.fromarray(grain.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((20, 20, 308, 228), 20, fill=(60, 80, 90), outline=(200, 200, 205), width=5)
    pen.ellipse((85, 45, 245, 205), fill=(235, 235, 230), outline=(190, 190, 190), width=3)
    pen.rectangle((265, 50, 275, 200), fill=(190, 190, 195))
    pen.rounded_rectangle((35, 60, 75, 120), 6, fill=(220, 210, 180))
    return image


def page(photos: list[Image.Image], rng: random.Random) -> Image.Image:
    """A page of a catalogue: nine products with lines of text."""
    image = Image.new("RGB", (308, 408), (253, 253, 253))
    pen = ImageDraw.Draw(image)
    for number, photo in enumerate(photos):
        x, y = 30 + number % 3 * 90, 40 + number // 3 * 110
        image.paste(photo.resize((60, 60)), (x, y))
        pen.rectangle((x, y + 66, x + 60, y + 69), fill=(120, 120, 120))
        pen.rectangle((x, y + 74, x + 40, y + 76), fill=(150, 150, 150))
    return shot(image, rng, 0.02, 1, 1)


def scenes(photos: list[Image.Image]) -> dict[str, Callable[[Image.Image, random.Random], Image.Image]]:
    """What is made of a photo, by the name of the kind."""
    ground, white, camera = tray(), Image.new("RGB", (308, 308), (250, 250, 250)), ImageOps.fit(photos[-1], (328, 248))

    def on(ground: Image.Image, least: int, most: int, jitter: int, *options: float) -> Callable[..., Image.Image]:
        def scene(photo: Image.Image, rng: random.Random) -> Image.Image:
            place = (ground.width // 2 + rng.randint(-jitter, jitter), ground.height // 2 + rng.randint(-jitter, jitter))
            return shot(pasted(ground, photo, rng.randint(least, most), place), rng, *options)

        return scene

    return {
        "photos as they are": lambda photo, rng: photo,
        "one tray, dish of a third": on(ground, 95, 125, 8),
        "one tray, dish of a fifth": on(ground, 55, 70, 12),
        "product of half a white page": on(white, 110, 170, 0, 0.02, 1, 1),
        "product of a sixth of it": on(white, 40, 55, 4, 0.02, 1, 1),
        "catalogue, 3 of 9 differ": lambda photo, rng: page([*photos[-6:], photo, *rng.sample(photos[:-6], 2)], rng),
        "catalogue, 1 of 9 differs": lambda photo, rng: page([*photos[-8:], photo], rng),
        "fixed camera, thing of a fifth": on(camera, 45, 75, 20),
    }


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


def measure(photos: list[Image.Image], copied: int, limit: float) -> dict[str, list[float]]:
    """Print a row a kind; the share of missed copies by the way they were made, over all kinds, by both rules."""
    missed_by_way: dict[str, list[list[float]]] = {way: [] for way in COPIES}
    print(f"{'':30}  {'copies missed':>15}  {'photos merged':>15}\n{'':30}  {'0.2':>7} {'now':>7}  {'0.2':>7} {'now':>7}")
    for kind, scene in scenes(photos).items():
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
    small = [photo.resize((96, 96)) for photo in photos]
    thumbnails = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    for number in range(count):
        side, image = rng.randint(40, 64), small[number % len(small)]
        x, y = rng.randint(0, 96 - side), rng.randint(0, 96 - side)
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
        pairs = near_duplicate_pairs(thumbnails.reshape(count, -1), limit)
        print(f"{counted(count, 'thumbnail')}, {name}: {time.monotonic() - start:.0f} s, {counted(len(pairs), 'pair')}", flush=True)


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("photos", type=Path)
    arguments.add_argument("--limit", type=float, default=NEAR_DUPLICATES, help="near_duplicates in params.yaml")
    arguments.add_argument("--count", type=int, default=300, help="photos of each kind")
    arguments.add_argument("--copied", type=int, default=60, help="those of which copies are made")
    arguments.add_argument("--time", type=int, metavar="N")
    args = arguments.parse_args()
    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(paths) < args.count or not 10 <= args.copied <= args.count:
        raise ValueError(
            f"{args.photos} has {counted(len(paths), 'photo')}, expected --count {args.count}, and --copied 10 to --count"
        )
    random.Random(0).shuffle(paths)
    photos = [Image.open(path).convert("RGB") for path in (paths if args.time else paths[: args.count])]
    if args.time:
        time_search(photos, args.time, args.limit)
        return
    ways = measure(photos, args.copied, args.limit)
    print(f"\n{'copies missed, over all kinds':30}  {'0.2':>7} {'now':>7}")
    for way, (before, now) in ways.items():
        print(f"{way:30}  {before:7.1%} {now:7.1%}")


if __name__ == "__main__":
    sys.exit(run(main))
