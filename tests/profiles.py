"""ICC profiles of a press, and of whoever wants to keep a decoder busy: ICC.1:2022."""

import struct

import numpy as np

from handler.icc import PRIMARIES, profile, put_together

UNIT = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))


def press_profile(grid: int = 5) -> bytes:
    """Of four inks that are all grey: a table of lightness alone (lut8Type)."""
    inks = np.stack(np.meshgrid(*[np.linspace(0, 1, grid)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    lightness = (1 - inks[:, 3]) * (1 - inks[:, :3].mean(axis=1))
    table = np.stack([np.rint(255 * lightness), *[np.full(len(inks), 128)] * 2], axis=-1).astype(np.uint8).tobytes()
    straight = bytes(range(256))
    content = b"mft1\0\0\0\0" + bytes((4, 3, grid, 0)) + UNIT + straight * 4 + table + straight * 3
    return put_together({b"A2B0": content}, b"CMYK", b"Lab ", 0x02400000)


def busy_profile(elements: int, number: int = 0) -> bytes:
    """Display P3 with a way to its colours of so many matrices, all at one place; each `number` makes another profile."""
    matrix = b"matf\0\0\0\0" + struct.pack(">HH12f", 3, 3, 0.9, 0.05, 0.05, 0.05, 0.9, 0.05, 0.05, 0.05, 0.9, 0, 0, number / 1e6)
    start = 16 + 8 * elements
    content = b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, elements) + struct.pack(">II", start, len(matrix)) * elements + matrix
    plain = profile(PRIMARIES[12])
    (count,) = struct.unpack_from(">I", plain, 128)
    places = [struct.unpack_from(">4sII", plain, 132 + 12 * i) for i in range(count)]
    tags = {name: plain[at : at + size] for name, at, size in places}
    return put_together(tags | {b"D2B0": content, b"D2B1": content}, b"RGB ")
