"""What is checked of a request's head (RFC 9110 and 9112), beyond what the parser refuses itself.

The parser (llhttp) refuses bad characters in names and values, a space before the colon, folded lines, bare LF, and
lengths that are twice there, no number, or beside a transfer coding.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from scripts.door.http.limits import Limits
from scripts.door.http.refusal import Headers, Refusal

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}"  # methods are shorter
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")  # a target has no fragment
WITHOUT_VERSION = re.compile(TOKEN + rb" [\x21-\x7e]+\r\n")  # HTTP/0.9
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~\-]{1,255})(?::([0-9]{0,5}))?")
ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[^?]*)?(\?.*)?", re.IGNORECASE)
BAD_ESCAPE = re.compile(rb"%(?:00|(?![0-9A-Fa-f]{2}))")
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
LONGEST_METHOD = 32


class RequestLine(NamedTuple):
    """A well-formed request line. `authority` is that of an absolute target, which counts instead of the Host field."""

    method: bytes
    path: bytes
    query: bytes
    authority: bytes | None
    minor: int  # of the version: 0 for HTTP/1.0
    length: int  # of the line with its end, in bytes

    def decoded_path(self) -> str:
        """The path with its escapes resolved."""
        path = self.path.decode("ascii")
        return unquote(path) if "%" in path else path


def check_partial(head: bytes, limits: Limits) -> None:
    """Refusal if what has come of a head can no longer become a good one."""
    line_end = head.find(b"\n") + 1
    if line_end:
        parse_request_line(head, limits)
    elif len(head) > LONGEST_METHOD + limits.target_bytes + len(b" HTTP/1.1\r\n"):
        raise _too_long(limits)
    elif head[:1] < b"!" or (len(head) > LONGEST_METHOD and b" " not in head[: LONGEST_METHOD + 1]):
        raise _malformed_line()
    if len(head) > limits.head_bytes:
        raise Refusal(431, f"the header fields are over {limits.head_bytes} bytes: send fewer or shorter ones")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise Refusal(400, "a line of the head ends in LF, expected CR LF")


def check_size(head: bytes, limits: Limits) -> None:
    """Refusal if a whole head is over a limit."""
    if len(head) > limits.head_bytes:
        raise Refusal(431, f"the header fields are over {limits.head_bytes} bytes: send fewer or shorter ones")
    fields = head.count(b"\r\n") - 2
    if fields > limits.head_lines:
        raise Refusal(431, f"the request has {fields} header fields, expected at most {limits.head_lines}")


def parse_request_line(head: bytes, limits: Limits) -> RequestLine:
    """The first line of a head. Refusal: 400 if malformed, 414 if too long, 501 for another method, 505 for another version."""
    found = REQUEST_LINE.match(head)
    if not found:
        raise _bad_line(head, limits)
    method, target, major, minor = found.groups()
    if major != b"1":
        raise _other_version()
    if len(target) > limits.target_bytes:
        raise _too_long(limits)
    if method not in METHODS:
        name = method[:LONGEST_METHOD].decode("ascii")
        raise Refusal(
            501, f"the method {name} is not implemented, expected one of {', '.join(sorted(m.decode() for m in METHODS))}"
        )
    return RequestLine(method, *_split_target(method, target), int(minor), found.end())


def _split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and authority of the origin form, the absolute form or, for OPTIONS, `*` (RFC 9112, 3.2). Refusal: 400."""
    authority = None
    if target[:1] == b"/":
        path, _, query = target.partition(b"?")
    elif target == b"*" and method == b"OPTIONS":
        return b"*", b"", None
    else:
        found = ABSOLUTE.fullmatch(target)
        if not found or not is_host(found[1]):
            raise Refusal(400, "the request target is malformed, expected a path as /predictions/NAME")
        whole_server = method == b"OPTIONS" and not found[2] and not found[3]
        authority, path, query = found[1], found[2] or (b"*" if whole_server else b"/"), (found[3] or b"?")[1:]
    if b"%" in path and BAD_ESCAPE.search(path):
        raise Refusal(400, "the path holds %00 or a % without two hexadecimal digits")
    return path, query, authority


def for_parser(head: bytes, line: RequestLine) -> bytes:
    """The head as the parser shall see it: without a wish to upgrade, which we may ignore (RFC 9110, section 7.8), and of 1.1.

    Java's client asks for h2c with its first request, body and all; the parser would leave the body alone.
    """
    if b"\r\nupgrade:" in head.lower():
        head = head[: line.length] + UPGRADE.sub(b"\r\nx-ignored-upgrade:", head[line.length - 2 :])[2:]
    if line.minor > 1:  # RFC 9110, section 2.5: a higher minor version is served as the highest that we have
        head = head[: line.length - 3] + b"1" + head[line.length - 2 :]
    return head


def check_fields(headers: Headers, is_http_1_0: bool) -> bool:
    """Whether the client waits for 100 Continue. Refusal for fields that this request must not have, or lacks."""
    hosts, expects = 0, False
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not is_host(value):
                raise Refusal(400, "the Host field is malformed, expected a name or an address, and a port")
        elif name == b"transfer-encoding":
            if is_http_1_0:
                raise Refusal(400, "a request of HTTP/1.0 has a transfer-encoding, expected a content-length")
            if value.lower() != b"chunked":
                raise Refusal(501, "the transfer-encoding is not implemented, expected chunked")
        elif name == b"expect" and not is_http_1_0:  # RFC 9110, section 10.1.1: from HTTP/1.0 it counts for nothing
            if value.lower() != b"100-continue":
                raise Refusal(417, "the expectation is unknown, expected 100-continue")
            expects = True
    if hosts > 1 or (not hosts and not is_http_1_0):
        raise Refusal(400, f"the request has {hosts} Host fields, expected one")
    return expects


def is_host(value: bytes) -> bool:
    """Whether this is a host, with or without a port."""
    found = HOST.fullmatch(value)
    return found is not None and int(found[1] or 0) <= 65535


def _bad_line(head: bytes, limits: Limits) -> Refusal:
    line = head[: head.find(b"\n") + 1]
    if len(line) > LONGEST_METHOD + limits.target_bytes:
        return _too_long(limits)
    return _other_version() if WITHOUT_VERSION.fullmatch(line) else _malformed_line()


def _malformed_line() -> Refusal:
    return Refusal(400, "the request line is malformed, expected METHOD /path HTTP/1.1, one space between them, and CR LF")


def _other_version() -> Refusal:
    return Refusal(505, "the version of HTTP is not served, expected HTTP/1.1 or HTTP/1.0")


def _too_long(limits: Limits) -> Refusal:
    return Refusal(414, f"the request target is too long, expected at most {limits.target_bytes} bytes")
