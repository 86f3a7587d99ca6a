"""What a JPEG 2000 claims before a pixel is read: OpenJPEG allocates for its claims."""

import math
import struct
from collections.abc import Iterator

from handler.errors import PhotoError

# OpenJPEG takes 9 kB for each tile and 500 bytes for each block before it has read one: a file of 138 bytes took 6 GB and 37 s
MAX_JPEG2000_TILES = 4096
MAX_JPEG2000_BLOCKS = 500_000

# JPEG 2000's markers: ISO/IEC 15444-1, table A.2
SOC, SIZ = 0xFF4F, 0xFF51  # start of codestream; sizes of image and tiles, which follow it at once
COD, COC = 0xFF52, 0xFF53  # coding style of all channels, of one
SOT, SOD, EOC = 0xFF90, 0xFF93, 0xFFD9  # start of a tile-part, of its data; end of codestream
HEADER_SEGMENTS = range(0xFF50, 0xFF65)  # CAP to COM: all segments with a length that a header may hold
SOT_BYTES, SOD_BYTES = 12, 2  # both markers with what belongs to them


def check_codestream(photo_bytes: bytes, start: int, most: int) -> None:
    """PhotoError if the codestream that begins at `start` claims too much, such as over `most` pixels."""
    # A.5.1: behind SOC, SIZ, its length and the capabilities, the corners of image and tiles on one grid
    sizes = struct.unpack_from(">8IH", photo_bytes, start + 8)
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, channels = sizes
    if left >= right or top >= bottom or not tile_width or not tile_height:
        raise PhotoError("the photo's JPEG2000 header cannot be read: it has no pixels")
    pixels = (right - left) * (bottom - top)
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
