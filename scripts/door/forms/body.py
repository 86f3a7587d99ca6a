"""A request's body, in whatever form it comes -> the photos in it and the number of classes to answer with.

Raw bytes, a multipart or urlencoded form, JSON (ours, KServe's), base64 as text; compressed by gzip or deflate. Chunks are taken as
they arrive, and what is over a limit is refused at the chunk that is over it.
"""

import io

import multipart
from starlette.datastructures import QueryParams
from starlette.types import Scope

from handler.text import TEXT_HEADER, TextError, decode_header
from scripts.door.errors import DoorError
from scripts.door.forms.asked import Asked, Found
from scripts.door.forms.base64_text import photo_of
from scripts.door.forms.compression import Inflater, inflater
from scripts.door.forms.json_form import begins_as_json, read_json
from scripts.door.forms.limits import MAX_BODY_BYTES
from scripts.door.forms.multipart_form import MultipartForm
from scripts.door.forms.urlencoded_form import read_urlencoded

# one of them announces a body: RFC 9112, 6.3
FRAMING = (b"content-length", b"transfer-encoding")


class Body:
    """Takes a body chunk by chunk. DoorError from each call."""

    def __init__(self, scope: Scope) -> None:
        kind, has_length = "", False
        encodings: list[str] = []
        self._found = Found()
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = kind or value.decode("latin-1")
            elif name == b"content-encoding":
                encodings.append(value.decode("latin-1"))
            elif name in FRAMING:
                has_length = True
                if name == b"content-length" and int(value) > MAX_BODY_BYTES:  # before it is sent
                    raise DoorError(f"the body has {int(value):,} bytes, the limit is {MAX_BODY_BYTES:,}", 413)
            elif name == b"x-top-k":
                self._found.top_k.append(("header x-top-k", value))
            elif name == TEXT_HEADER.encode():
                self._found.text.append((f"header {TEXT_HEADER}", _text(value)))
        if not has_length:
            raise DoorError("the request has no body: send the photo with a content-length, or in chunks", 411)
        if scope["query_string"]:
            self._found.top_k += [("query", value) for value in QueryParams(scope["query_string"]).getlist("top_k")]
        self._type, options = multipart.parse_options_header(kind) if ";" in kind else (kind.strip().lower(), {})
        self._charset = options.get("charset", "")
        self._inflate = inflater(", ".join(encodings))
        self._parts = MultipartForm(options.get("boundary", ""), self._found) if self._type == "multipart/form-data" else None
        self._whole, self._size = io.BytesIO(), 0

    @property
    def size(self) -> int:
        """How many bytes there are so far, unpacked."""
        return self._size

    @property
    def is_packed(self) -> bool:
        """Whether a small chunk may become a large one."""
        return isinstance(self._inflate, Inflater)

    def write(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        for part in self._inflate.write(chunk):
            self._size += len(part)
            if self._size > MAX_BODY_BYTES:
                raise DoorError(f"the body has over {MAX_BODY_BYTES:,} bytes, the limit", 413)
            if self._parts:
                self._parts.write(part)
            else:
                self._whole.write(part)

    def close(self) -> Asked:
        """What the body asks, once it is whole."""
        self._inflate.close()
        if self._parts:
            self._parts.close()
        else:
            whole, self._whole = self._whole.getvalue(), io.BytesIO()
            self._read(whole)
        return self._found.asked()

    def _read(self, whole: bytes) -> None:
        if not whole and self._found.text:
            return None  # a text alone, in a header
        if not whole:
            raise DoorError("the body is empty: 0 bytes, expected a photo")
        if self._type == "application/json" or self._type.endswith("+json") or begins_as_json(whole):
            return read_json(whole, self._charset, self._found)
        # curl's --data-binary says that a photo is of this type
        if self._type == "application/x-www-form-urlencoded" and read_urlencoded(whole, self._found):
            return None
        self._found.photos.append(photo_of(whole))
        return None


def _text(header: bytes) -> str:
    try:
        return decode_header(header.decode("latin-1"))
    except TextError as error:
        raise DoorError(str(error), error.status) from error
