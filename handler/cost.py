"""What it costs to decode a photo, in bytes of memory and seconds of CPU: estimated from its header alone, before a pixel is read.

handler/coding.py tells how a photo is coded, as an opened image or from its bytes.

The factors are measured by `make photo-costs`, whose table is in README.md, and rounded up. A flat photo has few bytes and many
pixels, one of noise as many bytes as a file may have: hence a factor for each.
"""

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from handler.coding import Coding, coding_of_bytes, coding_of_image
from handler.dimensions import header
from handler.errors import HiddenError
from handler.limits import MAX_BYTES, MAX_PIXELS, MAX_PIXELS_OF, STRIP_PIXELS, factor_for

if TYPE_CHECKING:  # a server that queues photos by their cost decodes none, and does without Pillow
    from PIL import Image

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
    "HEIF": Factors(5, 2, 29, 190),
    "HEIF deep": Factors(12, 2, 45, 200),
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
# of a photo whose size is hidden: whatever is the most that may be spent on one
UNKNOWN = Cost(sys.maxsize, math.inf)
# to sRGB by a profile of that kind: seconds for the first photo with it, and nanoseconds for each pixel that is left. Measured
# with tables of one entry to a megabyte, and with debian's icc-profiles-free; a press's has four channels
PROFILE_COST = {"": (0.0, 0), "matrix": (0.007, 30), "table": (0.025, 55), "press": (0.06, 100)}
# short side where the crop is not known: 224 / 0.95
USUAL_SIDE = 235


def estimate(image: "Image.Image", photo_bytes: bytes, factor: int) -> Cost:
    """What decoding an opened photo takes that will be reduced to 1 / factor of its size."""
    coding, pixels = coding_of_image(image, photo_bytes), image.width * image.height
    return _cost(coding, len(photo_bytes), pixels, factor)


def photo_cost(photo_bytes: bytes) -> Cost:
    """What decoding will take, told from the bytes alone, for a queue: `estimate` for crops of the usual size, nearly.

    LEAST for what is refused before it is decoded: no photo, a header that cannot be read, one over the limits. UNKNOWN where
    nobody can tell in a millisecond. Never raises.
    """
    try:
        found = header(photo_bytes)
    except HiddenError:
        return UNKNOWN
    if found is None:
        return LEAST
    pixels = found.width * found.height
    if pixels > MAX_PIXELS_OF.get(found.name, MAX_PIXELS) or len(photo_bytes) > MAX_BYTES:
        return LEAST
    coding = coding_of_bytes(found, photo_bytes)
    return _cost(coding, len(photo_bytes), pixels, factor_for(min(found.width, found.height), USUAL_SIDE))


def _cost(coding: Coding, length: int, pixels: int, factor: int) -> Cost:
    """Of a photo of so many bytes and pixels, which is reduced to 1 / factor of its size."""
    left = pixels // factor**2
    # a JPEG is decoded at its reduced scale
    decoded = left if coding.is_jpeg else pixels
    converted = min(STRIP_PIXELS, decoded) if factor > 1 else decoded
    factors = FACTORS[coding.kind]
    pixels, length = max(pixels, coding.pixels), coding.length or length
    memory, cpu_ns = factors.pixel_memory * pixels, factors.pixel_ns * pixels
    if coding.kind == "JPEG in scans":
        memory += COEFFICIENT_MEMORY * pixels * coding.samples
        cpu_ns += (SCAN_NS * coding.passes + COEFFICIENT_NS * coding.samples) * pixels
    memory += MODE_MEMORY.get(coding.mode, 4) * decoded
    memory += CONVERSION_MEMORY * converted
    cpu_ns += (ALPHA_NS if coding.alpha else MODE_NS.get(coding.mode, OTHER_NS)) * decoded
    memory += factors.byte_memory * length
    cpu_ns += factors.byte_ns * length
    if not coding.ended:
        cpu_ns *= WITHOUT_END
    built_s, converted_ns = PROFILE_COST[coding.profile]
    return Cost(LEAST.memory + int(memory), LEAST.cpu_s + built_s + (cpu_ns + converted_ns * left) / 1e9)
