"""Content-Encoding: gzip and deflate, unpacked piece by piece."""

import zlib
from collections.abc import Iterable
from typing import Any

from scripts.door.errors import DoorError
from scripts.door.forms.limits import MEGABYTE

HEADER_BYTES = 2  # of zlib's header: RFC 1950, 2.2


class Plain:
    """No compression."""

    def write(self, chunk: bytes) -> Iterable[bytes]:
        """The chunk itself."""
        return (chunk,)

    def close(self) -> None:
        """Nothing is left."""


class Inflater:
    """gzip or deflate, unpacked in pieces: a bomb is noticed at the limit, not in memory."""

    def __init__(self, name: str) -> None:
        self._name, self._start = name, b""
        self._stream: Any = None

    def write(self, chunk: bytes) -> Iterable[bytes]:
        """What the chunk unpacks to. DoorError."""
        if self._stream is None:
            chunk, self._start = self._start + chunk, self._start + chunk
            if len(chunk) < HEADER_BYTES:
                return
            self._stream = zlib.decompressobj(_window(self._name, chunk))
        while chunk:
            if self._stream.eof:
                raise DoorError(f"the body goes on after its end as {self._name}")
            try:
                piece = self._stream.decompress(chunk, MEGABYTE)
            except zlib.error as error:
                raise DoorError(f"the body is not {self._name}, as Content-Encoding states: {error}") from error
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def close(self) -> None:
        """Called at the body's end. DoorError if it is none of the stream."""
        if self._stream is None or not self._stream.eof:
            raise DoorError(f"the body breaks off: its {self._name} has no end")


def _window(name: str, start: bytes) -> int:
    """zlib's wbits. Some send deflate without zlib's header, which RFC 9110, 8.4.1.2 asks for; RFC 1950, 2.2: how it looks."""
    if name == "deflate":
        has_header = start[0] & 0x0F == 8 and int.from_bytes(start[:2]) % 31 == 0
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
    return zlib.MAX_WBITS | 16


def inflater(encodings: str) -> Plain | Inflater:
    """What unpacks a body of this Content-Encoding. DoorError 415 for one that is not taken."""
    names = [name.strip().lower() for name in encodings.split(",") if name.strip().lower() not in ("", "identity")]
    if not names:
        return Plain()
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise DoorError(f"Content-Encoding is {encodings[:40]!r}, expected gzip or deflate", 415)
    return Inflater(names[0])
