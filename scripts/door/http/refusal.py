"""What the HTTP layer answers itself: a status, and the API's JSON error."""

from http import HTTPStatus

from scripts.door.errors import error_body

Headers = list[tuple[bytes, bytes]]
PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Refusal(Exception):  # noqa: N818 - raised inside the layer, and always answered
    """A request that the layer answers itself, with `status`; the message says what was expected."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s

    def headers(self) -> Headers:
        """Those of this answer alone."""
        return [] if self.retry_after_s is None else [(b"retry-after", b"%d" % self.retry_after_s)]

    def body(self, id_of_request: str) -> bytes:
        """The error as the door writes all of them."""
        return error_body(self.status, "HttpError", str(self), id_of_request)


def status_line(status: int) -> bytes:
    """`HTTP/1.1 404 Not Found` and its end."""
    return f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode()


def refusal_bytes(refusal: Refusal, common: Headers, id_of_request: str, without_body: bool = False) -> bytes:
    """A whole answer after which the connection closes. `common`: headers of every answer, as the date."""
    body = refusal.body(id_of_request)
    headers = [
        *common,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", id_of_request.encode()),
        *refusal.headers(),
        (b"connection", b"close"),
    ]
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return status_line(refusal.status) + lines + b"\r\n" + (b"" if without_body else body)
