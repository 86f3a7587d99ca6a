"""Generated pictures: a small data set for tests and demonstrations, and golden pictures that are nobody's photos."""

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from scripts.atomic import aside

# 8 and 3 have no common divisor: 24 classes differ in colour or shape
COLOURS = ("crimson", "darkorange", "gold", "forestgreen", "teal", "royalblue", "purple", "sienna")
SHAPES = ("ellipse", "rectangle", "triangle")


def draw(index: int, rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Pieces whose colour and shape show the class `index`, on a blotched ground; no two pictures are alike. RGB, `size` pixels."""
    width, height = size
    background = tuple(rng.randrange(150, 256) for _ in range(3))
    image = Image.new("RGB", size, background)
    pen = ImageDraw.Draw(image)
    # without blotches, two pictures would count as near-duplicates: their thumbnails would hardly differ
    for _ in range(6):
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
    """`root`, filled with class folders of generated JPEGs; as it is if the folder exists already."""
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    with aside(root) as part:
        for index in range(num_classes):
            folder = part / f"class_{index}"
            folder.mkdir(parents=True)
            for number in range(per_class):
                draw(index, rng, (size, size)).save(folder / f"{number:03d}.jpg", quality=90)
    return root
