"""Where a chunked body ends in the bytes of a connection (RFC 9112, section 7.1), and bounds on what is no body in it.

The parser decodes the same bytes and checks the rest of the syntax. It does not report where a message ended, and the next
request must begin exactly there.
"""

import re

from scripts.door.http.limits import Limits
from scripts.door.http.refusal import Refusal

SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\r\n]*)?\r\n")


class ChunkScanner:
    """Follows one body over as many pieces as it arrives in."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._skip = 0  # bytes of the current chunk, and the line end behind it, that are still to come
        self._line = b""  # the start of a line that has not ended
        self._in_trailers = False
        self._body_bytes = 0
        self._line_bytes = 0
        self._trailer_bytes = 0

    def end(self, data: bytes) -> int | None:
        """How many of these bytes belong to the body, or None if all do and it goes on. Refusal: 400, malformed or over a limit."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            stop = data.find(b"\n", at) + 1
            self._line += data[at:stop] if stop else data[at:]
            self._check_line()
            if not stop:
                return None
            at = stop
            line, self._line = self._line, b""
            if self._take(line):
                return at
        return None

    def _check_line(self) -> None:
        limit = self.limits.trailer_bytes - self._trailer_bytes if self._in_trailers else self.limits.chunk_line_bytes
        if len(self._line) > limit:
            what = "trailers are" if self._in_trailers else "chunk's line is"
            raise Refusal(400, f"the {what} too long, expected at most {limit} bytes: send no trailers and no chunk extensions")

    def _take(self, line: bytes) -> bool:
        """Whether this line is the last of the body."""
        if self._in_trailers:
            self._trailer_bytes += len(line)
            return line == b"\r\n"
        size = SIZE.fullmatch(line)
        if not size:
            raise Refusal(400, "a chunk of the body does not begin with its size in hexadecimal digits")
        length = int(size[1], 16)
        self._in_trailers = length == 0
        self._skip = length + 2 if length else 0
        self._body_bytes += length
        self._line_bytes += len(line) + 2
        if self._line_bytes > self.limits.chunk_overhead_bytes + self._body_bytes // 8:
            raise Refusal(400, "the chunks of the body are too small: send chunks of at least 64 bytes, or a content-length")
        return False
