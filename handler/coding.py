"""How a photo is coded, as far as its cost depends on it: by Pillow's opened image, or less exactly by the bytes alone."""

import struct
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from handler import png
from handler.dimensions import BMP_CORE_HEADER, MAX_STEPS, Header
from handler.heif import Pictures
from handler.jpeg import EOI, SOS, Frame, samples, scans
from handler.limits import MAX_SCANS
from handler.tiff import Directory

if TYPE_CHECKING:
    from PIL import Image

# bytes that are searched for scans, from the first one, and for the end marker, to the file's end: a millisecond or two each
SEARCHED = 2 * 1024 * 1024
BMP_RUNS = (1, 2)  # compression: runs of 8 or 4 bits a pixel
BMP_ALPHA_MASK, BMP_HEADER_WITH_MASKS = 66, 56
GIF_CONTROL = b"\x21\xf9\x04"  # the extension that tells of transparency, in its first bit
WEBP_HAS_ALPHA, WEBP_HAS_PROFILE = 0x10, 0x20
JPEG_PROFILE = b"ICC_PROFILE\0"
PNG_COLOURS = {"chromaticity", "gamma"}  # as Pillow names them
# the name of a table in a profile's directory, and where this ends at the latest: handler/icc.py
ICC_TABLE, ICC_DIRECTORY = b"A2B", 128 + 4 + 12 * 100
TIFF_BITS, TIFF_COMPRESSION, TIFF_CHANNELS, TIFF_EXTRA, TIFF_PROFILE = 258, 259, 277, 338, 34675
TIFF_RAW, TIFF_DEFLATE = 1, (8, 32946)
USUAL_HEIF = 8, "4:2:0"


class Coding(NamedTuple):
    """`kind` is a row of cost.FACTORS, `mode` Pillow's. Of a JPEG in scans: how many, and its samples for each pixel."""

    kind: str
    mode: str = ""
    alpha: bool = False
    passes: int = 1
    samples: float = 0.0
    ended: bool = True  # False: a JPEG without its end marker
    # of a HEIF: what is decoded, which is not what is shown and not the whole file
    pixels: int = 0
    length: int = 0
    profile: str = ""  # by which colours are converted: a row of cost.PROFILE_COST

    @property
    def is_jpeg(self) -> bool:
        """Whether it is decoded at the crop's scale."""
        return self.kind in ("JPEG", "JPEG in scans")


def coding_of_image(image: "Image.Image", photo_bytes: bytes) -> Coding:
    """Of an opened photo."""
    if image.format in ("HEIF", "AVIF"):
        return (_heif if image.format == "HEIF" else _avif)(photo_bytes)
    alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if image.format not in ("JPEG", "MPO"):
        return Coding(_kind(image), image.mode, alpha, profile=_profile(image))
    passes = scans(photo_bytes, MAX_SCANS + 1)
    # Pillow: number, sampling across and down, table, of each channel
    channels = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    kind = "JPEG in scans" if passes > 1 else "JPEG"
    ended = photo_bytes.rfind(EOI) >= 0  # from the end, where it stands
    return Coding(kind, image.mode, alpha, passes, samples(channels), ended, profile=_profile(image))


def _profile(image: "Image.Image") -> str:
    found = image.info.get("icc_profile")
    if not found:
        return "matrix" if image.format == "PNG" and not PNG_COLOURS.isdisjoint(image.info) else ""
    return "press" if image.mode == "CMYK" else "table" if ICC_TABLE in found[:ICC_DIRECTORY] else "matrix"


def _kind(image: "Image.Image") -> str:
    name = str(image.format)
    tiles = getattr(image, "tile", None)
    codec = tiles[0][0] if tiles else ""
    if name == "PNG" and image.info.get("interlace"):
        return "PNG interlaced"
    if name == "BMP" and codec != "raw":
        return "BMP in runs"
    if name == "TIFF":
        compression = image.info.get("compression")
        return "TIFF raw" if codec == "raw" else "TIFF deflate" if compression in ("tiff_adobe_deflate", "tiff_deflate") else "TIFF"
    return name


def coding_of_bytes(header: Header, photo_bytes: bytes) -> Coding:
    """Of a photo with this header. Never raises: what is cut off is taken for the usual."""
    if header.frame:
        return _jpeg(header.frame, photo_bytes)
    ways = {"PNG": _png, "GIF": _gif, "BMP": _bmp, "TIFF": _tiff, "WEBP": _webp, "AVIF": _avif, "HEIF": _heif}
    try:
        return ways[header.name](photo_bytes) if header.name in ways else Coding(header.name)
    except (struct.error, IndexError, ValueError):
        return Coding(header.name)


