"""The boxes of JPEG 2000, AVIF and HEIF files: ISO/IEC 14496-12, section 4.2."""

import struct
from collections.abc import Iterator

from handler.errors import HiddenError

# boxes that are looked at
MAX_BOXES = 4096


def boxes(photo_bytes: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content begins, where it ends) of each box from `start` to `end`. HiddenError for too many."""
    last = len(photo_bytes) if end is None else min(end, len(photo_bytes))
    at, steps = start, 0
    while at + 8 <= last:
        if steps == MAX_BOXES:
            raise HiddenError(f"over {MAX_BOXES:,} boxes")
        length, kind = struct.unpack_from(">I4s", photo_bytes, at)
        inside = at + 8
        if length == 1:  # it follows in eight bytes
            if inside + 8 > last:
                return
            (length,) = struct.unpack_from(">Q", photo_bytes, inside)
            inside += 8
        after = at + length if length else last
        if after < inside:
            return
        yield kind, inside, after
        at, steps = after, steps + 1
