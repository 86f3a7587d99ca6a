"""The first directory of a TIFF or BigTIFF, from the file's bytes: TIFF 6.0, section 2."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from handler.errors import PhotoError
from handler.limits import MAX_TIFF_TAGS

BIG_TIFF = 43  # where TIFF has 42
# types of whole numbers: BYTE, SHORT, LONG, SBYTE, SSHORT, SLONG, IFD, and BigTIFF's LONG8, SLONG8, IFD8
VALUE_FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
MOST_VALUES = 16  # of the tags that are looked at; lists of strips have more


class Tag(NamedTuple):
    """An entry of a directory: `kind` is the type of its `count` values. These stand at `at`, or their place does."""

    number: int
    kind: int
    count: int
    at: int


class Directory:
    """The tags in their order. struct.error from each call where the file is cut off."""

    def __init__(self, photo_bytes: bytes) -> None:
        """PhotoError for more than MAX_TIFF_TAGS of them, before one is read."""
        self._bytes, self._order = photo_bytes, "<" if photo_bytes[:1] == b"I" else ">"
        big = photo_bytes[2:3] == bytes((BIG_TIFF,))  # little-endian: others are not read
        self._place = struct.Struct(self._order + ("Q" if big else "I"))
        self._entry = struct.Struct(self._order + ("HHQ" if big else "HHI"))
        number = struct.Struct(self._order + ("Q" if big else "H"))
        (at,) = self._place.unpack_from(photo_bytes, 8 if big else 4)
        (self._tags,) = _unpacked(number, photo_bytes, at)
        if self._tags > MAX_TIFF_TAGS:
            raise PhotoError(f"the photo has {self._tags:,} TIFF tags, the limit is {MAX_TIFF_TAGS:,}", 413)
        self._first = at + number.size

    def __iter__(self) -> Iterator[Tag]:
        at = self._first
        for _ in range(self._tags):
            yield Tag(*_unpacked(self._entry, self._bytes, at), at + self._entry.size)
            at += self._entry.size + self._place.size

    def values(self, tag: Tag) -> list[int]:
        """A tag's values; none where they are no whole numbers, or more than MOST_VALUES."""
        if tag.kind not in VALUE_FORMATS or tag.count > MOST_VALUES:
            return []
        values = struct.Struct(f"{self._order}{tag.count}{VALUE_FORMATS[tag.kind]}")
        at = tag.at if values.size <= self._place.size else self._place.unpack_from(self._bytes, tag.at)[0]
        return list(_unpacked(values, self._bytes, at))


def _unpacked(values: struct.Struct, photo_bytes: bytes, at: int) -> tuple[int, ...]:
    # a place of 64 bits may be too large for struct, which raises OverflowError or IndexError then
    if at > len(photo_bytes):
        raise struct.error("the TIFF's directory leads behind the file's end")
    return values.unpack_from(photo_bytes, at)
