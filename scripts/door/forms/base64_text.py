"""Base64: as text in a field, as a whole body, in a data URL."""

import base64
import binascii
import math
import re

from scripts.door.errors import DoorError
from scripts.door.forms.limits import MAX_PHOTO_BYTES

# its spelling for addresses, and what is passed over
STANDARD, WHITESPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\v\f"
BASE64 = re.compile(rb"[\w+/=\s-]+")
# how the bytes of our formats begin, as base64: JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000
BASE64_STARTS = (b"/9j/", b"iVBORw0KGgo", b"UklGR", b"R0lGOD", b"Qk", b"SUkq", b"TU0AK", b"AAAADGpQ")


def photo_of(content: bytes) -> bytes:
    """The photo in a body or a part: its bytes, or base64 of them, or a data URL."""
    start = content[:64].lstrip()
    if start.startswith(b"data:") or (start.startswith(BASE64_STARTS) and BASE64.fullmatch(content)):
        return from_base64(content, "the photo")
    if len(content) > MAX_PHOTO_BYTES:
        raise DoorError(f"the photo has {len(content):,} bytes, the limit is {MAX_PHOTO_BYTES:,}", 413)
    return content


def from_base64(text: bytes, where: str) -> bytes:
    """Bytes of base64, also in its spelling for addresses, without padding, with line breaks, or in a data URL."""
    if text.lstrip().startswith(b"data:"):
        text = text.partition(b",")[2]
    text = text.translate(STANDARD, WHITESPACE).rstrip(b"=")
    if len(text) > math.ceil(MAX_PHOTO_BYTES / 3) * 4:
        raise DoorError(f"{where} has {len(text):,} characters of base64, the limit is {math.ceil(MAX_PHOTO_BYTES / 3) * 4:,}", 413)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DoorError(f"{where} is not base64: {error}") from error
