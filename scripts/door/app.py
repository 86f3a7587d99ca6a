"""The door's ASGI application: routes, what is around them, and one JSON form for every error."""

import asyncio
import contextlib
import json
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scripts.backend.answer import Answer
from scripts.door.access.guard import Access, guarded
from scripts.door.access.refusal import refuse
from scripts.door.api.openapi import api_routes
from scripts.door.errors import DoorError, error_body
from scripts.door.feedback import PATH as FEEDBACK_PATH
from scripts.door.feedback import Feedback
from scripts.door.forms.body import Body
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.door.pages import page_routes
from scripts.door.predictions import Predictions
from scripts.door.protocols.open_inference import OpenInferenceErrors
from scripts.door.protocols.routes import protocol_routes
from scripts.door.state import State
from scripts.door.times import Times
from scripts.door.unverified import pass_through

if TYPE_CHECKING:
    from scripts.door.tracing.spans import Spans

PHOTO_PATHS, PHOTO_METHODS = ("{model}", "{model}/{version}"), ("POST", "PUT")
# of the worker's answer, the headers that a client gets
ANSWER_HEADERS = ("retry-after",)


def warn(message: str) -> None:
    """A line for whoever runs the server."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(f"warning: {message}", file=sys.stderr, flush=True)


class Door:
    """All that a request may need."""

    def __init__(
        self,
        predictions: Predictions,
        state: State,
        metrics: Metrics,
        log: AccessLog,
        access: Access | None = None,
        feedback: Feedback | None = None,
        spans: "Spans | None" = None,
    ) -> None:
        self.predictions, self.state, self.metrics, self.log, self.spans = predictions, state, metrics, log, spans
        self.access, self.feedback = access or Access(), feedback or Feedback(None)

    def application(self) -> ASGIApp:
        """The application with all its routes."""
        access = self.access
        prediction, heat_map = Photo(self.predictions, explain=False), Photo(self.predictions, explain=True)
        routes = [
            *(Route(f"/predictions/{path}", prediction, methods=PHOTO_METHODS) for path in PHOTO_PATHS),
            *(Route(f"/explanations/{path}", heat_map, methods=PHOTO_METHODS) for path in PHOTO_PATHS),
            Route(FEEDBACK_PATH, self.feedback.take, methods=["POST"]),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            *protocol_routes(self.predictions),
            *page_routes(),
            *api_routes(self.state, keys=access.key_file is not None, rates=bool(access.rates.per_address or access.rates.per_key)),
        ]
        app = Errors(Router(routes, redirect_slashes=False))
        return Around(guarded(OpenInferenceErrors(app), self.access, warn), self)

    async def livez(self, request: Request) -> Response:
        """GET /livez: whether serve's main loop runs."""
        live = self.state.is_live
        return _json({"live": live}, 200 if live else 503)

    async def readyz(self, request: Request) -> Response:
        """GET /readyz: whether the default version gives right answers, and answers move."""
        ready, status = self.state.readiness()
        return _json(status, 200 if ready else 503)


class Photo:
    """ASGI: POST /predictions/MODEL[/VERSION] or /explanations/MODEL[/VERSION].

    Without Starlette's Request and Response, which would take a tenth of the time that the door has for a photo.
    """

    def __init__(self, predictions: Predictions, explain: bool) -> None:
        self.predictions, self.explain = predictions, explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. DoorError, ClientDisconnect."""
        answer = await self._answer(scope, receive)
        body = answer.body
        if answer.status >= 400:
            error = json.loads(body)
            scope["state"]["error"], scope["state"]["error_kind"] = error["message"], error["type"]
            body = error_body(answer.status, error["type"], error["message"], scope["state"]["request_id"])
        headers = [
            (b"content-type", answer.headers.get("content-type", "application/json").encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
            *((name.encode(), answer.headers[name].encode("latin-1")) for name in ANSWER_HEADERS if name in answer.headers),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        # by itself: the photo goes with its frame, however slowly the client reads the answer
        predictions, path = self.predictions, scope["path_params"]
        model, version = path["model"], path.get("version")
        # before the body is read; named here for the log of a photo that gets no further
        chosen = scope["state"]["version"] = predictions.state.chosen(model, version)
        if predictions.state.described(model, chosen).get("unverified") and not self.explain:
            return await pass_through(predictions, scope, receive, model, version)
        with predictions.begin(scope, receive, model) as request:
            asked = await predictions.read(request, Body(scope))
            photo, text = asked.only_photo(), asked.texts[0]
            return await predictions.answer(request, model, version, photo, asked.top_k, self.explain, text=text)


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content) + "\n", status, media_type="application/json")


class Errors:
    """ASGI: what the routes raise becomes an answer, in the one form that all errors have."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Any other exception is raised again once it is answered, for the server's log."""
        scope["app"] = self  # so that Starlette raises what it cannot route
        try:
            await self.app(scope, receive, send)
        except DoorError as error:
            await refuse(error, scope, send)
        except HTTPException as error:
            await refuse(_not_routed(scope, error), scope, send)
        except ClientDisconnect:
            # nobody reads it; it is logged and counted as nginx does it
            await send({"type": "http.response.start", "status": 499, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        except Exception:
            await refuse(DoorError("the server failed; its log says why, by this id", 500, "InternalError"), scope, send)
            raise


def _not_routed(scope: Scope, error: HTTPException) -> DoorError:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        message = f"{scope['method']} is not possible here, expected {headers.get('allow', '')}"
        return DoorError(message, 405, "MethodError", headers=headers)
    message = f"there is no {scope['path'][:200]!r}, expected e.g. /predictions/MODEL"
    return DoorError(message, error.status_code, "NotFoundError", headers=headers)


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
                status, times.answered = message["status"], time.monotonic()
                message["headers"] += [(b"x-request-id", request_id.encode()), (b"server-timing", times.header().encode())]
                if "captured" in state and status < 400:
                    message["headers"] += door.feedback.headers(state["captured"], door.state.captured_s)
            else:
                sent += len(message.get("body", b""))
            await send(message)

        door = self.door
        door.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, count)
        except Exception as error:
            state["raised"] = (type(error).__name__, str(error), "".join(traceback.format_exception(error)))
            if not (status and door.log.enabled):
                raise  # uvicorn answers, or writes the traceback
        finally:
            door.metrics.in_flight.dec()
            times.end()
            # in the loop's next round, as the answer is sent at the end of this one
            asyncio.get_running_loop().call_soon(self._over, scope, status, sent, times)

    def _over(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        door = self.door
        # each by itself, the log last, for it has the trace's id: what fails in one takes nothing from the others
        for note in (door.metrics.answered, door.spans, door.log):
            if note is None:
                continue
            try:
                note(scope, status, sent, times)
            except Exception as error:
                warn(f"a request is not noted by {type(note).__name__}: {type(error).__name__}: {error}")
