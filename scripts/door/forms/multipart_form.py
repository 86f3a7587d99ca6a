"""A multipart form, chunk by chunk: RFC 7578."""

import quopri
from typing import Any

import multipart

from scripts.door.errors import DoorError
from scripts.door.forms.asked import PHOTO_FIELDS, Found
from scripts.door.forms.base64_text import from_base64, photo_of
from scripts.door.forms.limits import MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_HEADER_BYTES, MAX_HEADERS, MAX_PARTS


class MultipartForm:
    """A multipart form: RFC 7578."""

    def __init__(self, boundary: str, found: Found) -> None:
        self._found, self._name, self._encoding, self._content = found, "", "", bytearray()
        self._parts: list[tuple[str, str, bytes]] = []  # name, transfer encoding, content
        try:
            self._parser = multipart.PushMultipartParser(
                boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_HEADERS, max_segment_count=MAX_PARTS
            )
        except multipart.MultipartError as error:
            raise DoorError(f"the content type multipart/form-data needs a boundary, found {boundary[:80]!r}") from error

    def write(self, chunk: bytes) -> None:
        """The next bytes of the form. DoorError."""
        if self._parser.closed:
            return  # what follows the last boundary is to be ignored: RFC 2046, 5.1.1
        try:
            for event in self._parser.parse(chunk):
                self._take(event)
        except multipart.ParserLimitReached as error:
            limits = f"{MAX_PARTS} parts, {MAX_HEADERS} headers a part, {MAX_HEADER_BYTES:,} bytes a header"
            raise DoorError(f"the form is over a limit ({limits}): {error}", 413) from error
        except multipart.MultipartError as error:
            raise DoorError(f"the form cannot be read: {error}") from error

    def close(self) -> None:
        """Called at the form's end. DoorError if it breaks off."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise DoorError(f"the form cannot be read: {error}") from error
        # not as they come: a large body is closed on a thread
        parts, self._parts = self._parts, []  # a part as base64 is not needed beside its photo
        for name, encoding, content in parts:
            self._take_part(name, _transferred(content, encoding))

    def _take(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            if not event.name:
                raise DoorError('a part of the form has no name: its Content-Disposition must be like form-data; name="image"')
            self._name, self._content = event.name, bytearray()
            self._encoding = event.header("Content-Transfer-Encoding", "").lower()
        elif event is None:
            self._end_of_part()
        else:
            self._content += event
            limit = MAX_BODY_BYTES if self._name in PHOTO_FIELDS else MAX_FIELD_BYTES
            if len(self._content) > limit:
                raise DoorError(f"the form's field {self._name[:40]!r} has over {limit:,} bytes, the limit", 413)

    def _end_of_part(self) -> None:
        if self._name in (*PHOTO_FIELDS, "top_k", "text"):
            self._parts.append((self._name, self._encoding, bytes(self._content)))
        self._content = bytearray()

    def _take_part(self, name: str, content: bytes) -> None:
        if name == "top_k":
            self._found.top_k.append(("field top_k", content))
        elif name == "text":
            self._found.text.append(("field text", content))
        else:
            self._found.photos.append(photo_of(content))


def _transferred(content: bytes, encoding: str) -> bytes:
    """A part's content without its transfer encoding: RFC 7578, 4.7 deprecates it, and Python's email and curl write it."""
    if encoding in ("", "7bit", "8bit", "binary"):
        return content
    if encoding == "base64":
        return from_base64(content, "the form's part")
    if encoding == "quoted-printable":
        return quopri.decodestring(content)
    raise DoorError(f"a part's Content-Transfer-Encoding is {encoding[:40]!r}, expected binary, base64 or quoted-printable", 415)
