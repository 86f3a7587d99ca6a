"""A photo's bytes without what its file says about people and places: EXIF, XMP, IPTC, comments, texts, profiles, thumbnails.

What stays is what a decoder needs for the same pixels, copied from the file and not decoded again, and the tag that says which
side is up. Lists name what stays, not what goes: what a camera adds tomorrow goes, too, as does all that follows the picture.
A profile goes, as it may name its owner's screen: a photo in other colours than sRGB's is read without it from then on.
JPEG, PNG, WebP and GIF can be stripped so; other formats are refused, HEIF among them: its pictures stand anywhere in the file.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator

from PIL import Image

from handler.jpeg import EOI, JPEG_MARKER, SOS, TEM, segments
from handler.photo_file import open_photo
from handler.png import chunks
from handler.preprocess import ORIENTATION, UPRIGHT, _orientation

MAX_PIECES = 100_000  # each is a step in Python, while requests wait: a photo has hundreds

# JPEG (ITU-T T.81, table B.1): frames, tables, scans; the first two application segments are rewritten, see _jpeg
JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF} - {0xC8}
APP0, APP14 = b"\xff\xe0", b"\xff\xee"

# eight numbers that say what its colours are; a profile overrules them, and goes
PNG_COLOURS = {b"cHRM", b"gAMA", b"sRGB"}
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"} | PNG_COLOURS
# those in which Pillow looks for the orientation
PNG_NOTES = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}
ONE_PIXEL = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\0")  # contents of IHDR and IDAT

WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
WEBP_HAS_EXIF, WEBP_HAS_ALPHA, WEBP_IS_ANIMATED = 0x08, 0x10, 0x02  # of VP8X's first byte
ANMF_HEADER = 16  # a frame's place and time; its own chunks follow

GIF_EXTENSION, GIF_IMAGE, GIF_END = 0x21, 0x2C, 0x3B
GIF_CONTROL = 0xF9  # an extension's label: transparency and time of the next frame


def strip(photo: bytes) -> bytes:
    """A photo that open_photo() takes, with its pixels and its orientation alone. ValueError if that cannot be done."""
    start = photo[:12]
    try:
        if start.startswith(b"\xff\xd8\xff"):
            return _jpeg(photo, _orientation(open_photo(photo)))
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(photo)
        if start.startswith(b"RIFF") and start[8:] == b"WEBP":
            return _webp(photo, _orientation(open_photo(photo)))
        # a GIF has no place for the orientation but XMP
        if start.startswith(b"GIF8") and _orientation(open_photo(photo)) not in UPRIGHT:
            return _gif(photo)
    except (IndexError, struct.error, zlib.error) as error:
        raise ValueError(f"the photo's file breaks off: {error}") from error
    raise ValueError("this format cannot be stripped of what it says about people and places")


def _exif(orientation: int) -> bytes:
    """An EXIF block with that one tag (TIFF 6.0, section 2): big-endian, one directory, one SHORT."""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", ORIENTATION, 3, 1, orientation, 0, 0)


class _Pieces:
    """Counts what a file consists of. ValueError from MAX_PIECES on."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count > MAX_PIECES:
            raise ValueError(f"the photo has over {MAX_PIECES:,} pieces")


def _jpeg(photo: bytes, orientation: int) -> bytes:
    kept, piece = [photo[:2]], _Pieces()
    if orientation in UPRIGHT:
        block = b"Exif\0\0" + _exif(orientation)
        kept.append(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block)
    for marker, at in segments(photo):
        piece()
        if marker == EOI:
            kept.append(marker)
        if marker in (EOI, TEM):  # they have no length
            continue
        (length,) = struct.unpack_from(">H", photo, at)
        content, end = photo[at + 2 : at + length], at + length
        if marker == APP0:  # JFIF: version and density, but no thumbnail
            content = content[:10] + b"\0\0" if content.startswith(b"JFIF\0") and len(content) >= 12 else b""
        elif marker == APP14:  # Adobe: whether the channels are YCCK or inverted
            content = content[:12] if content.startswith(b"Adobe") and len(content) >= 12 else b""
        elif marker[1] not in JPEG_KEPT:
            continue
        if content:
            kept.append(marker + struct.pack(">H", len(content) + 2) + content)
        if marker == SOS:
            following = JPEG_MARKER.search(photo, end)
            kept.append(photo[end : following.start() if following else len(photo)])
    return b"".join(kept)


