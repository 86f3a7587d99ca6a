"""(format, width, height) that a photo's header states, from its bytes alone: neither Pillow nor NumPy is imported.

For whoever must know what a photo claims before it is decoded, and has a millisecond for it. No photo hides its size behind
thousands of pieces; one that does is told from one that has none.
"""

import re
import struct
from typing import NamedTuple

from handler import png
from handler.boxes import boxes
from handler.errors import HiddenError, PhotoError
from handler.heif import Pictures
from handler.jpeg import Frame, frame
from handler.jpeg2000 import SIZ, SOC
from handler.limits import format_of
from handler.tiff import Directory

# chunks, boxes or blocks in front of what is looked for
MAX_STEPS = 4096
PNG_PIXELS = (b"IDAT", b"fdAT")
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
BMP_CORE_HEADER = 12  # OS/2's first: sides in two bytes each
GIF_EXTENSION, GIF_IMAGE = 0x21, 0x2C
AVIF_META_BYTES = 65_536  # of the boxes that describe pictures: they have some hundred
TRACK_SIDES = (76, 88)  # where a track's sides stand behind its header's name, by the header's version


class Header(NamedTuple):
    """A photo's format and sides, not turned upright; and of a JPEG the frame that they are read from.

    A HEIF's turn, which its boxes state and not EXIF, is part of the picture.
    """

    name: str
    width: int
    height: int
    frame: Frame | None = None


def header(photo_bytes: bytes) -> Header | None:
    """What a photo's header states; None for what is no photo, or has none. HiddenError, no other."""
    name = format_of(photo_bytes)
    if name is None:
        return None
    try:
        found = _jpeg(photo_bytes) if name == "JPEG" else Header(name, *WAYS[name](photo_bytes))
    except HiddenError:
        raise
    except (
        struct.error,
        IndexError,
        ValueError,
        StopIteration,
        ArithmeticError,
    ):  # cut off, or over a limit: PhotoError is a ValueError
        return None
    return found if found.width > 0 and found.height > 0 else None


def _jpeg(photo_bytes: bytes) -> Header:
    found = frame(photo_bytes)
    if found is None:
        raise PhotoError("no frame")
    return Header("JPEG", found.width, found.height, found)


def _png(photo_bytes: bytes) -> tuple[int, int]:
    # the first chunk, but for what an iPhone or a stranger puts in front; of several the last before the pixels counts for Pillow
    sides = None
    for number, (kind, start, _) in enumerate(png.chunks(photo_bytes)):
        if number == MAX_STEPS:
            raise HiddenError(f"over {MAX_STEPS:,} chunks stand before the pixels")
        if kind in PNG_PIXELS:
            break
        if kind == b"IHDR":
            sides = struct.unpack_from(">II", photo_bytes, start)
    if sides is None:
        raise PhotoError("no header")
    return sides[0], sides[1]


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
    raise HiddenError(f"over {MAX_STEPS:,} blocks stand before the first frame")


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
    start = 0 if raw else next(start for kind, start, _ in boxes(photo_bytes) if kind == b"jp2c")
    marker, right, bottom, left, top = struct.unpack_from(">H4x4I", photo_bytes, start + 2)
    if marker != SIZ:
        raise PhotoError("no sizes")
    return right - left, bottom - top


def _avif(photo_bytes: bytes) -> tuple[int, int]:
    """The largest size that is stated, for a whole picture is larger than its tiles, and of an animation its tracks count.

    ISO/IEC 23008-12, 6.5.3: of pictures (ispe); ISO/IEC 14496-12, 8.3.2: of tracks (tkhd), in 65536ths.
    """
    described = b""
    for kind, start, end in boxes(photo_bytes):
        if kind in (b"meta", b"moov"):
            described += photo_bytes[start : min(end, start + AVIF_META_BYTES + 1)]
            if len(described) > AVIF_META_BYTES:
                raise HiddenError(f"its pictures are described in over {AVIF_META_BYTES:,} bytes")
    sizes = [struct.unpack(">II", sides) for sides in re.findall(rb"ispe\0{4}(.{8})", described, re.DOTALL)]
    for found in re.finditer(rb"tkhd([\0\1])", described):
        across, down = struct.unpack_from(">II", described, found.start(1) + TRACK_SIDES[found[1][0]])
        sizes.append((across >> 16, down >> 16))
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _heif(photo_bytes: bytes) -> tuple[int, int]:
    """The primary picture's as it is shown, not the largest: thumbnails, depth maps and other pictures stand beside it."""
    return Pictures(photo_bytes).shown_size()


WAYS = {
    "PNG": _png,
    "GIF": _gif,
    "WEBP": webp_size,
    "BMP": _bmp,
    "TIFF": _tiff,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
}
