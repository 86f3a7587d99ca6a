"""What a JPEG's markers tell: its frame, how many scans it has, whether it is of a kind that is read; and one without its end."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from handler.errors import HiddenError

# JPEG's markers: ITU-T T.81, table B.1
SOS, EOI, TEM = b"\xff\xda", b"\xff\xd9", b"\xff\x01"  # start of scan, end of image, the other one without a length
# start of frame: sequential and progressive, by Huffman's and by arithmetic coding
PROGRESSIVE_FRAMES = (b"\xff\xc2", b"\xff\xca")
FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc9", *PROGRESSIVE_FRAMES)
# those of kinds that are not read; T.87 for the last
UNREAD_FRAMES = {
    **dict.fromkeys((b"\xff\xc3", b"\xff\xcb"), "a lossless JPEG"),
    **dict.fromkeys((b"\xff\xc5", b"\xff\xc6", b"\xff\xc7", b"\xff\xcd", b"\xff\xce", b"\xff\xcf"), "a hierarchical JPEG"),
    b"\xff\xf7": "a JPEG-LS",
}
READ_BITS, READ_CHANNELS = 8, (1, 3, 4)
# no 0xff: as data for a decoder that lacks some. Not of one value, which might code what zeros do
FILLING = bytes(range(1, 201))
# in a scan, 0xff is followed by 0, by a restart marker or by a filling 0xff
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]")


# up to the first scan: photos have a hundred at most, with filling bytes between them at most
MAX_HEADER_SEGMENTS, MAX_FILLING = 2048, 64


class Frame(NamedTuple):
    """What a JPEG's frame header states: B.2.2. `scan`: where the first scan begins, `scan_channels`: how many it holds."""

    marker: bytes
    width: int
    height: int
    sampling: list[tuple[int, int]]  # of each channel, across and down
    scan: int
    scan_channels: int

    @property
    def has_one_scan(self) -> bool:
        """Whether the first scan holds all there is: a sequential one is decoded as this is read."""
        return self.marker not in PROGRESSIVE_FRAMES and self.scan_channels == len(self.sampling)


def samples(sampling: list[tuple[int, int]]) -> float:
    """Samples that a JPEG holds for each of its pixels, of its channels' sampling across and down: 3, or 1.5 for most."""
    most = max((across for across, _ in sampling), default=1) * max((down for _, down in sampling), default=1)
    return sum(across * down for across, down in sampling) / max(1, most)  # 0 where the file is broken


def segments(photo_bytes: bytes, filling: int | None = None) -> Iterator[tuple[bytes, int]]:
    """(marker, where its segment begins) in a JPEG's first picture, its end marker last. HiddenError for more `filling` bytes."""
    at, marker = 2, b""
    while marker != EOI:
        end = len(photo_bytes) if filling is None else at + filling + 2
        found = JPEG_MARKER.search(photo_bytes, at, end)
        if not found:
            if end < len(photo_bytes):
                raise HiddenError(f"over {filling} bytes stand between two segments")
            return
        marker, at = found[0], found.end()
        yield marker, at
        if marker != TEM:
            at += int.from_bytes(photo_bytes[at : at + 2])


def frame(photo_bytes: bytes) -> Frame | None:
    """The frame of a JPEG's first picture; None where there is none. struct.error if it is cut off, HiddenError."""
    found, scan = None, len(photo_bytes)
    for number, (marker, at) in enumerate(segments(photo_bytes, MAX_FILLING)):
        if number == MAX_HEADER_SEGMENTS:
            raise HiddenError(f"over {MAX_HEADER_SEGMENTS:,} segments stand before the first scan")
        if marker in FRAMES or marker in UNREAD_FRAMES:
            found = marker, at  # the last one counts, as for Pillow
        elif marker == SOS:
            scan = at - len(SOS)
            break
    if found is None:
        return None
    marker, at = found
    height, width, channels = struct.unpack_from(">HHB", photo_bytes, at + 3)
    sampling = [divmod(factors, 16) for factors in photo_bytes[at + 9 : at + 8 + 3 * channels : 3]]
    return Frame(marker, width, height, sampling, scan, int.from_bytes(photo_bytes[scan + 4 : scan + 5]))


def scans(photo_bytes: bytes, stop: int) -> int:
    """How many scans the first picture in a JPEG has, counted up to `stop`; 1 where the first scan holds all there is."""
    count, channels, progressive = 0, 0, False
    for marker, at in segments(photo_bytes):
        if marker == SOS:
            count += 1
            # a sequential one is decoded as its only scan is read
            if not progressive and photo_bytes[at + 2 : at + 3] == bytes((channels,)):
                return 1
            if count >= stop:
                break
        elif marker in FRAMES:
            progressive, channels = marker in PROGRESSIVE_FRAMES, photo_bytes[at + 7] if at + 7 < len(photo_bytes) else 0
    return max(1, count)


def unread_frame(photo_bytes: bytes) -> str | None:
    """The kind of a JPEG's first picture, where it is one that is not read. IndexError if it is cut off."""
    for marker, at in segments(photo_bytes):
        if marker == SOS:
            return None
        if marker in UNREAD_FRAMES:
            return UNREAD_FRAMES[marker]
        if marker in FRAMES:
            bits, channels = photo_bytes[at + 2], photo_bytes[at + 7]
            if bits != READ_BITS:
                return f"a JPEG of {bits} bits a channel"
            return None if channels in READ_CHANNELS else f"a JPEG of {channels} channels"
    return None


def has_all_scans(photo_bytes: bytes) -> bool:
    """Whether the scans of a JPEG's first picture bring all that its frame states: one that breaks off between scans looks whole.

    ValueError or IndexError if a header is cut off.
    """
    left: dict[int, set[int]] = {}  # coefficients that no scan has brought to their last bit, by channel
    progressive = False
    for marker, at in segments(photo_bytes):
        if marker in FRAMES:
            progressive = marker in PROGRESSIVE_FRAMES
            left = {channel: set(range(64)) for channel in photo_bytes[at + 8 : at + 8 + 3 * photo_bytes[at + 7] : 3]}
        elif marker == SOS:
            end = at + 3 + 2 * photo_bytes[at + 2]
            first, last, bits = photo_bytes[end : end + 3]
            if progressive and bits & 15:  # finer ones follow
                continue
            for channel in photo_bytes[at + 3 : end : 2]:
                left.get(channel, set()).difference_update(range(first, last + 1) if progressive else range(64))
    return not any(left.values())


def with_ends(photo_bytes: bytes) -> tuple[bytes, bytes]:
    """A JPEG that stops too early, with two ends: both show the same picture if it lacks nothing but its end marker.

    If coded pixels are missing, a decoder takes the filling of the second for them.
    """
    whole = photo_bytes.rstrip(b"\xff")  # half of the end marker
    # behind the marker that a decoder waits for, too, or it would leave out the intervals that are missing
    restarts = b"".join(bytes((0xFF, 0xD0 + number)) + FILLING for number in range(8))
    return whole + EOI, whole + FILLING + restarts + EOI
