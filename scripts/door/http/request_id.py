"""The id of a request: the client's own if it is a sane one, or a new one. For the HTTP layer and the application."""

import os
import re
from collections.abc import Iterable

# RFC 9110's token, as long as it fits a line of a log
SANE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The value of `x-request-id` (names in lower case), or 32 new hexadecimal digits if there is none, several or a bad one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and SANE.fullmatch(given[0]):
        return given[0].decode("ascii")
    return os.urandom(16).hex()
