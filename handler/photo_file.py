"""Photo bytes -> an opened image: its header read, its pixels not.

Holds the limits: each before memory or time is spent on what a few bytes only claim. Decoding is handler/preprocess.py's.
"""

import io
import math
import re
import struct
from collections.abc import Iterator

from PIL import Image, PngImagePlugin, UnidentifiedImageError

# how the bytes of each format begin; nothing else is handed to Pillow, and only to that format's reader
FORMATS = {
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
FORMAT_NAMES = ", ".join(FORMATS)
# what people send who do not know it: iPhones' photos, for one
NOT_READ = {
    "HEIC": rb"....ftyp(hei|hev|mif1)",
    "PDF": rb"%PDF-",
    "SVG or HTML": rb"\s*<",
    "ZIP": rb"PK\x03\x04",
    "video": rb"....ftyp",
}

# a phone's best JPEG has 15 MB; config.properties lets through just this much as base64
MAX_BYTES = 20 * 1024 * 1024
# Pillow warns of a decompression bomb from here on; phones' 50-megapixel photos lie well below
MAX_PIXELS = 89_478_485
# one pixel a side shows nothing
MIN_SIDE = 2
# the resized long side is this many times the crop at most, which bounds the memory that a 1 x 60000 strip takes
MAX_ASPECT_RATIO = 20
# only the first is decoded, but the reader notes each. GIF and TIFF do not say how many they hold, and none but the first is sought
MAX_FRAMES = 1000
# of a JPEG: one pass over all pixels each, and a thousand empty ones fit into 16 kB; cameras write 1 or 10
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS
# pieces that Pillow reads one by one in Python: a photo has hundreds, 20 MB of empty chunks are ten seconds of nothing else
MAX_READS = 250_000
# numbers in one tag of a TIFF, and tags: a strip a row is the most that is usual, and Pillow keeps 200 bytes for each
MAX_TIFF_VALUES = 65_536
MAX_TIFF_TAGS = 4096
# libtiff takes memory for a whole tile, whatever the photo's size; 256 x 256 is usual
MAX_TIFF_TILE_PIXELS = 16_777_216
# OpenJPEG takes 9 kB for each tile and 500 bytes for each block before it has read one, and a second for 10 megapixels:
# of 138 bytes it made 6 GB and 37 s
MAX_JPEG2000_PIXELS = 25_000_000
MAX_JPEG2000_TILES = 4096
MAX_JPEG2000_BLOCKS = 500_000


class PhotoError(ValueError):
    """These bytes are no photo that we can read; the message says why, for the person who sent them.

    `status` is HTTP's: 413 over a limit, 415 no format that is read here, 422 such a format, but broken or of no use.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class _Counted(io.BytesIO):
    """Bytes of a file that may be read in MAX_READS pieces at most."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise PhotoError(f"the photo comes in too many pieces: at most {MAX_READS:,} are read", 413)
        return super().read(size)


def open_photo(photo_bytes: bytes) -> Image.Image:
    """The photo with its header read, its pixels not, within all limits. PhotoError."""
    if len(photo_bytes) > MAX_BYTES:
        raise PhotoError(f"the photo has {len(photo_bytes):,} bytes: at most {MAX_BYTES:,} are read", 413)
    if not photo_bytes:
        raise PhotoError("the photo is empty: 0 bytes", 400)
    start = photo_bytes[:128]
    name = next((name for name, magic in FORMATS.items() if re.match(magic, start, re.DOTALL)), None)
    if name is None:
        kind = next((f" but {kind}" for kind, magic in NOT_READ.items() if re.match(magic, start, re.DOTALL)), "")
        raise PhotoError(f"not an image in a format that is read here ({FORMAT_NAMES}){kind}", 415)
    try:
        _check_claims(name, photo_bytes)
        image = Image.open(_Counted(photo_bytes), formats=(name,))
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has too many pixels: at most {MAX_PIXELS:,} are read", 413) from error
    except Exception as error:
        reason = "broken or cut off" if isinstance(error, UnidentifiedImageError) else error
        raise text_error(error) or PhotoError(f"the photo's {name} header cannot be read: {reason}") from error
    _check_size(image.width, image.height)
    if name == "JPEG":
        _check_scans(photo_bytes, image.width * image.height)
    # the other formats would have to be walked through to count
    frames = getattr(image, "n_frames", 1) if image.format in ("WEBP", "AVIF", "PNG", "MPO") else 1
    if frames > MAX_FRAMES:
        raise PhotoError(f"the photo has {frames:,} frames: at most {MAX_FRAMES:,} are read", 413)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PhotoError(f"the photo has {width} x {height} pixels: too many pixels, at most {MAX_PIXELS:,} are read", 413)
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"the photo has {width} x {height} pixels: a side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotoError(f"the photo has {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def text_error(error: Exception) -> PhotoError | None:
    """413 for what Pillow says of a PNG whose compressed text or colour profile unpacks to too much."""
    if "MAX_TEXT_" not in str(error):
        return None
    one, together = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    return PhotoError(f"the photo's text or colour profile unpacks to over {one:,} bytes, or {together:,} together", 413)


def _check_claims(name: str, photo_bytes: bytes) -> None:
    """PhotoError for what small files claim, and Pillow or the library under it would believe. struct.error if cut off."""
    # more than frames in theory, for pixels may hold these four letters by chance
    if name == "WEBP" and photo_bytes.count(b"ANMF") > MAX_FRAMES:
        raise PhotoError(f"the photo has over {MAX_FRAMES:,} frames: at most {MAX_FRAMES:,} are read", 413)
    if name == "TIFF":
        _check_tags(photo_bytes)
    if name == "JPEG2000":
        # a decoy may stand before the true one
        for found in re.finditer(rb"\xff\x4f\xff\x51", photo_bytes):
            _check_codestream(photo_bytes, found.start())


def _check_scans(photo_bytes: bytes, pixels: int) -> None:
    """PhotoError if the first picture in a JPEG of so many pixels has too many scans."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    # what lies behind the picture (a phone's video) may hold any bytes, so that only a count that is too high is looked into
    if photo_bytes.count(b"\xff\xda") <= most:
        return
    count, at = 0, 2
    # in a scan, 0xff is followed by 0, by a restart marker or by a filling 0xff
    marker = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]")
    while (found := marker.search(photo_bytes, at)) and found[0] != b"\xff\xd9":
        count += found[0] == b"\xff\xda"
        if count > most:
            raise PhotoError(f"the photo has over {most} scans of {pixels:,} pixels: at most {most} are read", 413)
        at = found.end() + int.from_bytes(photo_bytes[found.end() : found.end() + 2])


def _check_tags(photo_bytes: bytes) -> None:
    """PhotoError if the first directory of a TIFF or BigTIFF has too many tags, or one with too many numbers."""
    order = "<" if photo_bytes[:1] == b"I" else ">"
    big = photo_bytes[2 if order == "<" else 3] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), photo_bytes, 8 if big else 4)
    tags_format, tag_format = (order + "Q", order + "HHQ8x") if big else (order + "H", order + "HHI4x")
    (tags,) = struct.unpack_from(tags_format, photo_bytes, at)
    if tags > MAX_TIFF_TAGS:
        raise PhotoError(f"the photo has {tags:,} TIFF tags: at most {MAX_TIFF_TAGS:,} are read", 413)
    tile = {322: 1, 323: 1}
    for i in range(tags):
        place = at + struct.calcsize(tags_format) + i * struct.calcsize(tag_format)
        tag, kind, values = struct.unpack_from(tag_format, photo_bytes, place)
        # 1, 2, 6, 7: bytes and text, as profiles and thumbnails are
        if values > MAX_TIFF_VALUES and kind not in (1, 2, 6, 7):
            raise PhotoError(f"the photo's TIFF tag {tag} has {values:,} values: at most {MAX_TIFF_VALUES:,} are read", 413)
        if tag in tile:
            (tile[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), photo_bytes, place + (12 if big else 8))
    if tile[322] * tile[323] > MAX_TIFF_TILE_PIXELS:
        raise PhotoError(f"the photo has tiles of {tile[322]} x {tile[323]}: at most {MAX_TIFF_TILE_PIXELS:,} pixels are read", 413)


def _check_codestream(photo_bytes: bytes, at: int) -> None:
    """PhotoError if the JPEG 2000 codestream that begins at `at` claims too much (ISO 15444-1, annex A)."""
    right, bottom, left, top, *tile, channels = struct.unpack_from(">8IH", photo_bytes, at + 8)
    tile_width, tile_height, tile_left, tile_top = tile
    if left >= right or top >= bottom or not tile_width or not tile_height:
        raise PhotoError("the photo's JPEG2000 header cannot be read: it has no pixels")
    pixels = (right - left) * (bottom - top)
    if pixels > MAX_JPEG2000_PIXELS:
        raise PhotoError(f"the photo has {pixels:,} pixels: too many, at most {MAX_JPEG2000_PIXELS:,} are read of a JPEG2000", 413)
    tiles = math.ceil((right - tile_left) / tile_width) * math.ceil((bottom - tile_top) / tile_height)
    if tiles > MAX_JPEG2000_TILES:
        raise PhotoError(f"the photo has {tiles:,} tiles: at most {MAX_JPEG2000_TILES:,} are read", 413)
    if channels > 4:
        raise PhotoError(f"the photo has {channels} channels: at most 4 are read", 413)
    blocks = pixels * channels // min(_block_pixels(photo_bytes, at))
    if blocks > MAX_JPEG2000_BLOCKS:
        raise PhotoError(f"the photo has {blocks:,} blocks: at most {MAX_JPEG2000_BLOCKS:,} are read", 413)


def _block_pixels(photo_bytes: bytes, at: int) -> Iterator[int]:
    """Pixels of a code block, for each segment (COD, COC) of a JPEG 2000's main and tile headers that sets them."""
    tile_part, at = 0, at + 2
    while at + 4 <= len(photo_bytes):
        marker, length = struct.unpack_from(">HH", photo_bytes, at)
        if marker == 0xFF93 and tile_part:  # SOD: data to the end of the tile part, which is the last where it says 0
            (size,) = struct.unpack_from(">I", photo_bytes, tile_part + 6)
            at = tile_part + size if size else len(photo_bytes)
            if size and at < tile_part + 14:
                raise PhotoError("the photo's JPEG2000 header cannot be read: a tile ends before it begins")
            tile_part = 0
            continue
        if marker == 0xFFD9:
            return
        # what OpenJPEG skips in its own way would lead it elsewhere than us
        if marker not in (0xFF90, *range(0xFF50, 0xFF65)):
            raise PhotoError("the photo's JPEG2000 header cannot be read: it has an unknown marker")
        tile_part = at if marker == 0xFF90 else tile_part
        segment = photo_bytes[at + 4 : at + 2 + length]
        if marker in (0xFF52, 0xFF53):
            custom, style = (segment[0], segment[5:]) if marker == 0xFF52 else (segment[1], segment[2:])
            # exponents: of a block, of a precinct at each resolution, which cuts it
            width, height = style[1] % 16 + 2, style[2] % 16 + 2
            for precinct in style[5:] if custom & 1 else b"":
                width, height = min(width, max(precinct % 16 - 1, 0)), min(height, max(precinct // 16 - 1, 0))
            yield 2 ** (width + height)
        at += 2 + length
