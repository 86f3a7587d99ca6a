"""The photos that cost most to decode: for each format the kinds of coding that it has, flat and of noise, at any number of pixels.

Flat ones have few bytes and any number of pixels; of noise, a photo's bytes are at their limit before its pixels are.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

# first row and column, step down and across, of each pass: PNG 1.2, section 8.2
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def picture(mode: str, side: int, noise: bool) -> Image.Image:
    """A square picture of one colour, or of noise that no compression makes smaller."""
    if not noise:
        return Image.new(mode, (side, side))
    bands = len(mode) if mode in ("RGB", "RGBA", "CMYK", "LA") else 1
    values = np.random.default_rng(0).integers(0, 256, (side, side, bands), np.uint8)
    if mode in ("P", "1"):
        made = Image.fromarray(values[..., 0])
        return made.convert("1") if mode == "1" else _palette(made)
    return Image.fromarray(values if bands > 1 else values[..., 0], mode if bands > 1 else None)


def _palette(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i)])
    return image


def saved(image_format: str, mode: str = "RGB", **options: Any) -> Callable[[int, bool], bytes]:
    """What makes a square photo of a format, as Pillow writes it."""

    def make(side: int, noise: bool) -> bytes:
        ImageFile.MAXBLOCK = 2**27  # a progressive JPEG of noise is written in one piece
        buffer = io.BytesIO()
        picture(mode, side, noise).save(buffer, image_format, **options)
        return buffer.getvalue()

    return make


def png(colour_type: int, bits: int, interlaced: bool = False, transparent: bool = False) -> Callable[[int, bool], bytes]:
    """What makes a PNG as Pillow does not write it: 16 bits a channel, or interlaced."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def make(side: int, noise: bool) -> bytes:
        random = np.random.default_rng(0)
        packer, packed = zlib.compressobj(0 if noise else 1), []
        for top, left, down, across in ADAM7 if interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(side - left) // across), -(-(side - top) // down)
            row = (columns * PNG_CHANNELS[colour_type] * bits + 7) // 8
            for _ in range(rows):
                packed.append(packer.compress(b"\0" + (random.bytes(row) if noise else bytes(row))))
        packed.append(packer.flush())
        header = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, interlaced)
        palette = (chunk(b"PLTE", bytes(768)) if colour_type == 3 else b"") + (chunk(b"tRNS", bytes(256)) if transparent else b"")
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", b"".join(packed)) + chunk(b"IEND", b"")

    return make


def jpeg_with_scans(count: int, **options: Any) -> Callable[[int, bool], bytes]:
    """What makes a progressive JPEG that repeats its last scan until it has `count`."""
    whole = saved("JPEG", progressive=True, **options)

    def make(side: int, noise: bool) -> bytes:
        photo = whole(side, noise)
        last = photo.rindex(b"\xff\xda")
        return photo[:-2] + photo[last:-2] * max(0, count - photo.count(b"\xff\xda")) + photo[-2:]

    return make


def animated(image_format: str, **options: Any) -> Callable[[int, bool], bytes]:
    """What makes an animation of two frames, the second of one pixel."""

    def make(side: int, noise: bool) -> bytes:
        first = picture("RGB", side, noise)
        second = first.copy()
        second.putpixel((0, 0), (255, 0, 0))
        buffer = io.BytesIO()
        first.save(buffer, image_format, save_all=True, append_images=[second], **options)
        return buffer.getvalue()

    return make


def bmp_runs(run: int) -> Callable[[int, bool], bytes]:
    """What makes a BMP of 8 bits a pixel in runs of one colour, of `run` pixels each."""

    def make(side: int, noise: bool) -> bytes:
        row = bytes((run, 7)) * (side // run) + (bytes((side % run, 7)) if side % run else b"") + b"\0\0"
        pixels = row * side + b"\0\1"
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 2835, 2835, 256, 0)
        start = 14 + len(header) + 1024
        return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + bytes(1024) + pixels

    return make


def tiled(compression: int, side_of_tile: int) -> Callable[[int, bool], bytes]:
    """What makes an RGB TIFF in tiles, which Pillow does not write: 8 is deflate, 1 none."""

    def make(side: int, noise: bool) -> bytes:
        count = (-(-side // side_of_tile)) ** 2
        tile = bytes(side_of_tile**2 * 3)
        tile = zlib.compress(tile) if compression == 8 else tile
        place = 8 + 2 + 12 * 12 + 4
        tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, place), (259, 3, 1, compression), (262, 3, 1, 2), (277, 3, 1, 3)]
        tags += [(284, 3, 1, 1), (322, 4, 1, side_of_tile), (323, 4, 1, side_of_tile)]
        lists = place + 6
        offsets = lists if count > 1 else lists + 8 * count
        tags += [(324, 4, count, offsets), (325, 4, count, lists + 4 * count if count > 1 else len(tile)), (339, 3, 1, 1)]
        directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
        data = lists + 8 * count
        numbers = struct.pack(f"<{count}I", *[data] * count) + struct.pack(f"<{count}I", *[len(tile)] * count)
        return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<HHH", 8, 8, 8) + numbers + tile

    return make