def _jpeg(found: Frame, photo_bytes: bytes) -> Coding:
    mode = {1: "L", 3: "RGB"}.get(len(found.sampling), "CMYK")
    passes = 1
    if not found.has_one_scan:
        passes = min(photo_bytes.count(SOS, found.scan, found.scan + SEARCHED), MAX_SCANS + 1)
    ended = photo_bytes.rfind(EOI, max(0, len(photo_bytes) - SEARCHED)) >= 0
    profile = _usual_profile(mode, photo_bytes.find(JPEG_PROFILE, 0, found.scan) >= 0)
    return Coding("JPEG in scans" if passes > 1 else "JPEG", mode, False, passes, samples(found.sampling), ended, profile=profile)


def _usual_profile(mode: str, has_one: bool) -> str:
    return "" if not has_one else "press" if mode == "CMYK" else "matrix"


def _png(photo_bytes: bytes) -> Coding:
    mode, alpha, kind, profile = "", False, "PNG", ""
    for chunk, start, _ in islice(png.chunks(photo_bytes), MAX_STEPS):
        if chunk == b"IHDR":
            bits, colour = photo_bytes[start + png.COLOUR_BITS], photo_bytes[start + png.COLOUR_TYPE]
            kind = "PNG interlaced" if photo_bytes[start + png.INTERLACE] else "PNG"
            mode = {0: "I;16" if bits == 16 else "L", 2: "RGB", 3: "P"}.get(colour, "RGBA")
            alpha = mode == "RGBA"
        elif chunk == b"tRNS":
            alpha = True
        elif chunk in (b"iCCP", b"cHRM", b"gAMA"):
            profile = "matrix"
        elif chunk == b"IDAT":
            break
    return Coding(kind, mode, alpha, profile=profile)


def _gif(photo_bytes: bytes) -> Coding:
    control = photo_bytes.find(GIF_CONTROL, 0, MAX_STEPS)
    return Coding("GIF", "P", control >= 0 and bool(photo_bytes[control + len(GIF_CONTROL)] & 1))


def _bmp(photo_bytes: bytes) -> Coding:
    (header,) = struct.unpack_from("<I", photo_bytes, 14)
    if header == BMP_CORE_HEADER:
        return Coding("BMP", "P" if photo_bytes[24] <= 8 else "RGB")
    bits, compression = struct.unpack_from("<HI", photo_bytes, 28)
    alpha = bits == 32 and header >= BMP_HEADER_WITH_MASKS and any(photo_bytes[BMP_ALPHA_MASK : BMP_ALPHA_MASK + 4])
    return Coding("BMP in runs" if compression in BMP_RUNS else "BMP", "P" if bits <= 8 else "RGB", alpha)


def _tiff(photo_bytes: bytes) -> Coding:
    directory = Directory(photo_bytes)
    tags = directory.find(TIFF_BITS, TIFF_COMPRESSION, TIFF_CHANNELS, TIFF_EXTRA)
    compression, channels, bits = (tags.get(number, [1])[0] for number in (TIFF_COMPRESSION, TIFF_CHANNELS, TIFF_BITS))
    kind = "TIFF raw" if compression == TIFF_RAW else "TIFF deflate" if compression in TIFF_DEFLATE else "TIFF"
    mode = {1: "I;16" if bits == 16 else "L", 3: "RGB"}.get(channels, "CMYK")
    return Coding(kind, mode, any(tags.get(TIFF_EXTRA, [])), profile=_usual_profile(mode, directory.has(TIFF_PROFILE)))


def _webp(photo_bytes: bytes) -> Coding:
    lossless = photo_bytes[12:16] == b"VP8L"
    # RFC 9649: of VP8X's flags, or behind VP8L's two sides of 14 bits
    alpha = photo_bytes[24] & WEBP_HAS_ALPHA if lossless else photo_bytes[12:16] == b"VP8X" and photo_bytes[20] & WEBP_HAS_ALPHA
    profile = "matrix" if photo_bytes[12:16] == b"VP8X" and photo_bytes[20] & WEBP_HAS_PROFILE else ""
    return Coding("WEBP", "RGB", bool(alpha), profile=profile)


def _avif(photo_bytes: bytes) -> Coding:
    return Coding("AVIF", profile="matrix" if Pictures(photo_bytes).has_colours() else "")


def _heif(photo_bytes: bytes) -> Coding:
    pictures = Pictures(photo_bytes)
    mode = "RGBA" if pictures.has_alpha() else "RGB"
    kind = "HEIF" if pictures.coding() == USUAL_HEIF else "HEIF deep"
    profile = "matrix" if pictures.has_colours() else ""
    return Coding(kind, mode, mode == "RGBA", pixels=pictures.pixels(), length=pictures.coded_bytes(), profile=profile)
