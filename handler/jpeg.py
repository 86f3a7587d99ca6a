"""What a JPEG's markers tell: how many scans it has, whether it is of a kind that is read; and one that lacks its end marker."""

import re

# JPEG's markers: ITU-T T.81, table B.1
SOS, EOI = b"\xff\xda", b"\xff\xd9"  # start of scan, end of image
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


def scans(photo_bytes: bytes, stop: int) -> int:
    """How many scans the first picture in a JPEG has, counted up to `stop`; 1 where the first scan holds all there is."""
    count, at, channels, progressive = 0, 2, 0, False
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


def unread_frame(photo_bytes: bytes) -> str | None:
    """The kind of a JPEG's first picture, where it is one that is not read. IndexError if it is cut off."""
    at = 2
    while (found := JPEG_MARKER.search(photo_bytes, at)) and found[0] != SOS:
        at = found.end()
        if found[0] in UNREAD_FRAMES:
            return UNREAD_FRAMES[found[0]]
        if found[0] in FRAMES:
            bits, channels = photo_bytes[at + 2], photo_bytes[at + 7]
            if bits != READ_BITS:
                return f"a JPEG of {bits} bits a channel"
            return None if channels in READ_CHANNELS else f"a JPEG of {channels} channels"
        at += int.from_bytes(photo_bytes[at : at + 2])
    return None


def with_ends(photo_bytes: bytes) -> tuple[bytes, bytes]:
    """A JPEG that stops too early, with two ends: both show the same picture if it lacks nothing but its end marker.

    If coded pixels are missing, a decoder takes the filling of the second for them.
    """
    whole = photo_bytes.rstrip(b"\xff")  # half of the end marker
    return whole + EOI, whole + FILLING + EOI