def _png_chunks(photo: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) up to IEND, or to where the file breaks off."""
    piece = _Pieces()
    for kind, start, end in chunks(photo):
        piece()
        yield kind, photo[start:end]


def _png_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks
    )


def _png(photo: bytes) -> bytes:
    notes = [(kind, content) for kind, content in _png_chunks(photo) if kind in PNG_NOTES]
    # Pillow looks for the orientation behind the pixels, too, and decodes them on the way: here it finds a single one
    small = _png_of([(b"IHDR", ONE_PIXEL[0]), *notes, (b"IDAT", ONE_PIXEL[1]), (b"IEND", b"")])
    orientation = _orientation(Image.open(io.BytesIO(small), formats=("PNG",))) if notes else 1

    has_profile = bool(open_photo(photo).info.get("icc_profile"))

    def kept() -> Iterator[tuple[bytes, bytes]]:
        for kind, content in _png_chunks(photo):
            if kind in PNG_KEPT and not (has_profile and kind in PNG_COLOURS):
                yield kind, content
            if kind == b"IHDR" and orientation in UPRIGHT:
                yield b"eXIf", _exif(orientation)

    return _png_of(kept())


def _webp_chunks(photo: bytes, at: int, end: int, piece: _Pieces) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= end:
        piece()
        kind, length = struct.unpack_from("<4sI", photo, at)
        yield kind, photo[at + 8 : min(end, at + 8 + length)]
        at += 8 + length + length % 2


def _webp_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for kind, content in chunks)


def _webp(photo: bytes, orientation: int) -> bytes:
    (size,) = struct.unpack_from("<I", photo, 4)
    turned, piece = orientation in UPRIGHT, _Pieces()

    def kept(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        for kind, content in _webp_chunks(data, at, end, piece):
            if kind == b"VP8X":
                flags = content[0] & (WEBP_HAS_ALPHA | WEBP_IS_ANIMATED) | (WEBP_HAS_EXIF if turned else 0)
                yield kind, bytes([flags]) + content[1:10]
            elif kind == b"ANMF":
                yield kind, content[:ANMF_HEADER] + _webp_of(kept(content, ANMF_HEADER, len(content)))
            elif kind in WEBP_KEPT:
                yield kind, content

    body = b"WEBP" + _webp_of(kept(photo, 12, min(len(photo), 8 + size)))
    if turned:
        body += _webp_of([(b"EXIF", _exif(orientation))])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(photo: bytes) -> bytes:
    piece = _Pieces()

    def table(flags: int) -> int:
        # bytes of the colour table that follows
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    def end_of_blocks(at: int) -> int:
        while photo[at]:
            piece()
            at += 1 + photo[at]
        return at + 1

    at = 13 + table(photo[10])
    kept = [photo[:at]]
    while at < len(photo) and photo[at] != GIF_END:
        piece()
        start = at
        if photo[at] == GIF_EXTENSION:
            at = end_of_blocks(at + 2)
            if photo[start + 1] == GIF_CONTROL:
                kept.append(photo[start:at])
        elif photo[at] == GIF_IMAGE:
            at += 10 + table(photo[at + 9])
            at = end_of_blocks(at + 1)  # behind the code size
            kept.append(photo[start:at])
        else:
            raise ValueError("the photo's file has bytes between its blocks")
    return b"".join([*kept, bytes([GIF_END])])
