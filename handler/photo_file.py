"""Photo bytes -> an opened image: its header read, its pixels not.

Holds the limits, each checked before memory or time is spent on a claim of a few bytes. handler/preprocess.py decodes.
"""

import io
import re
import struct

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from handler.errors import PhotoError
from handler.jpeg import SOS, scans
from handler.jpeg2000 import SIZ, SOC, check_codestream
from handler.kinds import unread_file, unread_variant

# how the bytes of each format begin; nothing else is handed to Pillow, and only to that format's reader
IMAGE_FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    # two letters alone begin many a text, too: the size of the header follows in four bytes
    "BMP": rb"BM.{12}[\x0c-\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb"....ftypavi[fs]|....ftypm[is]f1.{0,64}avi[fs]",
}
FORMAT_NAMES = ", ".join(IMAGE_FORMATS)

# a phone's best JPEG has 15 MB; config.properties lets through just this much as base64
MAX_BYTES = 20 * 1024 * 1024
# Pillow warns of a decompression bomb from here on; a phone's 50 megapixels are well below
MAX_PIXELS = 89_478_485
# only a JPEG is decoded at the crop's scale; of the others all pixels are held, several times over. By `make photo-costs` one at
# its limit takes 384 MB and 0.75 s of CPU at most: a WebP of 38 bytes and 88 megapixels took 1.35 GB and 2 s
MAX_PIXELS_OF = {
    "PNG": 51_000_000,
    "GIF": 36_000_000,
    "BMP": 36_000_000,
    "TIFF": 36_000_000,
    "WEBP": 20_000_000,
    "AVIF": 20_000_000,
    "JPEG2000": 10_000_000,
}
# one pixel a side shows nothing
MIN_SIDE = 2
# the resized long side is this many times the crop at most, which bounds the memory that a 1 x 60000 strip takes
MAX_ASPECT_RATIO = 20
# only the first is decoded, but the reader notes each. GIF and TIFF do not state a count, and Pillow seeks none but their first
MAX_FRAMES = 1000
# of a JPEG: one pass over all pixels each, and a thousand empty ones fit into 16 kB; cameras write 1 or 10
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
# pieces that Pillow reads one by one in Python, some microseconds each: a photo has hundreds, a PNG of 20 MB in blocks of 4 kB has
# 20,000; 20 MB of empty chunks are ten seconds of nothing else
MAX_READS = 100_000
# numbers in one tag of a TIFF, and tags: a strip for each row is the usual maximum, and Pillow keeps 200 bytes for each
MAX_TIFF_VALUES = 65_536
MAX_TIFF_TAGS = 4096
# libtiff takes memory for a whole tile, whatever the photo's size; 256 x 256 is usual
MAX_TIFF_TILE_PIXELS = 16_777_216
# TIFF 6.0, section 2 and page 67: the types of values and the tags that are looked at; 43 where TIFF has 42 is a BigTIFF
BIG_TIFF = 43
BYTES_AND_TEXT = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED: profiles and thumbnails are of these types
SHORT = 3
TILE_WIDTH, TILE_LENGTH = 322, 323


class _Counted(io.BytesIO):
    """Bytes of a file that may be read in MAX_READS pieces at most."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise PhotoError(f"the photo comes in too many pieces, the limit is {MAX_READS:,}", 413)
        return super().read(size)


def open_photo(photo_bytes: bytes) -> Image.Image:
    """The photo with its header read, its pixels not, within all limits. PhotoError."""
    if len(photo_bytes) > MAX_BYTES:
        raise PhotoError(f"the photo has {len(photo_bytes):,} bytes, the limit is {MAX_BYTES:,}", 413)
    if not photo_bytes:
        raise PhotoError("the photo is empty: 0 bytes", 400)
    start = photo_bytes[:128]
    name = next((name for name, magic in IMAGE_FORMATS.items() if re.match(magic, start, re.DOTALL)), None)
    if name is None:
        raise unsupported(unread_file(photo_bytes))
    try:
        _check_claims(name, photo_bytes)
        image = Image.open(_Counted(photo_bytes), formats=(name,))
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has too many pixels, the limit is {MAX_PIXELS:,}", 413) from error
    except Exception as error:
        if kind := unread_variant(name, photo_bytes):
            raise unsupported(kind) from error
        reason = "broken or cut off" if isinstance(error, UnidentifiedImageError) else error
        raise text_error(error) or PhotoError(f"the photo's {name} header cannot be read: {reason}") from error
    check_size(name, image.width, image.height)
    if name == "JPEG":
        _check_scans(photo_bytes, image.width * image.height)
    # counting those of other formats would mean walking through the file
    frames = getattr(image, "n_frames", 1) if image.format in ("WEBP", "AVIF", "PNG", "MPO") else 1
    if frames > MAX_FRAMES:
        raise PhotoError(f"the photo has {frames:,} frames, the limit is {MAX_FRAMES:,}", 413)
    return image


def unsupported(kind: str | None) -> PhotoError:
    """415 for a file of a kind that is not read, whose name is given, or that is not told."""
    problem = f"unsupported format: {kind}" if kind else "not an image in a supported format"
    return PhotoError(f"{problem}; supported: {FORMAT_NAMES}", 415)


def check_size(name: str, width: int, height: int) -> None:
    """PhotoError for a photo of format `name` with too many pixels, too few or too long a side."""
    pixels, limit = width * height, MAX_PIXELS_OF.get(name, MAX_PIXELS)
    if pixels > MAX_PIXELS:
        raise PhotoError(f"the photo has {width} x {height} pixels: too many pixels, the limit is {MAX_PIXELS:,}", 413)
    if pixels > limit:
        raise PhotoError(
            f"the photo has {width} x {height} pixels: too many for a {name}, the limit is {limit:,}; "
            f"send it smaller, or as a JPEG, whose limit is {MAX_PIXELS:,}",
            413,
        )
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"the photo has {width} x {height} pixels: a side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotoError(f"the photo has {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def text_error(error: Exception) -> PhotoError | None:
    """413 for Pillow's error about a PNG whose compressed text or colour profile unpacks to too much, else None."""
    if "MAX_TEXT_" not in str(error):
        return None
    one, together = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    return PhotoError(f"the photo's text or colour profile unpacks to over {one:,} bytes, or {together:,} together", 413)


