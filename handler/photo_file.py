"""Photo bytes -> an opened image: its header read, its pixels not.

Checks the limits of handler/limits.py before memory or time is spent on a claim. handler/preprocess.py decodes.
"""

import contextlib
import io
import re
import struct

from pi_heif import HeifImageFile, libheif_version, options
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from handler.dimensions import webp_size
from handler.errors import HiddenError, PhotoError
from handler.heif import Pictures
from handler.jpeg import SOS, frame, scans
from handler.jpeg2000 import SIZ, SOC, check_codestream
from handler.kinds import raw_of_camera, unread_file, unread_variant
from handler.limits import (
    FORMAT_NAMES,
    MAX_ASPECT_RATIO,
    MAX_BYTES,
    MAX_FRAMES,
    MAX_HEIF_COPIED,
    MAX_PIXELS,
    MAX_PIXELS_OF,
    MAX_READS,
    MAX_SCANNED_PIXELS,
    MAX_SCANS,
    MAX_TIFF_TILE_PIXELS,
    MAX_TIFF_VALUES,
    MIN_SIDE,
    format_of,
)
from handler.tiff import Directory

BYTES_AND_TEXT = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED: profiles and thumbnails are of these types (TIFF 6.0, section 2)
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF 6.0, page 67

# Pillow's names of what it may have been built without
PILLOW_READERS = "jpg", "zlib", "webp", "libtiff", "jpg_2000", "avif", "littlecms2"

MAX_DECODED = 2  # times the pixels of a photo, of a HEIF with transparency


class _Counted(io.BytesIO):
    """Bytes of a file that may be read in MAX_READS pieces at most."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise PhotoError(f"the photo comes in too many pieces, the limit is {MAX_READS:,}", 413)
        return super().read(size)


def open_photo(photo_bytes: bytes) -> Image.Image:
    """The photo with its header read, its pixels not, within all limits. PhotoError."""
    if len(photo_bytes) > MAX_BYTES:
        raise PhotoError(f"the photo has {len(photo_bytes):,} bytes, the limit is {MAX_BYTES:,}", 413)
    if not photo_bytes:
        raise PhotoError("the photo is empty: 0 bytes", 400)
    name = format_of(photo_bytes)
    if name is None:
        raise unsupported(unread_file(photo_bytes))
    try:
        _check_claims(name, photo_bytes)
        image = _open_heif(photo_bytes) if name == "HEIF" else Image.open(_Counted(photo_bytes), formats=(name,))
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has too many pixels, the limit is {MAX_PIXELS:,}", 413) from error
    except Exception as error:
        if kind := unread_variant(name, photo_bytes):
            raise unsupported(kind) from error
        reason = str(error) if str(error) and not isinstance(error, UnidentifiedImageError) else "broken or cut off"
        raise text_error(error) or PhotoError(f"the photo's {name} header cannot be read: {reason}") from error
    check_size(name, image.width, image.height)
    if name == "JPEG":
        _check_scans(photo_bytes, image.width * image.height)
    # counting those of other formats would mean walking through the file
    frames = getattr(image, "n_frames", 1) if image.format in ("WEBP", "AVIF", "PNG", "MPO") else 1
    if frames > MAX_FRAMES:
        raise PhotoError(f"the photo has {frames:,} frames, the limit is {MAX_FRAMES:,}", 413)
    return image


def _open_heif(photo_bytes: bytes) -> Image.Image:
    # pictures beside the primary one are not looked at; threads would take part of the memory limit each
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 0
    image: Image.Image = HeifImageFile(io.BytesIO(photo_bytes))
    if not image.info["primary"]:  # another one of the file, which nobody is to see alone
        raise SyntaxError("its primary picture is not there")
    return image


def missing_readers() -> list[str]:
    """What this machine lacks of the libraries that read photos: found at the start, not by the first photo that needs one."""
    missing = [name for name in PILLOW_READERS if not features.check(name)]
    try:
        libheif_version()
    except ImportError as error:  # installed, but what it is linked to is not there
        missing.append(f"pi_heif ({error})")
    return missing


def unsupported(kind: str | None) -> PhotoError:
    """415 for a file of a kind that is not read, whose name is given, or that is not told."""
    problem = f"unsupported format: {kind}" if kind else "not an image in a supported format"
    return PhotoError(f"{problem}; supported: {FORMAT_NAMES}", 415)


def check_size(name: str, width: int, height: int) -> None:
    """PhotoError for a photo of format `name` with too many pixels, too few or too long a side."""
    pixels, limit = width * height, MAX_PIXELS_OF.get(name, MAX_PIXELS)
    if pixels > MAX_PIXELS:
        raise PhotoError(f"the photo has {width} x {height} pixels: too many pixels, the limit is {MAX_PIXELS:,}", 413)
    if pixels > limit:
        raise PhotoError(
            f"the photo has {width} x {height} pixels: too many for a {name}, the limit is {limit:,}; "
            f"send it smaller, or as a JPEG, whose limit is {MAX_PIXELS:,}",
            413,
        )
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"the photo has {width} x {height} pixels: a side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotoError(f"the photo has {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")


def text_error(error: Exception) -> PhotoError | None:
    """413 for Pillow's error about a PNG whose compressed text or colour profile unpacks to too much, else None."""
    if "MAX_TEXT_" not in str(error):
        return None
    one, together = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    return PhotoError(f"the photo's text or colour profile unpacks to over {one:,} bytes, or {together:,} together", 413)


