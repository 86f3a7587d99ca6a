"""Photo bytes -> an opened image: its header read, its pixels not.

Holds the limits, each checked before memory or time is spent on a claim of a few bytes. handler/preprocess.py decodes.
"""

import io
import math
import re
import struct
from collections.abc import Iterator

from PIL import Image, PngImagePlugin, UnidentifiedImageError

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
# often sent by mistake, HEIC by iPhones: the error names them
NOT_READ = {
    "HEIC": rb"....ftyp(hei|hev|mif1)",
    "PDF": rb"%PDF-",
    "SVG or HTML": rb"\s*<",
    "ZIP": rb"PK\x03\x04",
    "video": rb"....ftyp",
}

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
# OpenJPEG takes 9 kB for each tile and 500 bytes for each block before it has read one: a file of 138 bytes took 6 GB and 37 s
MAX_JPEG2000_TILES = 4096
MAX_JPEG2000_BLOCKS = 500_000

# JPEG's markers: ITU-T T.81, table B.1
SOS, EOI = b"\xff\xda", b"\xff\xd9"  # start of scan, end of image
# start of frame: sequential and progressive, by Huffman's and by arithmetic coding
PROGRESSIVE_FRAMES = (b"\xff\xc2", b"\xff\xca")
FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc9", *PROGRESSIVE_FRAMES)
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]")

# TIFF 6.0, section 2 and page 67: the types of values and the tags that are looked at; 43 where TIFF has 42 is a BigTIFF
BIG_TIFF = 43
BYTES_AND_TEXT = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED: profiles and thumbnails are of these types
SHORT = 3
TILE_WIDTH, TILE_LENGTH = 322, 323

# JPEG 2000's markers: ISO/IEC 15444-1, table A.2
SOC, SIZ = 0xFF4F, 0xFF51  # start of codestream; sizes of image and tiles, which follow it at once
COD, COC = 0xFF52, 0xFF53  # coding style of all channels, of one
SOT, SOD, EOC = 0xFF90, 0xFF93, 0xFFD9  # start of a tile-part, of its data; end of codestream
HEADER_SEGMENTS = range(0xFF50, 0xFF65)  # CAP to COM: all segments with a length that a header may hold
SOT_BYTES, SOD_BYTES = 12, 2  # both markers with what belongs to them


class PhotoError(ValueError):
    """These bytes are not a photo that we can read; the message says why, for the person who sent them.

    `status` is HTTP's: 413 over a limit, 415 an unknown format, 422 a known one, but broken or of no use, 503 over what may be
    decoded at a time: later it may be read.
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
        kind = next((kind for kind, magic in NOT_READ.items() if re.match(magic, start, re.DOTALL)), None)
        problem = f"unsupported format: {kind}" if kind else "not an image in a supported format"
        raise PhotoError(f"{problem}; supported: {FORMAT_NAMES}", 415)
    try:
        _check_claims(name, photo_bytes)
        image = Image.open(_Counted(photo_bytes), formats=(name,))
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has too many pixels, the limit is {MAX_PIXELS:,}", 413) from error
    except Exception as error:
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
            _check_codestream(photo_bytes, found.start())


def _check_scans(photo_bytes: bytes, pixels: int) -> None:
    """PhotoError if the first picture in a JPEG of so many pixels has too many scans."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    # any bytes may follow the picture (a phone's video does), so only a count that is too high is examined
    if photo_bytes.count(SOS) > most and scans(photo_bytes, most + 1) > most:
        raise PhotoError(f"the photo has over {most} scans of {pixels:,} pixels, the limit is {most}", 413)


def scans(photo_bytes: bytes, stop: int = MAX_SCANS + 1) -> int:
    """How many scans the first picture in a JPEG has, counted up to `stop`; 1 where the first scan holds all there is."""
    count, at, channels, progressive = 0, 2, 0, False
    # in a scan, 0xff is followed by 0, by a restart marker or by a filling 0xff
    while count < stop and (found := JPEG_MARKER.search(photo_bytes, at)) and found[0] != EOI:
        at = found.end()
        if found[0] == SOS:
            count += 1
            # a sequential one is decoded as its only scan is read
            if not progressive and photo_bytes[at + 2 : at + 3] == bytes((channels,)):
                return 1
        elif found[0] in FRAMES:
            progressive, channels = found[0] in PROGRESSIVE_FRAMES, photo_bytes[at + 7] if at + 7 < len(photo_bytes) else 0
        at += int.from_bytes(photo_bytes[at : at + 2])
    return max(1, count)


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


