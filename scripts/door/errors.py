"""What the door answers when it cannot answer with a prediction: one JSON form for every status."""

import json
from collections.abc import Mapping
from typing import Any

# RFC 9110, 15; 499 is nginx's, for a client that has gone, and never sent
PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class DoorError(Exception):
    """A request that is answered with an error.

    `status` is HTTP's; `kind` the "type" of its JSON; `retry_after_s`: later the same request may be answered.
    """

    def __init__(
        self, message: str, status: int = 400, kind: str = "RequestError", retry_after_s: float = 0, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind
        self.headers = dict(headers)
        if retry_after_s:
            self.headers["retry-after"] = str(max(1, round(retry_after_s)))


def error_body(status: int, kind: str, message: str, request_id: str, more: Mapping[str, Any] = {}) -> bytes:
    """The JSON of an error: {"code", "type", "message", "request_id"}."""
    body = {"code": status, "type": kind, "message": message, "request_id": request_id, **more}
    return (json.dumps(body, ensure_ascii=False) + "\n").encode(errors="replace")