def _check_claims(name: str, photo_bytes: bytes) -> None:
    """PhotoError for small files with large claims, for which Pillow or its libraries would allocate. struct.error if cut off."""
    # an upper bound, for pixels may hold these four letters by chance
    if name == "WEBP" and photo_bytes.count(b"ANMF") > MAX_FRAMES:
        raise PhotoError(f"the photo has over {MAX_FRAMES:,} frames, the limit is {MAX_FRAMES:,}", 413)
    if name == "WEBP":
        # Pillow's reader takes the memory of two canvases when it opens one
        check_size(name, *webp_size(photo_bytes))
    if name == "HEIF":
        _check_pictures(Pictures(photo_bytes))
    if name == "TIFF":
        if kind := raw_of_camera(photo_bytes):
            raise unsupported(kind)
        _check_tags(photo_bytes)
    if name == "JPEG2000":
        # a decoy may stand before the true one
        for found in re.finditer(re.escape(struct.pack(">HH", SOC, SIZ)), photo_bytes):
            check_codestream(photo_bytes, found.start(), MAX_PIXELS_OF["JPEG2000"])


def _check_pictures(pictures: Pictures) -> None:
    """PhotoError if a HEIF's pictures have too many pixels, or too few, or none that is read. struct.error if it is cut off."""
    if kind := pictures.unread():
        raise unsupported(kind)
    if not pictures.kinds:  # libheif says what is wrong
        return
    if pictures.is_cut_off():
        raise PhotoError("the photo cannot be decoded: its file breaks off")
    if (copied := pictures.copied_bytes()) > MAX_HEIF_COPIED:
        raise PhotoError(
            f"the EXIF, XMP and colour profiles of the photo's pictures have {copied:,} bytes, the limit is {MAX_HEIF_COPIED:,}",
            413,
        )
    check_size("HEIF", *pictures.shown_size())
    decoded, limit = pictures.pixels(), MAX_DECODED * MAX_PIXELS_OF["HEIF"]
    if decoded > limit:
        raise PhotoError(f"the photo's tiles and its transparency have {decoded:,} pixels, the limit is {limit:,}", 413)


def _check_scans(photo_bytes: bytes, pixels: int) -> None:
    """PhotoError if the first picture in a JPEG of so many pixels has too many scans."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    # most photos' headers tell it: counting in all bytes takes a tenth of what decoding a large one takes
    with contextlib.suppress(HiddenError, struct.error):
        if (found := frame(photo_bytes)) and found.has_one_scan:
            return
    # any bytes may follow the picture (a phone's video does), so only a count that is too high is examined
    if photo_bytes.count(SOS) > most and scans(photo_bytes, most + 1) > most:
        raise PhotoError(f"the photo has over {most} scans of {pixels:,} pixels, the limit is {most}", 413)


def _check_tags(photo_bytes: bytes) -> None:
    """PhotoError if the first directory of a TIFF or BigTIFF has too many tags, one with too many numbers, or too large tiles."""
    directory, tile = Directory(photo_bytes), {TILE_WIDTH: 1, TILE_LENGTH: 1}
    for tag in directory:
        if tag.size > MAX_TIFF_VALUES and tag.kind not in BYTES_AND_TEXT:
            raise PhotoError(f"the photo's TIFF tag {tag.number} has {tag.size:,} values, the limit is {MAX_TIFF_VALUES:,}", 413)
        if tag.number in tile:
            (tile[tag.number],) = directory.values(tag)[:1] or [1]
    width, length = tile.values()
    if width * length > MAX_TIFF_TILE_PIXELS:
        raise PhotoError(f"the photo has tiles of {width} x {length}, the limit is {MAX_TIFF_TILE_PIXELS:,} pixels", 413)
