"""The photos that are sent: a folder's, or drawn ones that cost as much to decode."""

import io
import random
from collections import Counter
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from handler.limits import FORMAT_NAMES, format_of
from scripts.folders import files_below
from scripts.phrases import counted

START_BYTES = 128  # of a file: enough to tell its format
MAX_PHOTO_BYTES = 256 * 1024 * 1024  # of all photos together, as they are held in memory
MIME = {"HEIF": "image/heif"}  # of what Pillow reads with another package
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
    """(MIME type, bytes) of a folder's photos in a random but fixed order, or of drawn ones. ValueError if there is none."""
    if folder is None:
        return [("image/jpeg", _jpeg(draw_photo(seed))) for seed in range(DRAWN)]
    if not folder.exists():
        raise ValueError(f"{folder} does not exist: PHOTOS is a folder of photos, or one photo")
    Image.init()  # fills the table of MIME types
    found = [folder] if folder.is_file() else files_below(folder, Counter())
    random.Random(0).shuffle(found)
    photos: list[tuple[str, bytes]] = []
    left = MAX_PHOTO_BYTES
    for path in found:
        if not (kind := format_of(_start(path))):
            continue
        photos.append((MIME.get(kind) or Image.MIME[kind], path.read_bytes()))
        left -= len(photos[-1][1])
        if left < 0:
            break
    if not photos:
        raise ValueError(f"{folder} holds no photo ({FORMAT_NAMES}), only {counted(len(found), 'other file')}")
    return photos


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START_BYTES)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
