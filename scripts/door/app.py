"""The door's ASGI application: routes, what is around them, and one JSON form for every error."""

import json
import sys
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scripts.backend.answer import Answer
from scripts.door.access.guard import Access, guarded
from scripts.door.api.openapi import api_routes
from scripts.door.errors import DoorError, error_body
from scripts.door.forms.body import Body
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.door.predictions import Predictions
from scripts.door.protocols.open_inference import OpenInferenceErrors
from scripts.door.protocols.routes import protocol_routes
from scripts.door.state import State
from scripts.door.times import Times

# of the worker's answer, the headers that a client gets
ANSWER_HEADERS = ("retry-after",)


class Door:
    """All that a request may need."""

    def __init__(
        self, predictions: Predictions, state: State, metrics: Metrics, log: AccessLog, access: Access | None = None
    ) -> None:
        self.predictions, self.state, self.metrics, self.log = predictions, state, metrics, log
        self.access = access or Access()

    def warn(self, message: str) -> None:
        """A line for whoever runs the server."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def application(self) -> ASGIApp:
        """The application with all its routes."""
        access = self.access
        routes = [
            Route("/predictions/{model}", self.predict, methods=["POST", "PUT"]),
            Route("/predictions/{model}/{version}", self.predict, methods=["POST", "PUT"]),
            Route("/explanations/{model}", self.explain, methods=["POST", "PUT"]),
            Route("/explanations/{model}/{version}", self.explain, methods=["POST", "PUT"]),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            *protocol_routes(self.predictions),
            *api_routes(self.state, keys=access.key_file is not None, rates=bool(access.rates.per_address or access.rates.per_key)),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={
                DoorError: _refused,
                HTTPException: _not_routed,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )
        app.router.redirect_slashes = False
        return Around(guarded(OpenInferenceErrors(app), self.access, self.warn), self)

    async def predict(self, request: Request) -> Response:
        """POST /predictions/MODEL[/VERSION]."""
        return await self._photo(request, explain=False)

    async def explain(self, request: Request) -> Response:
        """POST /explanations/MODEL[/VERSION]."""
        return await self._photo(request, explain=True)

    async def _photo(self, request: Request, explain: bool) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version")
        self.state.chosen(model, version)  # before the body is read
        async with self.predictions.read(request, Body(request.headers, request.query_params)) as asked:
            answer = await self.predictions.answer(request, model, version, asked.only_photo(), asked.top_k, explain)
        return response_of(request, answer)

    async def livez(self, request: Request) -> Response:
        """GET /livez: whether serve's main loop runs."""
        live = self.state.is_live
        return _json({"live": live}, 200 if live else 503)

    async def readyz(self, request: Request) -> Response:
        """GET /readyz: whether the default version gives right answers, and answers move."""
        ready, status = self.state.readiness()
        return _json(status, 200 if ready else 503)


def response_of(request: Request, answer: Answer) -> Response:
    """The worker's answer as the client gets it: an error of the worker with the request's id."""
    headers = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
    headers["content-type"] = answer.headers.get("content-type", "application/json")
    body = answer.body
    if answer.status >= 400:
        error = json.loads(body)
        request.state.error_kind = error["type"]
        body = error_body(answer.status, error["type"], error["message"], request.state.request_id)
    return Response(body, answer.status, headers)


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content) + "\n", status, media_type="application/json")


def _error(request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request.state.error, request.state.error_kind = message, kind
    return Response(error_body(status, kind, message, request.state.request_id), status, headers, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, DoorError)
    return _error(request, error.status, error.kind, str(error), error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", "")
        return _error(request, 405, "MethodError", f"{request.method} is not possible here, expected {allowed}", headers)
    return _error(
        request,
        error.status_code,
        "NotFoundError",
        f"there is no {request.url.path[:200]!r}, expected e.g. /predictions/MODEL",
        headers,
    )


async def _failed(request: Request, error: Exception) -> Response:
    # the traceback goes to the server's log
    return _error(request, 500, "InternalError", "the server failed; its log says why, by this id")


async def _gone(request: Request, error: Exception) -> Response:
    # nobody reads it; it is logged and counted as nginx does it
    return Response(status_code=499)


class Around:
    """What is around each request: its id, its times, its line in the log, and an answer whatever fails."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        times = state["times"] = Times()
        request_id = state["request_id"]
        status = sent = 0

        async def count(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(b"x-request-id", request_id.encode()), (b"server-timing", times.header().encode())]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        door = self.door
        door.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, count)
        finally:
            door.metrics.in_flight.dec()
            door.metrics.answered(scope, status, sent, times)
            door.log(scope, status, sent, times)
