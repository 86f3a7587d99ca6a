"""What the boxes of a HEIF or AVIF file say of its pictures, before a codec sees one: ISO/IEC 23008-12 and 14496-12, section 8.11.

A file holds items: pictures, tiles of which a picture is put together, thumbnails, depth maps, EXIF. One of them is the primary
one, which is shown. Properties (size, turn, colours) are shared between items.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator

from handler.boxes import boxes
from handler.errors import HiddenError, PhotoError
from handler.limits import MAX_HEIF_ITEMS

# entries of all lists together that are looked at: a phone's photo of 48 megapixels has some 1,500
MAX_ENTRIES = 16_384
# a picture of tiles that are turned, at most: deeper is a circle
MAX_DEPTH = 4
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"
NOTES = (b"Exif", b"mime")
DERIVED = (b"grid", b"iovl", b"iden")
CODECS = {
    b"av01": "AV1",
    b"avc1": "H.264",
    b"jpeg": "JPEG",
    b"hev1": "HEVC whose parameters are in its stream",
    b"j2k1": "JPEG 2000",
    b"lhv1": "layered HEVC",
    b"mski": "masks",
    b"tmap": "tone maps",
    b"unci": "uncompressed pixels",
    b"vvc1": "H.266",
}
# kinds of colr: an ICC profile. Of nclx, primaries that are taken for sRGB's: BT.709's, and none
PROFILES, USUAL_PRIMARIES = (b"prof", b"rICC"), (1, 2)
CHROMA = {0: "4:0:0", 1: "4:2:0", 2: "4:2:2", 3: "4:4:4"}
# of hvcC, behind its beginning: ISO/IEC 14496-15, 8.3.3.1
HVCC_CHROMA, HVCC_BITS = 16, 17


class Pictures:
    """The items of a file, by number. struct.error where the file is cut off; PhotoError, and HiddenError for too many entries."""

    def __init__(self, photo_bytes: bytes) -> None:
        self._bytes, self._entries = photo_bytes, 0
        self.primary, self.is_sequence = 0, False
        self.kinds: dict[int, bytes] = {}
        self.encrypted: set[int] = set()
        self._cut_off: set[int] = set()
        self._lengths: dict[int, int] = {}  # of what is coded, in bytes
        self._properties: list[tuple[bytes, int, int]] = []
        self._of_item: dict[int, list[int]] = defaultdict(list)
        self._parts: dict[int, list[int]] = defaultdict(list)
        self._auxiliary: dict[int, list[int]] = defaultdict(list)
        self._described_by: dict[int, int] = defaultdict(int)  # how many pictures an item of notes is about
        ways = {b"pitm": self._pitm, b"iinf": self._iinf, b"iref": self._iref, b"iprp": self._iprp, b"iloc": self._iloc}
        described = False
        for kind, start, end in boxes(photo_bytes):
            if kind == b"meta":
                if described:  # readers differ in which of them counts
                    raise PhotoError("the photo's pictures are described twice: its file is broken")
                described = True
                for inner, first, last in boxes(photo_bytes, start + 4, end):
                    if inner in ways:
                        ways[inner](first, min(last, end))
            self.is_sequence |= kind == b"moov"

    def _count(self, entries: int = 1) -> None:
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise HiddenError(f"the photo's pictures are described in over {MAX_ENTRIES:,} entries")

    def _number(self, at: int, size: int) -> int:
        """A number of 0, 2, 4 or 8 bytes."""
        if at + size > len(self._bytes):
            raise struct.error("the file breaks off")
        return int.from_bytes(self._bytes[at : at + size])

    def _pitm(self, start: int, end: int) -> None:
        self.primary = self._number(start + 4, 4 if self._bytes[start] else 2)

    def _iinf(self, start: int, end: int) -> None:
        first = start + (8 if self._bytes[start] else 6)
        for kind, at, _ in boxes(self._bytes, first, end):
            if kind != b"infe" or self._bytes[at] < 2:
                continue
            size = 4 if self._bytes[at] > 2 else 2
            item = self._number(at + 4, size)
            self.kinds[item] = self._bytes[at + 6 + size : at + 10 + size]
            if self._number(at + 4 + size, 2):
                self.encrypted.add(item)
            if len(self.kinds) > MAX_HEIF_ITEMS:
                raise PhotoError(f"the photo has over {MAX_HEIF_ITEMS:,} items, the limit is {MAX_HEIF_ITEMS:,}", 413)

    def _iref(self, start: int, end: int) -> None:
        size = 4 if self._bytes[start] else 2
        for kind, at, _ in boxes(self._bytes, start + 4, end):
            source, count = self._number(at, size), self._number(at + size, 2)
            if kind == b"cdsc":
                self._described_by[source] += count
            if kind not in (b"dimg", b"auxl"):
                continue
            self._count(count)
            targets = struct.unpack_from(f">{count}{'I' if size == 4 else 'H'}", self._bytes, at + size + 2)
            if kind == b"dimg":
                self._parts[source] += targets
            else:
                for target in targets:
                    self._auxiliary[target].append(source)

    def _iprp(self, start: int, end: int) -> None:
        for kind, first, last in boxes(self._bytes, start, end):
            if kind == b"ipco":
                self._properties += boxes(self._bytes, first, min(last, end))
            elif kind == b"ipma":
                self._ipma(first)

    def _ipma(self, start: int) -> None:
        id_size, index_size = 4 if self._bytes[start] else 2, 2 if self._bytes[start + 3] & 1 else 1
        at = start + 8
        for _ in range(self._number(start + 4, 4)):
            item, count = self._number(at, id_size), self._number(at + id_size, 1)
            self._count(1 + count)
            at += id_size + 1
            # the first bit marks those without which the item is not to be shown
            indices = struct.unpack_from(f">{count}{'H' if index_size == 2 else 'B'}", self._bytes, at)
            self._of_item[item] += [index & (0x7FFF if index_size == 2 else 0x7F) for index in indices]
            at += count * index_size

    def _iloc(self, start: int, end: int) -> None:
        version, sizes = self._bytes[start], self._number(start + 4, 2)
        offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index = sizes & 15 if version else 0
        id_size = 4 if version > 1 else 2
        at = start + 6 + id_size
        for _ in range(self._number(start + 6, id_size)):
            item = self._number(at, id_size)
            # 0: places are counted from the file's beginning, by one of these or both
            from_start = not version or self._number(at + id_size, 2) & 15 == 0
            at += id_size + (4 if version else 2) + base
            first = self._number(at - base, base)
            extents = self._number(at, 2)
            self._count(1 + extents)
            at += 2
            for _ in range(extents):
                at += index + offset
                # 0: all that follows in the file
                stated = self._number(at, length)
                if from_start and first + self._number(at - offset, offset) + stated > len(self._bytes):
                    self._cut_off.add(item)
                stated = stated or len(self._bytes)
                self._lengths[item] = self._lengths.get(item, 0) + min(stated, len(self._bytes))
                at += length

    def properties(self, item: int) -> Iterator[tuple[bytes, int, int]]:
        """(type, beginning, end) of an item's properties, in the order in which they are applied."""
        return (self._properties[index - 1] for index in self._of_item[item] if 0 < index <= len(self._properties))

    def size(self, item: int) -> tuple[int, int]:
        """(width, height) that an item states, 0, 0 if it states none."""
        for kind, start, _ in self.properties(item):
            if kind == b"ispe":
                return self._number(start + 4, 4), self._number(start + 8, 4)
        return 0, 0

    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the primary picture as it is shown: cut (clap) and turned (irot)."""
        width, height = self.size(self.primary)
        for kind, start, _ in self.properties(self.primary):
            if kind == b"clap":
                across, by, down, by_down = struct.unpack_from(">4I", self._bytes, start)
                # as libheif: rounded, and no larger than the picture
                width, height = min(width, round(across / by)), min(height, round(down / by_down))
            elif kind == b"irot" and self._bytes[start] & 1:
                width, height = height, width
        return width, height

    def alphas(self, item: int) -> list[int]:
        """The items that say how transparent this one is."""
        return [other for other in self._auxiliary[item] if self._is_alpha(other)]

    def _is_alpha(self, item: int) -> bool:
        return any(kind == b"auxC" and self._bytes.startswith(ALPHA, start + 4, end) for kind, start, end in self.properties(item))

    def decoded(self) -> list[int]:
        """The items that are decoded to show the primary one, each as often as it is. PhotoError if they refer to each other."""
        found: list[int] = []
        left, looked_at = [(self.primary, 0)], 0
        while left:
            item, depth = left.pop()
            looked_at += 1
            if looked_at > MAX_ENTRIES:
                raise HiddenError(f"the photo is put together of over {MAX_ENTRIES:,} pictures")
            if depth > MAX_DEPTH:
                raise PhotoError("the photo's pictures refer to each other in a circle, or too deeply")
            parts = self._parts[item] if self.kinds.get(item) in DERIVED else []
            left += [(other, depth + 1) for other in (*parts, *self.alphas(item))]
            if not parts:
                found.append(item)
        return found

    def pixels(self) -> int:
        """How many pixels are decoded, tiles and transparency included."""
        width, height = self.size(self.primary)
        areas = [across * down for across, down in map(self.size, self.decoded())]
        return max(width * height, sum(areas))

    def coded_bytes(self) -> int:
        """How many bytes are decoded."""
        return sum(self._lengths.get(item, 0) for item in self.decoded())

    def copied_bytes(self) -> int:
        """Bytes of EXIF, XMP and colour profiles that a reader copies: once for each picture that they belong to."""
        notes = sum(self._lengths.get(item, 0) * max(1, count) for item, count in self._notes())
        profiles = [self._places_of_colours(item) for item in self.kinds]
        return notes + sum(end - start for places in profiles for start, end in places)

    def _notes(self) -> Iterator[tuple[int, int]]:
        return (
            (item, self._described_by[item]) for item, kind in self.kinds.items() if kind in NOTES or item in self._described_by
        )

    def _places_of_colours(self, item: int) -> list[tuple[int, int]]:
        return [(start, end) for kind, start, end in self.properties(item) if kind == b"colr"]

    def is_cut_off(self) -> bool:
        """Whether the file ends before what is decoded does: libheif would leave tiles empty."""
        return not self._cut_off.isdisjoint(self.decoded())

    def has_alpha(self) -> bool:
        """Whether parts of the primary picture are transparent."""
        return bool(self.alphas(self.primary))

    def coding(self) -> tuple[int, str]:
        """(bits of a channel, "4:2:0" or another subsampling) of what is decoded first; 8 bits in 4:2:0 if it does not say."""
        for kind, start, _ in self.properties(self.decoded()[-1]):
            if kind == b"hvcC":
                return 8 + (self._bytes[start + HVCC_BITS] & 7), CHROMA[self._bytes[start + HVCC_CHROMA] & 3]
        return 8, CHROMA[1]

    def nclx(self) -> tuple[int, int] | None:
        """(colour primaries, transfer characteristics) of what is shown, ITU-T H.273; None if it has none or a profile."""
        found = None
        for start, _ in self._colours():
            if self._bytes[start : start + 4] in PROFILES:
                return None
            if self._bytes[start : start + 4] == b"nclx":
                found = self._number(start + 4, 2), self._number(start + 6, 2)
        return found

    def has_colours(self) -> bool:
        """Whether it has a profile, or states other colours than a screen's usual ones."""
        stated = self.nclx()
        return stated[0] not in USUAL_PRIMARIES if stated else bool(self._colours())

    def _colours(self) -> list[tuple[int, int]]:
        """Of the primary picture, or of its first tile where that states them alone: as libheif has it."""
        return self._places_of_colours(self.primary) or self._places_of_colours(next(iter(self._parts[self.primary]), 0))

    def unread(self) -> str | None:
        """The kind of file that this is and that is not read; None: it should be read."""
        if not self.kinds and self.is_sequence:
            return "a HEIF sequence without a still picture"
        items = self.decoded()
        if any(item in self.encrypted for item in items):
            return "an encrypted HEIF"
        unread = next((kind for kind in (self.kinds.get(item, b"") for item in items) if kind and kind != b"hvc1"), None)
        if unread:
            return f"a HEIF of {CODECS.get(unread, unread.decode('latin-1'))}"
        return None
