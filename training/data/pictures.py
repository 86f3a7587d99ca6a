"""Generated pictures: a small data set for tests and demonstrations, and golden pictures that show nobody's photo."""

import random
import shutil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

COLOURS = ("crimson", "darkorange", "gold", "forestgreen", "teal", "royalblue", "purple", "sienna")
SHAPES = ("ellipse", "rectangle", "triangle")


def draw(index: int, rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A plate with pieces whose colour and shape tell the class `index`; no two of them are alike. RGB, `size` pixels."""
    width, height = size
    background = tuple(rng.randrange(150, 256) for _ in range(3))
    image = Image.new("RGB", size, background)
    pen = ImageDraw.Draw(image)
    for _ in range(6):  # a table, blotched so that thumbnails of two pictures differ
        x, y = rng.randrange(width), rng.randrange(height)
        radius = rng.randrange(8, max(9, width // 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.randrange(120, 256) for _ in range(3)))
    image = image.filter(ImageFilter.GaussianBlur(4))
    pen = ImageDraw.Draw(image)
    colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index % len(SHAPES)]
    for _ in range(12):
        x, y, radius = rng.randrange(width), rng.randrange(height), rng.randrange(width // 12, width // 6)
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "triangle":
            pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
        else:
            getattr(pen, shape)(box, fill=colour)
    return image


def generate(root: Path, num_classes: int = 4, per_class: int = 40, size: int = 96, seed: int = 0) -> Path:
    """`root`, filled with class folders of generated JPEGs. Written aside and renamed; done before means nothing to do."""
    if root.is_dir():
        return root
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    rng = random.Random(seed)
    for index in range(num_classes):
        folder = part / f"dish_{index}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            draw(index, rng, (size, size)).save(folder / f"{number:03d}.jpg", quality=90)
    part.rename(root)
    return root
