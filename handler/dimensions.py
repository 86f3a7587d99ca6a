"""(format, width, height) that a photo's header states, from its bytes alone: neither Pillow nor NumPy is imported.

For whoever must know what a photo claims before it is decoded, and has a millisecond for it. What is hidden behind thousands of
pieces is not found: no photo has so many.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from handler import png
from handler.errors import PhotoError
from handler.jpeg import Frame, frame
from handler.jpeg2000 import SIZ, SOC
from handler.limits import format_of
from handler.tiff import Directory

# chunks, boxes or blocks in front of what is looked for
MAX_STEPS = 4096
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
BMP_CORE_HEADER = 12  # OS/2's first: sides in two bytes each
GIF_EXTENSION, GIF_IMAGE = 0x21, 0x2C
AVIF_META_BYTES = 65_536  # of the box that describes a picture: it has some hundred


class Header(NamedTuple):
    """A photo's format and sides, not turned upright; and of a JPEG the frame that they are read from."""

    name: str
    width: int
    height: int
    frame: Frame | None = None


def dimensions(photo_bytes: bytes) -> tuple[str, int, int] | None:
    """(format, width, height), not turned upright; None for what is no photo, or has no such header. Never raises."""
    found = header(photo_bytes)
    return None if found is None else (found.name, found.width, found.height)


def header(photo_bytes: bytes) -> Header | None:
    """What a photo's header states; None for what is no photo, or has none. Never raises."""
    name = format_of(photo_bytes)
    if name is None:
        return None
    try:
        found = _jpeg(photo_bytes) if name == "JPEG" else Header(name, *WAYS[name](photo_bytes))
    except (struct.error, IndexError, ValueError, StopIteration):  # cut off, or over a limit: PhotoError is a ValueError
        return None
    return found if found.width > 0 and found.height > 0 else None


def _jpeg(photo_bytes: bytes) -> Header:
    found = frame(photo_bytes)
    if found is None:
        raise PhotoError("no frame")
    return Header("JPEG", found.width, found.height, found)


def _png(photo_bytes: bytes) -> tuple[int, int]:
    # the first chunk, but for what an iPhone or a stranger puts in front
    start = next(start for kind, start, _ in islice(png.chunks(photo_bytes), MAX_STEPS) if kind == b"IHDR")
    width, height = struct.unpack_from(">II", photo_bytes, start)
    return width, height


def _gif(photo_bytes: bytes) -> tuple[int, int]:
    """GIF89a, sections 18 to 20: the screen's size, or that of a first frame which is larger."""
    width, height = struct.unpack_from("<HH", photo_bytes, 6)
    at = 13 + (3 << (photo_bytes[10] % 8 + 1) if photo_bytes[10] & 0x80 else 0)
    in_extension = False
    for _ in range(MAX_STEPS):
        byte = photo_bytes[at]
        if in_extension:  # its blocks each begin with their length, and an empty one ends it
            at, in_extension = at + 1 + byte, byte > 0
        elif byte == GIF_IMAGE:
            left, top, across, down = struct.unpack_from("<HHHH", photo_bytes, at + 1)
            return max(width, left + across), max(height, top + down)
        else:
            in_extension = byte == GIF_EXTENSION
            at += 2 if in_extension else 1
    return width, height


def webp_size(photo_bytes: bytes) -> tuple[int, int]:
    """(width, height) that a WebP states: RFC 9649, sections 2.5 to 2.7. struct.error if it is cut off."""
    kind = photo_bytes[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(photo_bytes[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", photo_bytes, 21)
        return bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    width, height = struct.unpack_from("<HH", photo_bytes, 26)
    return width % 2**14, height % 2**14


def _bmp(photo_bytes: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", photo_bytes, 14)
    width, height = struct.unpack_from("<HH" if header == BMP_CORE_HEADER else "<ii", photo_bytes, 18)
    return abs(width), abs(height)  # a height below 0: the rows begin at the top


def _tiff(photo_bytes: bytes) -> tuple[int, int]:
    sides = Directory(photo_bytes).find(TIFF_WIDTH, TIFF_HEIGHT)
    return sides.get(TIFF_WIDTH, [])[0], sides.get(TIFF_HEIGHT, [])[0]


def _jpeg2000(photo_bytes: bytes) -> tuple[int, int]:
    """ISO/IEC 15444-1, A.5.1: corners of the image on its grid, in the codestream, whatever its container states."""
    raw = photo_bytes.startswith(struct.pack(">H", SOC))
    start = 0 if raw else next(start for kind, start, _ in _boxes(photo_bytes) if kind == b"jp2c")
    marker, right, bottom, left, top = struct.unpack_from(">H4x4I", photo_bytes, start + 2)
    if marker != SIZ:
        raise PhotoError("no sizes")
    return right - left, bottom - top


def _avif(photo_bytes: bytes) -> tuple[int, int]:
    """ISO/IEC 23008-12, 6.5.3: of the pictures' sizes (ispe) the largest, for a whole picture is larger than its tiles."""
    start, end = next((start, end) for kind, start, end in _boxes(photo_bytes) if kind == b"meta")
    sizes = re.findall(rb"ispe\0{4}(.{4})(.{4})", photo_bytes[start : min(end, start + AVIF_META_BYTES)], re.DOTALL)
    return max(
        ((int.from_bytes(width), int.from_bytes(height)) for width, height in sizes),
        key=lambda size: size[0] * size[1],
        default=(0, 0),
    )


def _boxes(photo_bytes: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content begins, where it ends) of each box of a file: ISO/IEC 14496-12, section 4.2."""
    at, steps = 0, 0
    while at + 8 <= len(photo_bytes) and steps < MAX_STEPS:
        length, kind = struct.unpack_from(">I4s", photo_bytes, at)
        start = at + 8
        if length == 1:  # it follows in eight bytes
            (length,) = struct.unpack_from(">Q", photo_bytes, start)
            start += 8
        end = at + length if length else len(photo_bytes)
        if end < start:
            return
        yield kind, start, end
        at, steps = end, steps + 1


WAYS = {
    "PNG": _png,
    "GIF": _gif,
    "WEBP": webp_size,
    "BMP": _bmp,
    "TIFF": _tiff,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
}
