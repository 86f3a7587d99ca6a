"""One request over HTTP/1.1, to IP addresses that were checked, within bounds of bytes and time. No proxy is used."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from functools import cache
from typing import NamedTuple

from scripts.collection.web.addresses import Url
from scripts.predict.photo import UnreadError

PIECE = 64 * 1024
OK = 200
Check = Callable[[Message], None]  # sees the headers of a 200 before its body is read, and may raise UnreadError


class Answer(NamedTuple):
    """An answer; the body only of a 200."""

    status: int
    headers: Message
    body: bytes


@cache
def _tls() -> ssl.SSLContext:
    """The system's certificates, or SSL_CERT_FILE's."""
    return ssl.create_default_context()


class _Connection(http.client.HTTPConnection):
    """Connects to one of `addresses`, whatever the host's name stands for by now; TLS checks the name."""

    def __init__(self, url: Url, addresses: Sequence[str], timeout_s: float) -> None:
        super().__init__(url.host, url.port, timeout=timeout_s)
        self.default_port = 443 if url.scheme == "https" else 80  # the Host header leaves it out
        self._url, self._addresses, self.is_late = url, addresses, False
        self._line: socket.socket | None = None  # `sock` is given up once the head of an answer is there
        self._timer = threading.Timer(timeout_s, self._end)
        self._timer.daemon = True

    def connect(self) -> None:
        """See the base class."""
        self._timer.start()
        for address in self._addresses:
            try:
                self.sock = socket.create_connection((address, self._url.port), self.timeout)
                break
            except OSError:
                if address == self._addresses[-1] or self.is_late:
                    raise
        self._line = self.sock
        if self._url.scheme == "https":
            # known to the timer before a server can hold up the handshake
            self._line = self.sock = _tls().wrap_socket(self.sock, server_hostname=self._url.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    def _end(self) -> None:
        """A byte now and then never runs into a socket's own time-out."""
        self.is_late = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._line, socket.SHUT_RDWR)  # not TLS' own, under the thread that reads

    def end(self) -> None:
        """Close it, and stop its timer."""
        self._timer.cancel()
        self.close()


def ask(
    url: Url,
    addresses: Sequence[str],
    headers: Mapping[str, str],
    check: Check,
    most_bytes: int,
    timeout_s: float,
    form: str | None = None,
) -> Answer:
    """The answer to GET, or to POST of a `form`. UnreadError if there is none, or if it is too large or takes too long."""
    connection = _Connection(url, addresses, timeout_s)
    try:
        connection.request("POST" if form is not None else "GET", url.target, form, dict(headers))
        with connection.getresponse() as response:
            body = b""
            if response.status == OK:
                check(response.headers)
                body = _body(response, most_bytes)
            if connection.is_late:
                raise TimeoutError
            return Answer(response.status, response.headers, body)
    except UnreadError:
        if connection.is_late:  # what was cut off then is no fault of its own
            raise UnreadError(f"{url.host} took over {timeout_s:g} s", 504) from None
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.is_late or isinstance(error, TimeoutError):
            raise UnreadError(f"{url.host} took over {timeout_s:g} s", 504) from error
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise UnreadError(f"{url.host} cannot be asked: {reason}", 502) from error
    finally:
        connection.end()


def _body(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    too_large = UnreadError(f"the answer has over {most_bytes:,} bytes, the limit", 413)
    if response.length is not None and response.length > most_bytes:
        raise too_large
    body = bytearray()
    while piece := response.read(PIECE):
        body += piece
        if len(body) > most_bytes:
            raise too_large
    if response.length:  # read(n) of http.client does not say that the rest is missing
        raise UnreadError("the answer breaks off", 502)
    return bytes(body)