def heif(mode: str = "RGB", bits: int = 8, **options: Any) -> Callable[[int, bool], bytes]:
    """What makes a HEIF of HEVC. Needs pillow-heif, of the extra `dev`: Pillow writes none, and what serves cannot, either."""

    def make(side: int, noise: bool) -> bytes:
        import pillow_heif

        pixels = np.asarray(picture(mode, side, noise))
        if bits > 8:
            whole = pillow_heif.from_bytes(f"{mode};16", (side, side), (pixels.astype("<u2") * 257).tobytes())
        else:
            whole = pillow_heif.from_bytes(mode, (side, side), pixels.tobytes())
        buffer = io.BytesIO()
        whole.save(buffer, **({"quality": 90, "enc_params": {"preset": "ultrafast"}} | options))
        return buffer.getvalue()

    return make


# by name, what makes it; the format's limits are those of handler/limits.py
KINDS: dict[str, tuple[str, Callable[[int, bool], bytes]]] = {
    "JPEG": ("JPEG", saved("JPEG", quality=90)),
    "JPEG, 4:4:4": ("JPEG", saved("JPEG", quality=100, subsampling=0)),
    "JPEG, CMYK": ("JPEG", saved("JPEG", "CMYK")),
    "JPEG, progressive": ("JPEG", saved("JPEG", progressive=True, quality=90)),
    "JPEG, progressive 4:4:4": ("JPEG", saved("JPEG", progressive=True, quality=90, subsampling=0)),
    "JPEG, 100 scans": ("JPEG", jpeg_with_scans(100)),
    "PNG": ("PNG", saved("PNG", compress_level=1)),
    "PNG, alpha": ("PNG", saved("PNG", "RGBA", compress_level=1)),
    "PNG, palette": ("PNG", saved("PNG", "P", compress_level=1)),
    "PNG, transparent palette": ("PNG", png(3, 8, transparent=True)),
    "PNG, 1 bit": ("PNG", png(0, 1)),
    "PNG, interlaced": ("PNG", png(2, 8, interlaced=True)),
    "PNG, interlaced 1 bit": ("PNG", png(0, 1, interlaced=True)),
    "PNG, 16 bit grey": ("PNG", png(0, 16)),
    "PNG, 16 bit": ("PNG", png(2, 16)),
    "PNG, 16 bit alpha interlaced": ("PNG", png(6, 16, interlaced=True)),
    "WebP": ("WEBP", saved("WEBP", quality=90, method=0)),
    "WebP, lossless": ("WEBP", saved("WEBP", lossless=True, quality=0, method=0)),
    "WebP, lossless alpha": ("WEBP", saved("WEBP", "RGBA", lossless=True, quality=0, method=0, exact=True)),
    "WebP, animated": ("WEBP", animated("WEBP", lossless=True, quality=0, method=0)),
    "GIF": ("GIF", saved("GIF", "P")),
    "GIF, transparent": ("GIF", saved("GIF", "P", transparency=0)),
    "BMP": ("BMP", saved("BMP")),
    "BMP, 8 bit": ("BMP", saved("BMP", "P")),
    "BMP, runs": ("BMP", bmp_runs(255)),
    "BMP, runs of 1": ("BMP", bmp_runs(1)),
    "TIFF": ("TIFF", saved("TIFF")),
    "TIFF, LZW": ("TIFF", saved("TIFF", compression="tiff_lzw")),
    "TIFF, deflate": ("TIFF", saved("TIFF", compression="tiff_adobe_deflate")),
    "TIFF, deflate alpha": ("TIFF", saved("TIFF", "RGBA", compression="tiff_adobe_deflate")),
    "TIFF, deflate CMYK": ("TIFF", saved("TIFF", "CMYK", compression="tiff_adobe_deflate")),
    "TIFF, JPEG": ("TIFF", saved("TIFF", compression="jpeg")),
    "TIFF, group 4": ("TIFF", saved("TIFF", "1", compression="group4")),
    "TIFF, LZMA": ("TIFF", saved("TIFF", compression="lzma")),
    "TIFF, big tiles": ("TIFF", tiled(8, 4096)),
    "TIFF, tiles": ("TIFF", tiled(8, 256)),
    "JPEG 2000": ("JPEG2000", saved("JPEG2000", irreversible=False)),
    "JPEG 2000, irreversible": ("JPEG2000", saved("JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[8])),
    "JPEG 2000, alpha": ("JPEG2000", saved("JPEG2000", "RGBA")),
    "AVIF": ("AVIF", saved("AVIF", speed=10, quality=90)),
    "AVIF, 4:4:4 alpha": ("AVIF", saved("AVIF", "RGBA", speed=10, quality=90, subsampling="4:4:4")),
    "HEIF": ("HEIF", heif()),
    "HEIF, tiles": ("HEIF", heif(tile_size=512)),
    "HEIF, alpha": ("HEIF", heif("RGBA")),
    "HEIF, 4:4:4": ("HEIF", heif(chroma=444)),
    "HEIF, 10 bit": ("HEIF", heif(bits=10)),
    "HEIF, 10 bit 4:4:4": ("HEIF", heif(bits=10, chroma=444)),
}
