"""An error that is answered before the application sees the request, in the form that all errors of the door have."""

from starlette.types import Scope, Send

from scripts.door.errors import DoorError, error_body


async def refuse(error: DoorError, scope: Scope, send: Send) -> None:
    """Answer the request with the error."""
    state = scope.setdefault("state", {})
    state["error"], state["error_kind"] = str(error), error.kind  # for the log and the metrics
    body = error_body(error.status, error.kind, str(error), state.get("request_id", ""))
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": lines})
    # the length is the same, and the body is not sent: RFC 9110, 9.3.2
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
