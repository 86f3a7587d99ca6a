"""The README's pictures, drawn by code so that they show nobody's photo: `.venv/bin/python .github/images/draw.py`.

Writes model_store/starter/bibimbap.jpg, the photo that the README's commands send, and photo_and_heat_map.jpg beside this
file: that photo, and the heat map of the starter's answer to it.
"""

import io
import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from handler.explain import heat_map, overlay
from handler.preprocess import Spec, preprocess
from handler.program import load_program
from scripts.atomic import aside
from scripts.paths import ROOT

STARTER = ROOT / "model_store" / "starter"
PHOTO = STARTER / "bibimbap.jpg"
DRAWN_SIDE, PHOTO_SIDE, SHOWN_SIDE, GAP = 896, 640, 448, 16
# what lies in the bowl, sector by sector: colour and shape
FILLINGS = (
    ((226, 112, 34), "strip"),
    ((46, 92, 38), "leaf"),
    ((118, 66, 40), "chunk"),
    ((236, 226, 180), "strip"),
    ((196, 48, 34), "strip"),
    ((120, 150, 60), "strip"),
    ((92, 58, 38), "chunk"),
    ((240, 236, 224), "rice"),
)


def shade(colour: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """The colour, brighter or darker."""
    return tuple(int(max(0, min(255, value * factor))) for value in colour)


def table(rng: random.Random, side: int) -> Image.Image:
    """Wood, with the shadow of a bowl on it."""
    image = Image.new("RGB", (side, side), (150, 110, 75))
    pen = ImageDraw.Draw(image)
    for y in range(0, side, 4):
        tone = int(12 * math.sin(y / 23) + 8 * math.sin(y / 7) + rng.randrange(-6, 6))
        pen.line((0, y, side, y + rng.randrange(-6, 6)), fill=(150 + tone, 108 + tone, 72 + tone), width=5)
    shadow = Image.new("L", (side, side), 0)
    ImageDraw.Draw(shadow).ellipse((side * 0.09, side * 0.13, side * 0.97, side), fill=150)
    dark = Image.new("RGB", (side, side), (45, 28, 18))
    return Image.composite(dark, image.filter(ImageFilter.GaussianBlur(1.5)), shadow.filter(ImageFilter.GaussianBlur(28)))


def piece(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, kind: str, colour: tuple[int, ...]) -> None:
    """One piece of a filling at (x, y)."""
    if kind == "leaf":
        width, height = rng.uniform(10, 30), rng.uniform(6, 16)
        pen.ellipse((x - width, y - height, x + width, y + height), fill=colour)
    elif kind == "chunk":
        size = rng.uniform(8, 22)
        angles = np.linspace(0, 6, 6)
        pen.polygon([(x + size * math.cos(t + rng.uniform(-0.3, 0.3)), y + size * 0.7 * math.sin(t)) for t in angles], fill=colour)
    else:
        length, width = (rng.uniform(26, 60), 6) if kind == "strip" else (12, 5)
        angle = rng.uniform(0, math.pi)
        dx, dy = length / 2 * math.cos(angle), length / 2 * math.sin(angle)
        pen.line((x - dx, y - dy + 2, x + dx, y + dy + 2), fill=shade(colour, 0.5), width=width + 2)
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=width)


def egg(pen: ImageDraw.ImageDraw, centre: float) -> None:
    """A fried egg in the middle."""
    outline = []
    for t in np.linspace(0, 2 * math.pi, 120):
        radius = 95 + 18 * math.sin(3 * t + 1) + 10 * math.sin(5 * t)
        outline.append((centre + 1.25 * radius * math.cos(t), centre + 1.15 * radius * math.sin(t)))
    pen.polygon([(x + 4, y + 8) for x, y in outline], fill=(120, 90, 60))
    pen.polygon(outline, fill=(250, 246, 236))
    pen.ellipse((centre - 62, centre - 58, centre + 62, centre + 58), fill=(214, 120, 14))
    pen.ellipse((centre - 58, centre - 56, centre + 58, centre + 50), fill=(246, 170, 34))
    pen.ellipse((centre - 40, centre - 42, centre - 8, centre - 20), fill=(255, 226, 150))


def bowl(seed: int, side: int = DRAWN_SIDE) -> Image.Image:
    """Bibimbap from above, RGB."""
    rng = random.Random(seed)
    image = table(rng, side)
    pen = ImageDraw.Draw(image)
    centre, radius = side / 2, 0.365 * side
    for share, colour in ((0.43, (38, 36, 38)), (0.415, (66, 62, 64)), (0.40, (30, 28, 30)), (0.385, (46, 43, 45))):
        pen.ellipse((centre - share * side, centre - share * side, centre + share * side, centre + share * side), fill=colour)
    pen.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=(232, 226, 212))
    for number, (colour, kind) in enumerate(FILLINGS):
        first, last = (2 * math.pi * edge / len(FILLINGS) for edge in (number, number + 1))
        for _ in range(420):
            angle, distance = rng.uniform(first - 0.06, last + 0.06), radius * math.sqrt(rng.uniform(0.05, 1))
            x, y = centre + distance * math.cos(angle), centre + distance * math.sin(angle)
            piece(pen, rng, x, y, kind, shade(colour, rng.uniform(0.62, 1.18)))
    egg(pen, centre)
    for _ in range(70):  # sesame
        angle, distance = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random())
        x, y = centre + distance * math.cos(angle), centre + distance * math.sin(angle)
        pen.ellipse((x - 4, y - 2.5, x + 4, y + 2.5), fill=(244, 226, 178))
    # light from the upper left, and a sensor's noise: without them the network sees a drawing
    rows, columns = np.mgrid[0:side, 0:side] / side
    light = 1.12 - 0.35 * np.hypot(columns - 0.35, rows - 0.3)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), np.float32) * light[..., None]
    pixels += np.random.default_rng(0).normal(0, 5, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def photo(seed: int) -> Image.Image:
    """The bowl, nearer, as a phone would show it."""
    image = bowl(seed)
    edge = round(0.075 * DRAWN_SIDE)
    return image.crop((edge, edge, DRAWN_SIDE - edge, DRAWN_SIDE - edge)).resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    """Draw both."""
    with aside(PHOTO) as part:
        # of the first dozen seeds, the one whose answer rests most on what is in the bowl
        photo(seed=6).save(part, "JPEG", quality=85)
    spec = Spec.from_dict(json.loads((STARTER / "spec.json").read_text(encoding="utf-8")))
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text(encoding="utf-8")), num_threads=0)
    labels = json.loads((STARTER / "index_to_name.json").read_text(encoding="utf-8"))
    crop = preprocess(PHOTO.read_bytes(), spec)
    probabilities = program(crop[None])[0][0]
    best = int(probabilities.argmax())
    heat = Image.open(io.BytesIO(overlay(crop, heat_map(program, crop, best))))
    sheet = Image.new("RGB", (2 * SHOWN_SIDE + GAP, SHOWN_SIDE), "white")
    for column, image in enumerate((Image.fromarray(crop), heat)):
        shown = image.convert("RGB").resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
        sheet.paste(shown, (column * (SHOWN_SIDE + GAP), 0))
    with aside(Path(__file__).with_name("photo_and_heat_map.jpg")) as target:
        sheet.save(target, "JPEG", quality=88)
    print(f"{PHOTO.name}: {labels[str(best)]}, {probabilities[best]:.2f}")


if __name__ == "__main__":
    main()
