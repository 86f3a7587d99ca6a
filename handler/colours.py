"""A photo's colours as sRGB, in which networks are trained: by its profile, or by the primaries that its file states.

A profile that is broken, or of other channels than the photo has, is left out: the photo is read without it.
"""

import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from handler.heif import Pictures
from handler.icc import CHANNELS, PRIMARIES, SRGB, grey_profile, profile, used_part

# a press's profile has 3 MB at most
MAX_PROFILE_BYTES = 4 * 1024 * 1024
# levels of 255 by which colours may be off and yet be taken for sRGB's
SAME_LEVELS = 3
# profiles of one camera are one: those that were used last are kept
KEPT = 8
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
# ITU-T H.273: transfer characteristics whose range is that of a screen; those of HDR are left as they are
SCREEN_TRANSFERS = (1, 2, 6, 13, 14, 15)
# PNG 1.2, 4.2.2: gamma of a file, which all take for sRGB's curve
SRGB_GAMMA = (0.43, 0.48)

# three levels of each channel, and two between them
_LEVELS = np.array([0, 64, 128, 192, 255], np.uint8)


def to_srgb(image: Image.Image, found: bytes | None) -> Image.Image:
    """RGB in sRGB of an image in mode RGB or CMYK, by a profile that profile_of() found; without one as Pillow converts it."""
    transform = _transform(found) if found else None
    if transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    # a grey profile is for one channel, and the three are the same
    return transform.apply(image.convert(transform.input_mode))


def profile_of(image: Image.Image) -> bytes | None:
    """The profile by which an opened photo's colours become sRGB's; None if they are, or if nothing says that they are not."""
    try:
        found = image.info.get("icc_profile") or _stated(image)
    # numbers that make no sense, or too large ones for a profile
    except (ValueError, TypeError, IndexError, ArithmeticError, struct.error):
        return None
    if not isinstance(found, bytes) or len(found) > MAX_PROFILE_BYTES:
        return None
    mode = "CMYK" if image.mode == "CMYK" else "L" if image.mode in GREY_MODES else "RGB"
    used = used_part(found)
    return used if used and _channels(used) == mode and _transform(used) else None


def _channels(used: bytes) -> str:
    """Pillow's mode for the channels that a profile is for, of used_part()."""
    return CHANNELS[used[16:20]]


def _stated(image: Image.Image) -> bytes | None:
    if image.format in ("AVIF", "HEIF"):
        found = Pictures(image.fp.getvalue()).nclx()  # type: ignore[attr-defined]
        known = found is not None and found[0] in PRIMARIES and found[1] in SCREEN_TRANSFERS
        return profile(PRIMARIES[found[0]]) if found and known else None
    return _of_png(image.info, image.mode in GREY_MODES) if image.format == "PNG" else None


def _of_png(info: Mapping[Any, Any], is_grey: bool) -> bytes | None:
    """By the chunks cHRM and gAMA, PNG 1.2, section 4.2; sRGB overrides them."""
    if "srgb" in info:
        return None
    gamma = float(info.get("gamma") or SRGB_GAMMA[0])
    curve = None if SRGB_GAMMA[0] <= gamma <= SRGB_GAMMA[1] or not 0.1 < gamma < 2 else 1 / gamma
    if is_grey:  # has no primaries
        return grey_profile(curve) if curve else None
    if "chromaticity" not in info:
        return profile(SRGB, curve) if curve else None
    white, red, green, blue = (tuple(map(float, info["chromaticity"][i : i + 2])) for i in (0, 2, 4, 6))
    return profile((red, green, blue, white), curve)  # type: ignore[arg-type]


@lru_cache(KEPT)
def _transform(used: bytes) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB; None where these are the same, or the profile is broken."""
    channels = _channels(used)
    try:
        made = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(used)),
            ImageCms.createProfile("sRGB"),
            channels,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if channels != "CMYK" and _changes_nothing(made, channels) else made
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, channels: str) -> bool:
    if channels == "L":
        probe = Image.fromarray(_LEVELS[None])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), axis=-1).reshape(5, 25, 3))
    before, after = (np.asarray(one.convert("RGB")).astype(int) for one in (probe, transform.apply(probe)))
    return bool(np.abs(after - before).max() <= SAME_LEVELS)
