"""CORS: which web pages of other origins may call the door from a browser. Starlette's, with errors in our form."""

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from scripts.door.access.refusal import refuse
from scripts.door.errors import DoorError

METHODS = ("GET", "HEAD", "POST", "PUT")
# what clients of any of the protocols send, beyond what browsers allow by themselves
REQUEST_HEADERS = (
    *("authorization", "content-encoding", "inference-header-content-length", "traceparent", "tracestate"),
    *("x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-target-model", "x-api-key", "x-request-id", "x-top-k"),
)
ANSWER_HEADERS = (
    *("inference-header-content-length", "retry-after", "seefood-captured", "seefood-captured-s", "server-timing", "x-request-id"),
)
MAX_AGE_S = 600  # a browser asks again after so long
ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?")


def checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """The origins. ValueError for what a browser never sends as one."""
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"the origin is {origin!r}, expected * or scheme://host[:port] in lower case, as https://app.example.org"
            )
    return tuple(origins)


class Cors(CORSMiddleware):
    """ASGI: answers preflight requests, and marks the answers that pages of these origins may read."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=checked_origins(origins),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
            max_age=MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        except DoorError as error:
            await refuse(error, scope, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's, where it allows the request. DoorError 403 where not."""
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            asked = {name: request_headers.get(f"access-control-request-{name}", "") for name in ("method", "headers")}
            message = (
                f"a page of {request_headers['origin'][:100]!r} may not send {asked['method'][:20]} with {asked['headers'][:200]!r}"
            )
            raise DoorError(message, 403, "OriginError", headers={"vary": response.headers["vary"]})
        return response
