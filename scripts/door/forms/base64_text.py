"""Base64: as text in a field, as a whole body, in a data URL."""

import base64
import io
import re
from collections.abc import Iterable

from scripts.door.errors import DoorError
from scripts.door.forms.limits import MAX_PHOTO_BYTES

# its spelling for addresses, and what is passed over
STANDARD, WHITESPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\v\f"
PIECE_BYTES = 64 * 1024  # that are decoded at a time
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


def from_base64(text: str | bytes, where: str) -> bytes:
    """Bytes of base64, also in its spelling for addresses, without padding, with line breaks, or in a data URL. DoorError."""
    return from_pieces((text[at : at + PIECE_BYTES] for at in range(0, len(text), PIECE_BYTES)), where)


def from_pieces(pieces: Iterable[str | bytes], where: str) -> bytes:
    """As `from_base64`, without a copy of the whole text: a data URL begins in the first piece, a ValueError is a DoorError."""
    photo, rest, padded = io.BytesIO(), b"", False
    try:
        for number, piece in enumerate(pieces):
            text = piece.encode() if isinstance(piece, str) else piece
            if number == 0 and text.lstrip().startswith(b"data:"):
                text = text.partition(b",")[2]
            text = text.translate(STANDARD, WHITESPACE)
            symbols = text.rstrip(b"=")
            if (symbols and padded) or b"=" in symbols:
                raise ValueError("it goes on behind its padding")
            padded = padded or len(symbols) < len(text)
            rest += symbols
            whole = len(rest) // 4 * 4
            photo.write(base64.b64decode(rest[:whole], validate=True))
            rest = rest[whole:]
            if photo.tell() > MAX_PHOTO_BYTES:
                raise DoorError(f"{where} has over {MAX_PHOTO_BYTES:,} bytes, the limit, as base64", 413)
        photo.write(base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
    except ValueError as error:  # among them binascii.Error and UnicodeError
        raise DoorError(f"{where} is not base64: {error}") from error
    return photo.getvalue()
