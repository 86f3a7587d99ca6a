"""The photos that are sent: a folder's, or drawn ones that cost as much to decode; as they are, or as large as a phone's."""

import io
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from handler.limits import FORMAT_NAMES, format_of
from handler.preprocess import ORIENTATION, read_photo
from scripts.folders import files_below
from scripts.phrases import counted

START_BYTES = 128  # of a file: enough to tell its format
MAX_PHOTO_BYTES = 256 * 1024 * 1024  # of all photos together, as they are held in memory
MIME = {"HEIF": "image/heif"}  # of what Pillow reads with another package
DRAWN, DRAWN_SIDE = 24, 512  # how many photos are made where the user names none, and their pixels a side
PHONES = 8  # how many are made as large as a phone's: a second each
GRAIN = 4.0  # of a sensor, the standard deviation in levels of 255: 12 megapixels take some 2.5 MB, as they do in a phone


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


def phone_photo(image: Image.Image, megapixels: float, seed: int = 0) -> bytes:
    """An RGB image as a phone writes it: a JPEG of so many megapixels, 4 to 3, 4:2:0, quality 90, which EXIF turns upright."""
    unit = max(1, round(math.sqrt(megapixels * 1e6 / 12)))
    width, height = 4 * unit, 3 * unit
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted, np.float32)  # (H, W, 3)
    pixels = pixels + GRAIN * np.random.default_rng(seed).standard_normal((height, width, 1), np.float32)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return _jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), exif)


def read_photos(folder: Path | None, megapixels: float | None = None) -> list[tuple[str, bytes]]:
    """(MIME type, bytes) of a folder's photos in a random but fixed order, or of drawn ones. ValueError if there is none.

    With `megapixels` the first of them, enlarged: phone_photo().
    """
    photos = _photos(folder)
    if megapixels is None:
        return photos
    return [("image/jpeg", phone_photo(read_photo(photo), megapixels, seed)) for seed, (_, photo) in enumerate(photos[:PHONES])]


def _photos(folder: Path | None) -> list[tuple[str, bytes]]:
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


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, exif=exif or Image.Exif())
    return buffer.getvalue()
