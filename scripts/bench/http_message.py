"""HTTP/1.1 as bytes, for scripts/bench/load.py: requests built beforehand, answers parsed without a header object."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

BOUNDARY = b"seefood-bench-4f9c1d7a2e5b8063"


class Target(NamedTuple):
    """Where requests go: `url` is the whole address, with the path; `socket`: a Unix socket's path instead of host and port."""

    url: str
    host: str
    port: int
    tls: bool
    socket: str = ""

    @classmethod
    def of(cls, url: str, route: str = "/") -> "Target":
        """Target of a path on the server with an http:// or https:// address. ValueError for any other."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"URL is {url!r}, expected http://host:port")
        if parts.path.strip("/") or parts.query:
            raise ValueError(f"URL is {url!r}, expected a server's address, http://host:port; its path goes into ROUTE=/...")
        if not route.startswith("/"):
            raise ValueError(f"ROUTE is {route!r}, expected a path such as /predict")
        tls = parts.scheme == "https"
        return cls(f"{parts.scheme}://{parts.netloc}{route}", parts.hostname, parts.port or (443 if tls else 80), tls)

    @classmethod
    def at_socket(cls, path: str, route: str) -> "Target":
        """Target of a path on the server that listens on a Unix socket."""
        return cls(f"http://localhost{route}", "localhost", 80, False, path)


def build_request(target: Target, photo: bytes, media_type: str, form_field: str | None = None) -> bytes:
    """A whole POST request: the photo as the body, or as a file in a multipart form's field."""
    parts = urlsplit(target.url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    body = photo
    if form_field is not None:
        head = f'content-disposition: form-data; name="{form_field}"; filename="photo"\r\ncontent-type: {media_type}\r\n\r\n'
        body = b"--" + BOUNDARY + b"\r\n" + head.encode() + photo + b"\r\n--" + BOUNDARY + b"--\r\n"
        media_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    host = parts.netloc.rpartition("@")[2]
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes
    keep_alive: bool


_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[ \t]*(close|keep-alive)", re.IGNORECASE)


def parse_answer(received: bytes, ended: bool = False) -> Answer | None:
    """The answer that `received` holds, None while a part is missing; `ended`: no more will come. ValueError if it is not HTTP."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not received.startswith(b"HTTP/1."):
        raise ValueError(f"not an HTTP/1 answer: {received[:40]!r}")
    head, body, status = received[:end], received[end + 4 :], int(received[9:12])
    if 100 <= status < 200:
        return parse_answer(body, ended)
    connection = _CONNECTION.search(head)
    keep_alive = connection[1].lower() == b"keep-alive" if connection else received[7:8] != b"0"
    length = _LENGTH.search(head)
    if _CHUNKED.search(head):
        whole = _unchunk(body)
        return None if whole is None else Answer(status, whole, keep_alive)
    if length is None and status not in (204, 304):  # the connection's end is the answer's
        return Answer(status, body, False) if ended else None
    size = int(length[1]) if length else 0
    return Answer(status, body[:size], keep_alive and len(body) == size) if len(body) >= size else None


def _unchunk(body: bytes) -> bytes | None:
    at = 0
    chunks: list[bytes] = []
    while (line_end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line_end].partition(b";")[0], 16)
        start = line_end + 2
        if size == 0:  # trailers may follow, up to an empty line
            return b"".join(chunks) if body.find(b"\r\n\r\n", line_end) >= 0 else None
        if len(body) < start + size + 2:
            return None
        chunks.append(body[start : start + size])
        at = start + size + 2
    return None
