"""What it costs to decode a photo, in bytes of memory and seconds of CPU: estimated from its header alone, before a pixel is read.

The factors are measured by `make photo-costs`, whose table is in README.md, and rounded up. A flat photo has few bytes and many
pixels, one of noise as many bytes as a file may have: hence a factor for each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from handler.jpeg import EOI, scans
from handler.photo_file import MAX_SCANS
from handler.preprocess import STRIP_PIXELS

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """Memory in bytes, at its peak and beyond the decoder's own, and CPU in seconds, that decoding takes."""

    memory: int
    cpu_s: float

    def within(self, limit: "Cost") -> bool:
        """Whether neither is over the limit's."""
        return self.memory <= limit.memory and self.cpu_s <= limit.cpu_s


class Factors(NamedTuple):
    """Memory for each pixel and each byte of the file, beside the decoded pixels; CPU in nanoseconds for each of them."""

    pixel_memory: float
    byte_memory: float
    pixel_ns: float
    byte_ns: float


FACTORS = {
    "JPEG": Factors(0, 1, 2, 13),
    "JPEG in scans": Factors(0, 1, 0, 40),
    "PNG": Factors(0, 1, 9, 7),
    "PNG interlaced": Factors(0, 1, 16, 7),
    "GIF": Factors(0.1, 1, 5, 12),
    "BMP": Factors(0, 1, 5, 2),
    "BMP in runs": Factors(2.5, 4, 16, 60),
    "TIFF raw": Factors(0, 2, 8, 4),
    "TIFF deflate": Factors(4.5, 2, 15, 5),
    "TIFF": Factors(22, 14, 70, 45),
    "WEBP": Factors(14, 2, 30, 90),
    "JPEG2000": Factors(18, 2, 60, 165),
    "AVIF": Factors(14, 2, 22, 110),
}
# of a JPEG in scans: each pass over its coefficients, for each pixel; decoding these and their memory, for each of its samples
SCAN_NS, COEFFICIENT_NS, COEFFICIENT_MEMORY = 1.0, 2, 2
# what Pillow keeps for a pixel, and what turning it to RGB and to the crop's scale takes, by its mode; others are as RGB
MODE_MEMORY = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
MODE_NS = {"RGB": 6, "I;16": 24, "I;16B": 24, "I;16L": 24}
ALPHA_NS, OTHER_NS = 18, 8
# a JPEG without its end marker is decoded so often: preprocess.py looks whether anything else is missing
WITHOUT_END = 3
# the strip that _reduced turns to RGB at a time, or a photo that is too small to be reduced; and what any photo takes
CONVERSION_MEMORY = 28
LEAST = Cost(4 * MEGABYTE, 0.004)


def estimate(image: Image.Image, photo_bytes: bytes, factor: int) -> Cost:
    """What decoding an opened photo takes that will be reduced to 1 / factor of its size."""
    is_jpeg = image.format in ("JPEG", "MPO")
    pixels, passes = image.width * image.height, scans(photo_bytes, MAX_SCANS + 1) if is_jpeg else 1
    kind = _kind(image, passes)
    factors = FACTORS[kind]
    memory, cpu_ns = factors.pixel_memory * pixels, factors.pixel_ns * pixels
    if kind == "JPEG in scans":
        memory += COEFFICIENT_MEMORY * pixels * _samples(image)
        cpu_ns += (SCAN_NS * passes + COEFFICIENT_NS * _samples(image)) * pixels
    # a JPEG is decoded at its reduced scale
    decoded = pixels // factor**2 if kind in ("JPEG", "JPEG in scans") else pixels
    alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    memory += MODE_MEMORY.get(image.mode, 4) * decoded
    memory += CONVERSION_MEMORY * (min(STRIP_PIXELS, decoded) if factor > 1 else decoded)
    cpu_ns += (ALPHA_NS if alpha else MODE_NS.get(image.mode, OTHER_NS)) * decoded
    memory += factors.byte_memory * len(photo_bytes)
    cpu_ns += factors.byte_ns * len(photo_bytes)
    if is_jpeg and EOI not in photo_bytes:
        cpu_ns *= WITHOUT_END
    return Cost(LEAST.memory + int(memory), LEAST.cpu_s + cpu_ns / 1e9)


def _kind(image: Image.Image, passes: int) -> str:
    """The row of FACTORS that fits."""
    name = "JPEG" if image.format == "MPO" else str(image.format)
    tiles = getattr(image, "tile", None)
    codec = tiles[0][0] if tiles else ""
    if name == "JPEG" and passes > 1:
        return "JPEG in scans"
    if name == "PNG" and image.info.get("interlace"):
        return "PNG interlaced"
    if name == "BMP" and codec != "raw":
        return "BMP in runs"
    if name == "TIFF":
        compression = image.info.get("compression")
        return "TIFF raw" if codec == "raw" else "TIFF deflate" if compression in ("tiff_adobe_deflate", "tiff_deflate") else "TIFF"
    return name


def _samples(image: Image.Image) -> float:
    """Samples that a JPEG holds for each of its pixels, in all channels: 3 without subsampling, 1.5 for most."""
    # Pillow: number, sampling across and down, table, of each channel
    channels: list[tuple[int, int]] = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    most = max(across for across, _ in channels) * max(down for _, down in channels)
    return sum(across * down for across, down in channels) / most
