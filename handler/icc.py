"""ICC profiles of RGB colours that are stated by numbers, not by a profile: ICC.1:2022, matrix and curves."""

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
# sRGB's curve, IEC 61966-2-1, as a parametric one of type 3
SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045


def profile(primaries: Primaries, gamma: float | None = None) -> bytes:
    """The profile of these primaries with sRGB's curve, or with a gamma. ValueError if the primaries span no colours."""
    tags = [
        (name, b"XYZ \0\0\0\0" + _fixed(column))
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _columns(primaries), strict=True)
    ]
    kind, values = (0, (gamma,)) if gamma else (3, SRGB_CURVE)
    curve = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(values)
    tags += [(b"wtpt", b"XYZ \0\0\0\0" + _fixed(D50)), *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC"))]
    directory, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags:
        directory += struct.pack(">4sII", name, start + len(content), len(data))
        content += data
    size = start + len(content)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(68, b"\0") + _fixed(D50)
    return header.ljust(128, b"\0") + directory + content


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