def _check_codestream(photo_bytes: bytes, start: int) -> None:
    """PhotoError if the JPEG 2000 codestream that begins at `start` claims too much."""
    # A.5.1: behind SOC, SIZ, its length and the capabilities, the corners of image and tiles on one grid
    sizes = struct.unpack_from(">8IH", photo_bytes, start + 8)
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, channels = sizes
    if left >= right or top >= bottom or not tile_width or not tile_height:
        raise PhotoError("the photo's JPEG2000 header cannot be read: it has no pixels")
    pixels, most = (right - left) * (bottom - top), MAX_PIXELS_OF["JPEG2000"]
    if pixels > most:
        raise PhotoError(f"the photo has {pixels:,} pixels: too many for a JPEG2000, the limit is {most:,}", 413)
    tiles = math.ceil((right - tile_left) / tile_width) * math.ceil((bottom - tile_top) / tile_height)
    if tiles > MAX_JPEG2000_TILES:
        raise PhotoError(f"the photo has {tiles:,} tiles, the limit is {MAX_JPEG2000_TILES:,}", 413)
    if channels > 4:
        raise PhotoError(f"the photo has {channels} channels, the limit is 4", 413)
    blocks = pixels * channels // min(_block_pixels(photo_bytes, start))
    if blocks > MAX_JPEG2000_BLOCKS:
        raise PhotoError(f"the photo has {blocks:,} blocks, the limit is {MAX_JPEG2000_BLOCKS:,}", 413)


def _block_pixels(photo_bytes: bytes, start: int) -> Iterator[int]:
    """Pixels of a code block, for each segment (COD, COC) of the main and tile-part headers that sets them."""
    for marker, segment in _header_segments(photo_bytes, start):
        if marker == COD:  # A.6.1: style, four bytes on the progression, then the parameters
            style, parameters = segment[0], segment[5:]
        elif marker == COC:  # A.6.2: channel, style, then the parameters
            style, parameters = segment[1], segment[2:]
        else:
            continue
        # table A.15: decomposition levels, exponents of a block's width and height less 2, block style, transformation,
        # and where the style says so the exponents of a precinct's sides at each level, which cut its blocks
        width, height = parameters[1] % 16 + 2, parameters[2] % 16 + 2
        for precinct in parameters[5:] if style & 1 else b"":
            width, height = min(width, max(precinct % 16 - 1, 0)), min(height, max(precinct // 16 - 1, 0))
        yield 2 ** (width + height)


def _header_segments(photo_bytes: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment of a codestream's main header and of the headers of its tile-parts, in their order."""
    tile_part, at = 0, start + 2
    while at + 4 <= len(photo_bytes):
        marker, length = struct.unpack_from(">HH", photo_bytes, at)
        if marker == EOC:
            return
        if marker == SOD and tile_part:
            tile_part, at = 0, _end_of_tile_part(photo_bytes, tile_part)
            continue
        # what OpenJPEG skips in its own way would lead it elsewhere than us
        if marker != SOT and marker not in HEADER_SEGMENTS:
            raise PhotoError("the photo's JPEG2000 header cannot be read: it has an unknown marker")
        tile_part = at if marker == SOT else tile_part
        yield marker, photo_bytes[at + 4 : at + 2 + length]
        at += 2 + length


def _end_of_tile_part(photo_bytes: bytes, tile_part: int) -> int:
    """Where the tile-part ends whose SOT is at `tile_part`. A.4.2: its length stands in it; 0 means that it is the last."""
    (size,) = struct.unpack_from(">I", photo_bytes, tile_part + 6)
    if 0 < size < SOT_BYTES + SOD_BYTES:
        raise PhotoError("the photo's JPEG2000 header cannot be read: a tile ends before it begins")
    return tile_part + size if size else len(photo_bytes)
