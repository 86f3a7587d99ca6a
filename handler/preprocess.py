"""Photo bytes -> upright RGB -> the crop that the exported program takes.

The only preprocessing of this project: training's evaluation, the export's golden answers and the worker call it.
Leaves out normalisation (it is the first step of the exported program) and augmentation (training/data.py).
"""

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
# Pillow warns of a decompression bomb from here on; phones' 50-megapixel photos lie well below
MAX_PIXELS = 89_478_485
# the resized long side is this many times the crop at most, which bounds the memory that a 1 x 60000 strip takes
MAX_ASPECT_RATIO = 20

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# EXIF 2.32, tag 0x0112: what undoes each way of holding the camera
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(ValueError):
    """These bytes are no photo that we can read; the message says why, for the person who sent them."""


@dataclass(frozen=True)
class Spec:
    """timm's six data-config values: how this network was trained to see a photo.

    input_size is (3, size, size); mean and std are for channels in 0..1; crop_mode is "center" or "squash".
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    crop_mode: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Spec":
        """Spec of a mapping that holds exactly the six keys. ValueError names the key that is missing or wrong."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
            raise ValueError(f"spec needs exactly the keys {sorted(names)}: missing {missing}, unknown {unknown}")
        exact: dict[str, Any] = {key: tuple(v) if isinstance(v, list | tuple) else v for key, v in values.items()}
        spec = cls(**exact)
        spec._check()
        return spec

    def _check(self) -> None:
        size = self.input_size[-1]
        if self.input_size != (3, size, size) or size < 1:
            raise ValueError(f"spec's input_size is {self.input_size}, expected (3, size, size)")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"spec's interpolation is {self.interpolation!r}, expected one of {sorted(INTERPOLATIONS)}")
        if self.crop_mode not in ("center", "squash"):
            raise ValueError(f"spec's crop_mode is {self.crop_mode!r}, expected 'center' or 'squash'")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"spec's crop_pct is {self.crop_pct}, expected more than 0 and at most 1")
        for name, channels in (("mean", self.mean), ("std", self.std)):
            if len(channels) != 3:
                raise ValueError(f"spec's {name} is {channels}, expected three values, one a channel")

    def to_dict(self) -> dict[str, Any]:
        """The six values as JSON can hold them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def read_photo(photo_bytes: bytes) -> Image.Image:
    """The photo as a person sees it: upright, RGB, transparent parts white, the first frame of an animation.

    Raises PhotoError if the bytes are no image, a broken one, or one beyond the limits above.
    """
    if not photo_bytes:
        raise PhotoError("the photo is empty: 0 bytes")
    # Pillow's decoders raise almost anything on hostile bytes: OSError, SyntaxError, struct.error, TypeError ...
    try:
        image = Image.open(io.BytesIO(photo_bytes), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PhotoError(f"not an image in a format that is read here ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has too many pixels: at most {MAX_PIXELS:,} are read") from error
    except Exception as error:
        raise PhotoError(f"the photo's header cannot be read: {error}") from error
    _check_size(image)
    orientation = _orientation(image)
    try:
        image.load()
        upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
        return _to_rgb(upright)
    except Exception as error:
        raise PhotoError(f"the photo cannot be decoded: {error}") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise PhotoError(f"the photo has {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise PhotoError(f"the photo has {width} x {height} pixels: at most {MAX_PIXELS:,} are read")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotoError(f"the photo has {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the EXIF block is broken."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels, which may be fine
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB copy of an image in any of Pillow's modes; alpha is laid over white. ValueError for modes with no fixed range."""
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow would clip at 255, and show white
        eight_bit = np.clip(np.asarray(image).astype(np.int32) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def crop(image: Image.Image, spec: Spec) -> np.ndarray:
    """The part of an RGB image that the network sees: uint8 (H, W, 3). Equals timm's evaluation transform bit for bit."""
    size = spec.input_size[1]
    # floor, as timm does: 224 / 0.95 is 235, and round() would make it 236
    width = height = math.floor(size / spec.crop_pct)
    if spec.crop_mode == "center":
        # the short side takes that size, the long one follows, rounded down as torchvision's Resize does
        if image.width <= image.height:
            height = int(width * image.height / image.width)
        else:
            width = int(height * image.width / image.height)
    if image.size != (width, height):
        image = image.resize((width, height), INTERPOLATIONS[spec.interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))  # (H, W, 3)


def preprocess(photo_bytes: bytes, spec: Spec) -> np.ndarray:
    """Model input for one photo: uint8 (H, W, 3), upright, RGB. Raises PhotoError."""
    return crop(read_photo(photo_bytes), spec)


def coarse(crop: np.ndarray) -> np.ndarray:
    """The crop in 8 x 8 fields, uint8 (8, 8, 3): by it a golden photo tells a skewed crop from a network that is sure of itself."""
    return np.array(Image.fromarray(crop).resize((8, 8), Image.Resampling.BOX))
