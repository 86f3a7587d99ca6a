"""An urlencoded form with a photo as base64. curl's --data-binary gives a photo's own bytes that label, too.

The photo's text is unescaped in pieces: Python's own parser takes 190 times the memory of what is nothing but escapes.
"""

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_plus, unquote_to_bytes

from scripts.door.errors import DoorError
from scripts.door.forms.asked import Found
from scripts.door.forms.base64_text import PIECE_BYTES, from_pieces
from scripts.door.forms.json_form import BASE64_FIELDS
from scripts.door.forms.limits import MAX_FIELD_BYTES, MAX_PARTS

BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
LONGEST_NAME = 80  # of a field that is read, each letter escaped
ESCAPED = 3  # characters for each byte


def read_urlencoded(whole: bytes, found: Found) -> bool:
    """Add what the form holds; False for what is none, or names no photo, as a photo itself. DoorError."""
    if not whole.isascii() or (not re.match(rb"\w{1,20}=", whole) and b"&" not in whole[:64]):
        return False
    fields = list(_fields(whole))
    found.text += [("field text", _short("text", whole[start:end])) for name, start, end in fields if name == "text"]
    photos = [(name, start, end) for name, start, end in fields if name in BASE64_FIELDS]
    if len(photos) > 1:
        raise DoorError(f"the form holds several photos: {[name for name, _, _ in photos]}, expected one")
    for name, start, end in photos:
        for other, its_start, its_end in fields:
            if other == "top_k":
                found.top_k.append(("field top_k", _short("top_k", whole[its_start:its_end])))
        found.photos.append(from_pieces(_unescaped(whole, start, end), f"the form's {name}"))
    return bool(photos or found.text)


def _fields(whole: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, where its value begins, where that ends) of each field. DoorError for too many."""
    if whole.count(b"&") >= MAX_PARTS:
        raise DoorError(f"the form has over {MAX_PARTS} fields, the limit", 413)
    at = 0
    while at <= len(whole):
        found = whole.find(b"&", at)
        end = found if found >= 0 else len(whole)
        found = whole.find(b"=", at, end)
        sign = found if found >= 0 else end
        yield unquote_plus(whole[at : min(sign, at + LONGEST_NAME)].decode("ascii")), min(sign + 1, end), end
        at = end + 1


def _short(name: str, value: bytes) -> bytes:
    # before it is unescaped, too: a body may be nothing but escapes
    if len(value) > ESCAPED * MAX_FIELD_BYTES or len(plain := unquote_to_bytes(value.replace(b"+", b" "))) > MAX_FIELD_BYTES:
        raise DoorError(f"the form's field {name!r} has over {MAX_FIELD_BYTES:,} bytes, the limit", 413)
    return plain


def _unescaped(whole: bytes, at: int, end: int) -> Iterator[bytes]:
    """The base64 between these places; a plus sign that was not escaped counts as one, not as a space. ValueError."""
    while at < end:
        stop = min(at + PIECE_BYTES, end)
        escape = whole.rfind(b"%", stop - 2, stop)
        if stop < end and escape >= 0:
            stop = escape  # which goes on behind this piece
        piece = whole[at:stop]
        if BAD_ESCAPE.search(piece):
            raise ValueError("a % without two hexadecimal digits")
        # the escapes of quoted-printable, which the library has a fast reader for, differ by their sign alone
        yield binascii.a2b_qp(piece.replace(b"=", b"=3D").replace(b"%", b"=")).replace(b" ", b"+")
        at = stop
