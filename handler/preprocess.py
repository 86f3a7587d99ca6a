"""Photo bytes -> upright RGB -> the crop that the exported program takes.

The only preprocessing of this project: training's evaluation, the export's golden answers and the worker call it.
handler/photo_file.py opens the bytes, within the limits of handler/limits.py.
Leaves out normalisation (it is the first step of the exported program) and augmentation (training/data/loader.py).
"""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handler.colours import profile_of, to_srgb
from handler.errors import PhotoError as PhotoError
from handler.jpeg import has_all_scans, with_ends
from handler.kinds import unread_variant
from handler.limits import STRIP_PIXELS, factor_for
from handler.photo_file import open_photo, text_error, unsupported
from handler.resize import resize
from handler.text import ReadsText, TextSpec, text_ids
from handler.tokens import TokenSpec, read_tokenizer

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# lanczos, the widest of them, reads 3 pixels to each side: of the resized image when it shrinks a photo, else of the photo
REACH = 3

# EXIF 2.32, 4.6.4: the tag, and what undoes each way of holding the camera
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Spec:
    """timm's six data-config values: how this network was trained to see a photo. `text`: how it reads one, None if it does not.

    input_size is (3, size, size); mean and std are for channels in 0..1; crop_mode is "center" or "squash".
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    crop_mode: str
    text: ReadsText | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> "Spec":
        """Spec of an exported model's folder, or an archive's. ValueError as from_dict."""
        return cls.from_dict(json.loads((folder / "spec.json").read_text(encoding="utf-8")), read_tokenizer(folder))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tokenizer: str = "") -> "Spec":
        """Spec of a mapping that holds exactly the six keys, and text or not. ValueError names the key that is missing or wrong.

        `tokenizer` is needed where texts are read by one: see TokenSpec.
        """
        names = {field.name for field in fields(cls)} - {"text"}
        if set(values) - {"text"} != names:
            missing, unknown = sorted(names - set(values)), sorted(set(values) - names - {"text"})
            raise ValueError(f"spec needs exactly the keys {sorted(names)}: missing {missing}, unknown {unknown}")
        exact: dict[str, Any] = {key: tuple(v) if isinstance(v, list | tuple) else v for key, v in values.items()}
        if "text" in values:
            text = values["text"]
            if not isinstance(text, Mapping):
                raise ValueError(f"spec's text is {text!r}, expected an object, or no key text where none is read")
            exact["text"] = TokenSpec.from_dict(text, tokenizer) if "kind" in text else TextSpec.from_dict(text)
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
        """The values as JSON can hold them; without text, if it reads none."""
        values = asdict(replace(self, text=None)) | {"text": self.text.to_dict() if self.text else None}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}


def read_photo(photo_bytes: bytes, short_side: int = 0) -> Image.Image:
    """The photo as a person sees it: upright, RGB, transparent parts white, the first frame of an animation.

    A `short_side` over 0 lets big photos be decoded at reduced scale, but with no side under it.
    Raises PhotoError if the bytes are not an image, a broken one, or one over a limit of limits.py.
    """
    image = open_photo(photo_bytes)
    return decode(image, reduction(image, short_side))


def reduction(image: Image.Image, short_side: int) -> int:
    """The factor by which a photo is decoded smaller where only `short_side` pixels of its short side are needed; 0: all are."""
    return factor_for(min(image.size), short_side)


def decode(image: Image.Image, factor: int) -> Image.Image:
    """An opened photo as read_photo returns it, at 1 / factor of its size. PhotoError if it is broken."""
    # taken now: a reader that fails may have let go of it
    photo_bytes = image.fp.getvalue() if isinstance(image.fp, io.BytesIO) else b""  # type: ignore[attr-defined]
    # Pillow's decoders raise almost anything on hostile bytes: OSError, SyntaxError, struct.error, TypeError ...
    try:
        return _decoded(image, factor)
    except PhotoError:
        raise
    except Exception as error:
        name = "JPEG" if image.format == "MPO" else str(image.format)
        if name == "JPEG" and not isinstance(error, MemoryError) and (whole := _without_end(photo_bytes, factor)):
            return whole
        if kind := unread_variant(name, photo_bytes):
            raise unsupported(kind) from error
        raise text_error(error) or PhotoError(f"the photo cannot be decoded: {error or type(error).__name__}") from error


def _decoded(image: Image.Image, factor: int) -> Image.Image:
    # rounded: of the last pixels, too few to make half of one are left out, or a thin photo's far side would be out of place
    width, height = round(image.width / factor), round(image.height / factor)
    profile = profile_of(image)
    drafted = factor > 1 and image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    # after load, which turns a TIFF itself, and in a PNG finds what follows the pixels
    orientation = _orientation(image)
    if drafted and image.size != (width, height):
        image = image.crop((0, 0, width, height))
    # colours are converted last, of the few pixels that are left; those of a press only by their profile
    by_profile = image.mode == "CMYK" and profile is not None
    convert = Image.Image.copy if by_profile else _to_rgb
    small = _reduced(image, factor, convert) if factor > 1 and not drafted else convert(image)
    rgb = to_srgb(small, profile)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def _without_end(photo_bytes: bytes, factor: int) -> Image.Image | None:
    """A JPEG that lacks its end marker and nothing else, as many phones' transfers leave it; None if pixels are missing."""
    try:
        if not has_all_scans(photo_bytes):
            return None
        first, second = (_decoded(open_photo(whole), factor) for whole in with_ends(photo_bytes))
    except Exception:  # what is wrong with it was found before
        return None
    return first if first.tobytes() == second.tobytes() else None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the EXIF block is broken."""
    try:
        # a HEIF is turned by its reader, as its own properties say
        return 1 if image.format == "HEIF" else int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels, which may be fine
        return 1


def _reduced(image: Image.Image, factor: int, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image, converted, at 1 / factor of its size: means of factor x factor pixels. In strips: only itself is held whole."""
    strips, width = [], round(image.width / factor)
    height, rows = round(image.height / factor), max(1, STRIP_PIXELS // image.width // factor)
    for top in range(0, height, rows):
        below = min((top + rows) * factor, image.height, height * factor)
        strip = convert(image.crop((0, top * factor, min(image.width, width * factor), below)))
        strips.append(strip.reduce(factor))
    small = Image.new(strips[0].mode, (width, height))
    for number, strip in enumerate(strips):
        small.paste(strip, (0, number * rows))
    return small


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image in any of Pillow's modes as RGB; alpha is laid over white. ValueError for modes with no fixed range."""
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow would clip at 255, and show white
        eight_bit = np.clip(np.asarray(image).astype(np.int32) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resized_side(spec: Spec) -> int:
    """Pixels of the short side before the crop."""
    # floor, as timm does: 224 / 0.95 is 235, and round() would make it 236
    return math.floor(spec.input_size[1] / spec.crop_pct)


def layout(size: tuple[int, int], spec: Spec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of a photo's (width, height): those of the whole photo once it is resized, and the (left, top) of the crop in it."""
    width = height = resized_side(spec)
    if spec.crop_mode == "center":
        # the short side takes that size, the long one follows, rounded down as torchvision's Resize does
        if size[0] <= size[1]:
            height = int(width * size[1] / size[0])
        else:
            width = int(height * size[0] / size[1])
    return (width, height), (round((width - spec.input_size[1]) / 2), round((height - spec.input_size[1]) / 2))


def crop(image: Image.Image, spec: Spec) -> np.ndarray:
    """The part of an RGB image that the network sees: uint8 (H, W, 3).

    timm's evaluation transform, which resizes the whole image, computed for the part alone. Few values differ, by a level or two
    of 255: Pillow takes the part's corners in 32 bits, and resize() rounds more than Pillow does.
    """
    size = spec.input_size[1]
    (width, height), (left, top) = layout(image.size, spec)
    if image.size == (width, height):
        return np.array(image.crop((left, top, left + size, top + size)))  # (H, W, 3)
    across = (left * image.width / width, (left + size) * image.width / width)
    down = (top * image.height / height, (top + size) * image.height / height)
    resampling = INTERPOLATIONS[spec.interpolation]
    # The order in which Pillow would resize the whole image: what is rounded between the two differs by it.
    if image.height - height > max(0, 2 * (image.width - width)):
        return np.array(_resized_across(_resized_down(image, size, down, resampling), size, across, resampling))
    reach = math.ceil(REACH * max(1.0, image.height / height)) + 1
    first, last = max(0, int(down[0]) - reach), min(image.height, int(down[1]) + reach + 1)
    rows = _resized_across(image.crop((0, first, image.width, last)), size, across, resampling)
    return np.array(_resized_down(rows, size, (down[0] - first, down[1] - first), resampling))


def _resized_across(image: Image.Image, size: int, part: tuple[float, float], resampling: Image.Resampling) -> Image.Image:
    """The columns of the image from part[0] to part[1], as `size` columns."""
    return resize(image, (size, image.height), resampling, (part[0], 0, part[1], image.height))


def _resized_down(image: Image.Image, size: int, part: tuple[float, float], resampling: Image.Resampling) -> Image.Image:
    """The rows of the image from part[0] to part[1], as `size` rows."""
    return resize(image, (image.width, size), resampling, (0, part[0], image.width, part[1]))


def preprocess(photo_bytes: bytes, spec: Spec) -> np.ndarray:
    """Model input for one photo: uint8 (H, W, 3), upright, RGB. Raises PhotoError.

    Equals `crop` of the photo at full size where its short side is under twice the resized one.
    """
    return crop(read_photo(photo_bytes, resized_side(spec)), spec)


def blank(spec: Spec) -> np.ndarray:
    """The crop that stands for no photo where a text comes alone: black, uint8 (H, W, 3)."""
    return np.zeros((*spec.input_size[1:], 3), np.uint8)


def ids_of(texts: Sequence[str], spec: Spec) -> np.ndarray | None:
    """The ids of texts, int64 (B, L); None for a model that reads none."""
    return None if spec.text is None else np.array([text_ids(text, spec.text) for text in texts], np.int64)


def coarse(crop: np.ndarray) -> np.ndarray:
    """The crop in 8 x 8 fields, uint8 (8, 8, 3): shows a skewed crop of a golden photo, which a confident network may hide."""
    return np.array(Image.fromarray(crop).resize((8, 8), Image.Resampling.BOX))
