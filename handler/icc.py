"""ICC profiles, ICC.1:2022: those of colours that numbers state, and of a stranger's the few tags that are used.

A stranger's profile is never handed to the colour library whole. A list of elements (`mpet`) may name one matrix a thousand times
in a few hundred bytes, and each is multiplied for each of 36,000 colours.
"""

import struct

import numpy as np

# CIE 1931 x, y of red, green, blue and white
Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
D65 = (0.3127, 0.3290)
SRGB: Primaries = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65)
# by ITU-T H.273's number: BT.2020 and Display P3. BT.709, which is 1, is sRGB's
PRIMARIES: dict[int, Primaries] = {
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
# a profile's own white, and Bradford's way to it from another one: ICC.1:2022, annex E
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
HEADER_BYTES, VERSION = 128, 0x04200000
# lcms2 takes no more
MAX_TAGS = 100
# of devices: others turn one profile's colours into another's
CLASSES = b"scnr", b"mntr", b"prtr", b"spac"
# table 19, with Pillow's modes that have such channels
CHANNELS = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
MATRIX = b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"
GREY = (b"kTRC",)
# the one for relative colours is taken where there are both
TABLES = b"A2B1", b"A2B0"
# the types of each tag that is used, and its bytes at most: curves have up to 4096 entries, a press's table half a megabyte
USED = {
    **dict.fromkeys((b"wtpt", *MATRIX[:3]), ((b"XYZ ",), 20)),
    b"chad": ((b"sf32",), 44),
    **dict.fromkeys((*MATRIX[3:], *GREY), ((b"curv", b"para"), 16 * 1024)),
    **dict.fromkeys(TABLES, ((b"mft1", b"mft2", b"mAB "), 1024 * 1024)),
}
# sRGB's curve, IEC 61966-2-1, as a parametric one of type 3
SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045


def profile(primaries: Primaries, gamma: float | None = None) -> bytes:
    """The profile of these primaries with sRGB's curve, or with a gamma. ValueError if the primaries span no colours."""
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), _columns(primaries), strict=True)
    tags = {name: b"XYZ \0\0\0\0" + _fixed(column) for name, column in columns}
    return put_together(tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)), b"RGB ")


def grey_profile(gamma: float) -> bytes:
    """The profile of a single channel with a gamma."""
    return put_together({b"kTRC": _curve(gamma)}, b"GRAY")


def used_part(found: bytes) -> bytes | None:
    """A profile of what is used of a stranger's: matrix and curves, or one table of colours. None if it lacks these, or is broken.

    What lcms does with these is bounded: a matrix, at most three curves a channel, a table.
    """
    try:
        size, version, kind, space, pcs = struct.unpack_from(">I4xI4s4s4s", found)
        if found[36:40] != b"acsp" or kind not in CLASSES or space not in CHANNELS or pcs not in (b"XYZ ", b"Lab "):
            return None
        kept = _kept_tags(found[:size])
    except struct.error:
        return None
    for name in TABLES[1:] if TABLES[0] in kept else ():
        del kept[name]
    needed = {b"RGB ": MATRIX, b"GRAY": GREY, b"CMYK": TABLES}[space]
    if kept.keys().isdisjoint(TABLES) and not kept.keys() >= set(needed):
        return None
    return put_together(kept, space, pcs, version)


def _kept_tags(found: bytes) -> dict[bytes, bytes]:
    """The tags that are used, of types and sizes that take little time. struct.error for a file that is broken."""
    (count,) = struct.unpack_from(">I", found, HEADER_BYTES)
    if count > MAX_TAGS:
        raise struct.error(f"{count} tags")
    kept: dict[bytes, bytes] = {}
    for name, start, size in struct.iter_unpack(">4sII", found[HEADER_BYTES + 4 : HEADER_BYTES + 4 + 12 * count]):
        kinds, most = USED.get(name, ((), 0))
        data = found[start : start + size]
        if data[:4] in kinds and len(data) == size <= most:
            kept.setdefault(name, data)
    return kept


def _curve(gamma: float | None) -> bytes:
    kind, values = (0, (gamma,)) if gamma else (3, SRGB_CURVE)
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(values)


def put_together(tags: dict[bytes, bytes], space: bytes, pcs: bytes = b"XYZ ", version: int = VERSION) -> bytes:
    """A profile of an input device: what is asked of it is the way from its colours, not to them."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50)} | tags
    directory, content = struct.pack(">I", len(tags)), b""
    start = HEADER_BYTES + 4 + 12 * len(tags)
    for name, data in tags.items():
        directory += struct.pack(">4sII", name, start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = start + len(content)
    header = struct.pack(">I4xI4s4s4s12x4s", size, version, b"scnr", space, pcs, b"acsp").ljust(68, b"\0") + _fixed(D50)
    return header.ljust(HEADER_BYTES, b"\0") + directory + content


def _columns(primaries: Primaries) -> np.ndarray:
    """XYZ of red, green and blue, in rows, as they are under D50."""
    if min(y for _, y in primaries) <= 0:
        raise ValueError(f"primaries are {primaries}, expected y over 0")
    *colours, white = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries])
    try:
        amounts = np.linalg.solve(np.array(colours).T, white)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"primaries are {primaries}, expected three that span colours") from error
    cones = (BRADFORD @ D50) / (BRADFORD @ white)
    adapt = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD
    return np.asarray((np.array(colours) * amounts[:, None]) @ adapt.T)


def _fixed(values: "np.ndarray | tuple[float, ...]") -> bytes:
    """Numbers of 15 and 16 bits: s15Fixed16Number."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
