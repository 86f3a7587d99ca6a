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
    """An entry of a directory: `kind` is the type of its `size` values. These stand at `at`, or their place does."""

    number: int
    kind: int
    size: int
    at: int


class Directory:
    """The tags in their order. struct.error from each call where the file is cut off."""

    def __init__(self, photo_bytes: bytes, at: int | None = None) -> None:
        """The first one, or that which stands at a place. PhotoError for more than MAX_TIFF_TAGS of them, before one is read."""
        self._bytes, self._order = photo_bytes, "<" if photo_bytes[:1] == b"I" else ">"
        big = photo_bytes[2:3] == bytes((BIG_TIFF,))  # little-endian: others are not read
        self._place = struct.Struct(self._order + ("Q" if big else "I"))
        self._entry = struct.Struct(self._order + ("HHQ" if big else "HHI"))
        number = struct.Struct(self._order + ("Q" if big else "H"))
        if at is None:
            (at,) = self._place.unpack_from(photo_bytes, 8 if big else 4)
        (self._tags,) = _unpacked(number, photo_bytes, at)
        if self._tags > MAX_TIFF_TAGS:
            raise PhotoError(f"the photo has {self._tags:,} TIFF tags, the limit is {MAX_TIFF_TAGS:,}", 413)
        self._first = at + number.size

    def __iter__(self) -> Iterator[Tag]:
        return (self._tag(i, entry) for i, entry in enumerate(self._entries()))

    def find(self, *numbers: int) -> dict[int, list[int]]:
        """By its number, the values of each of these tags that is there and has whole numbers."""
        # of several with one number the last counts, as for Pillow
        tags = {entry[0]: (i, entry) for i, entry in enumerate(self._entries()) if entry[0] in numbers}
        return {number: values for number, found in tags.items() if (values := self.values(self._tag(*found)))}

    def has(self, number: int) -> bool:
        """Whether there is such a tag, whatever its values are."""
        return any(entry[0] == number for entry in self._entries())

    def following(self) -> list[int]:
        """Where the next directory stands; nothing after the last."""
        place = _unpacked(self._place, self._bytes, self._first + self._tags * (self._entry.size + self._place.size))
        return [at for at in place if at]

    def _entries(self) -> Iterator[tuple[int, int, int]]:
        step = self._entry.size + self._place.size
        entries = memoryview(self._bytes)[self._first : self._first + self._tags * step]
        if len(entries) < self._tags * step:
            raise struct.error("the TIFF's directory breaks off")
        return struct.iter_unpack(f"{self._entry.format}{self._place.size}x", entries)

    def _tag(self, i: int, entry: tuple[int, int, int]) -> Tag:
        return Tag(*entry, self._first + i * (self._entry.size + self._place.size) + self._entry.size)

    def values(self, tag: Tag) -> list[int]:
        """A tag's values; none where they are no whole numbers, or more than MOST_VALUES."""
        if tag.kind not in VALUE_FORMATS or tag.size > MOST_VALUES:
            return []
        values = struct.Struct(f"{self._order}{tag.size}{VALUE_FORMATS[tag.kind]}")
        at = tag.at if values.size <= self._place.size else self._place.unpack_from(self._bytes, tag.at)[0]
        return list(_unpacked(values, self._bytes, at))


def _unpacked(values: struct.Struct, photo_bytes: bytes, at: int) -> tuple[int, ...]:
    # a place of 64 bits may be too large for struct, which raises OverflowError or IndexError then
    if at > len(photo_bytes):
        raise struct.error("the TIFF's directory leads behind the file's end")
    return values.unpack_from(photo_bytes, at)
