"""Content-Encoding: gzip and deflate, unpacked piece by piece."""

import zlib
from collections.abc import Iterable

from scripts.door.errors import DoorError
from scripts.door.forms.limits import MEGABYTE


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
        self._name, self._raw, self._begun = name, zlib.decompressobj(-zlib.MAX_WBITS), False
        # 32: zlib's header or gzip's, whichever is there
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def write(self, chunk: bytes) -> Iterable[bytes]:
        """What the chunk unpacks to. DoorError."""
        if self._stream.eof:
            raise DoorError(f"the body goes on after its end as {self._name}")
        while chunk:
            try:
                piece = self._stream.decompress(chunk, MEGABYTE)
            except zlib.error as error:
                if self._begun or self._name != "deflate":
                    raise DoorError(f"the body is not {self._name}, as Content-Encoding states: {error}") from error
                # some send deflate without zlib's header, which RFC 9110, 8.4.1.2 wants
                self._begun, self._stream = True, self._raw
                continue
            self._begun, chunk = True, self._stream.unconsumed_tail
            yield piece

    def close(self) -> None:
        """Called at the body's end. DoorError if it is none of the stream."""
        if not self._stream.eof:
            raise DoorError(f"the body breaks off: its {self._name} has no end")


def inflater(encodings: str) -> Plain | Inflater:
    """What unpacks a body of this Content-Encoding. DoorError 415 for one that is not taken."""
    names = [name.strip().lower() for name in encodings.split(",") if name.strip().lower() not in ("", "identity")]
    if not names:
        return Plain()
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise DoorError(f"Content-Encoding is {encodings[:40]!r}, expected gzip or deflate", 415)
    return Inflater(names[0])
