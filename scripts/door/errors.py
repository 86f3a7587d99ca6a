"""What the door answers when it cannot answer with a prediction: one JSON form for every status."""

import json
from collections.abc import Mapping
from typing import Any


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
