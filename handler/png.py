"""The chunks of a PNG, from the file's bytes: PNG 1.2, section 3.2."""

import struct
from collections.abc import Iterator

COLOUR_BITS, COLOUR_TYPE, INTERLACE = 8, 9, 12  # places in IHDR's content, behind width and height


def chunks(photo_bytes: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content begins, where it ends) of each chunk up to IEND, or to where the file breaks off."""
    at, kind = 8, b""
    while at + 8 <= len(photo_bytes) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", photo_bytes, at)
        yield kind, at + 8, at + 8 + length
        at += length + 12