def _check_claims(name: str, photo_bytes: bytes) -> None:
    """PhotoError for small files with large claims, for which Pillow or its libraries would allocate. struct.error if cut off."""
    # an upper bound, for pixels may hold these four letters by chance
    if name == "WEBP" and photo_bytes.count(b"ANMF") > MAX_FRAMES:
        raise PhotoError(f"the photo has over {MAX_FRAMES:,} frames, the limit is {MAX_FRAMES:,}", 413)
    if name == "WEBP":
        # Pillow's reader takes the memory of two canvases when it opens one
        check_size(name, *_webp_size(photo_bytes))
    if name == "TIFF":
        _check_tags(photo_bytes)
    if name == "JPEG2000":
        # a decoy may stand before the true one
        for found in re.finditer(re.escape(struct.pack(">HH", SOC, SIZ)), photo_bytes):
            check_codestream(photo_bytes, found.start(), MAX_PIXELS_OF["JPEG2000"])


def _check_scans(photo_bytes: bytes, pixels: int) -> None:
    """PhotoError if the first picture in a JPEG of so many pixels has too many scans."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    # any bytes may follow the picture (a phone's video does), so only a count that is too high is examined
    if photo_bytes.count(SOS) > most and scans(photo_bytes, most + 1) > most:
        raise PhotoError(f"the photo has over {most} scans of {pixels:,} pixels, the limit is {most}", 413)


def _webp_size(photo_bytes: bytes) -> tuple[int, int]:
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


def _check_tags(photo_bytes: bytes) -> None:
    """PhotoError if the first directory of a TIFF or BigTIFF has too many tags, or one with too many numbers."""
    order = "<" if photo_bytes[:1] == b"I" else ">"
    big = photo_bytes[2 if order == "<" else 3] == BIG_TIFF
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), photo_bytes, 8 if big else 4)
    # a directory: the number of tags, and for each its number, type, count and (skipped here) value or the value's place
    count_format, tag_format = (order + "Q", order + "HHQ8x") if big else (order + "H", order + "HHI4x")
    (tags,) = struct.unpack_from(count_format, photo_bytes, at)
    if tags > MAX_TIFF_TAGS:
        raise PhotoError(f"the photo has {tags:,} TIFF tags, the limit is {MAX_TIFF_TAGS:,}", 413)
    tile = {TILE_WIDTH: 1, TILE_LENGTH: 1}
    for i in range(tags):
        place = at + struct.calcsize(count_format) + i * struct.calcsize(tag_format)
        tag, kind, values = struct.unpack_from(tag_format, photo_bytes, place)
        if values > MAX_TIFF_VALUES and kind not in BYTES_AND_TEXT:
            raise PhotoError(f"the photo's TIFF tag {tag} has {values:,} values, the limit is {MAX_TIFF_VALUES:,}", 413)
        if tag in tile:
            (tile[tag],) = struct.unpack_from(order + ("H" if kind == SHORT else "I"), photo_bytes, place + (12 if big else 8))
    width, length = tile.values()
    if width * length > MAX_TIFF_TILE_PIXELS:
        raise PhotoError(f"the photo has tiles of {width} x {length}, the limit is {MAX_TIFF_TILE_PIXELS:,} pixels", 413)
