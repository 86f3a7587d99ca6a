"""A request to a model whose archive is not ours: its body is passed through as it is, within the limits of size and time."""

from starlette.types import Receive, Scope

from scripts.backend.answer import Answer
from scripts.door.errors import DoorError
from scripts.door.forms.body import FRAMING
from scripts.door.predictions import Predictions

MAX_BYTES = 20 * 1024 * 1024  # config.properties: max_request_size
DEFAULT_TYPE = b"application/octet-stream"
TYPE_BYTES = 1024  # of a content type; TorchServe refuses heads of over 8 kB


class RawBody:
    """Takes a body chunk by chunk, whatever it is. DoorError from each call."""

    is_packed = False

    def __init__(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if not any(name in headers for name in FRAMING):
            raise DoorError("the request has no body: send it with a content-length, or in chunks", 411)
        self.content_type: bytes = headers.get(b"content-type", DEFAULT_TYPE)
        if len(self.content_type) > TYPE_BYTES:
            raise DoorError(f"the content-type has {len(self.content_type):,} bytes, the limit is {TYPE_BYTES:,}", 431)
        self._whole = bytearray()

    @property
    def size(self) -> int:
        """How many bytes there are so far."""
        return len(self._whole)

    def write(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        self._whole += chunk
        if len(self._whole) > MAX_BYTES:
            raise DoorError(f"the body has over {MAX_BYTES:,} bytes, the limit", 413)

    def close(self) -> bytes:
        """All of it."""
        return bytes(self._whole)


async def pass_through(predictions: Predictions, scope: Scope, receive: Receive, model: str, version: str | None) -> Answer:
    """The worker's answer, whatever it is, if it is no error. DoorError, ClientDisconnect."""
    with predictions.begin(scope, receive, model) as request:
        body = RawBody(scope)
        content = await predictions.read(request, body)
        answer = await predictions.answer(request, model, version, content, None, content_type=body.content_type)
    if answer.status >= 400:
        raise DoorError(
            f"the model refuses the request: {answer.body[:200].decode(errors='replace')}", answer.status, "RequestError"
        )
    return answer
