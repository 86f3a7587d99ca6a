"""The open inference protocol (KServe's second, Triton's) over HTTP: health, metadata, photos and texts as BYTES in JSON or binary.

Source: https://github.com/kserve/open-inference-protocol. Its gRPC is not offered, nor its optional extensions but
binary_tensor_data.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scripts.door.errors import DoorError
from scripts.door.predictions import Predictions
from scripts.door.protocols.several import answers
from scripts.door.protocols.tensors import HEADER, INPUT, OUTPUTS, TEXT, TensorBody, Wanted, packed

NAME = "seefood"


class OpenInference:
    """The protocol's paths."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.state = predictions, predictions.state

    def routes(self) -> list[Route]:
        """Its routes."""
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.model) for path in (model, version)),
            *(Route(f"{path}/ready", self.model_ready) for path in (model, version)),
            *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in (model, version)),
        ]

    async def server(self, request: Request) -> Response:
        """GET /v2: what this server is."""
        return JSONResponse({"name": NAME, "version": version_of(NAME), "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live."""
        live = self.state.is_live
        return JSONResponse({"live": live}, 200 if live else 503)

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready."""
        ready, content = self.state.readiness()
        return JSONResponse(content, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME[/versions/V]: versions, inputs and outputs; beyond the protocol, the labels as a parameter."""
        model, version = self._chosen(request)
        versions = (
            [request.path_params["version"]] if "version" in request.path_params else list(self.state.models[model]["versions"])
        )
        described = self.state.described(model, version)
        inputs = [INPUT, TEXT] if self.state.reads_text(model, version) else [INPUT]
        outputs = [{"name": name, "datatype": kind, "shape": _shape(name, -1, -1)} for name, (kind, _) in OUTPUTS.items()]
        return JSONResponse(
            {
                "name": model,
                "versions": versions,
                "platform": str(described.get("format", "")),
                "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in inputs],
                "outputs": outputs,
                "parameters": {"labels": described.get("labels", [])},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME[/versions/V]/ready."""
        model, version = self._chosen(request)
        ready, why = self.state.readiness(model)
        if not ready:
            raise DoorError(f"{model} {version} is not ready: {why.get('why')}", 503, "UnavailableError", retry_after_s=2)
        return JSONResponse({"name": model, "version": version, "ready": True})

    def _chosen(self, request: Request) -> tuple[str, str]:
        model = request.path_params["model"]
        return model, self.state.chosen(model, request.path_params.get("version"))

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME[/versions/V]/infer."""
        model, _ = self._chosen(request)
        body = TensorBody(request.scope)
        named = request.path_params.get("version")  # None is chosen when its turn comes: the default may have changed
        with self.predictions.begin(request.scope, request.receive, model) as in_flight:
            asked = await self.predictions.read(in_flight, body)
            found = await answers(self.predictions, in_flight, model, named, asked)
        return _response({"model_name": model, "model_version": found[0]["version"]}, body.wanted, found)


def _shape(name: str, photos: int, classes: int) -> list[int]:
    return [photos] if name == "sure" else [photos, classes]


def _values(name: str, found: Sequence[Mapping[str, Any]]) -> list[Any]:
    """An output's values, row after row."""
    if name == "sure":
        return [answer["sure"] for answer in found]
    return [prediction[name] for answer in found for prediction in answer["predictions"]]


def _response(head: Mapping[str, Any], wanted: Wanted, found: Sequence[Mapping[str, Any]]) -> Response:
    """The answer: the outputs in JSON, or their bytes after it."""
    outputs, binary = [], b""
    for name, in_binary in wanted.outputs.items():
        datatype, values = OUTPUTS[name][0], _values(name, found)
        output: dict[str, Any] = {
            "name": name,
            "datatype": datatype,
            "shape": _shape(name, len(found), len(found[0]["predictions"])),
        }
        if in_binary:
            content = packed(datatype, values)
            outputs.append(output | {"parameters": {"binary_data_size": len(content)}})
            binary += content
        else:
            outputs.append(output | {"data": values})
    content = json.dumps({**head, **({} if wanted.id is None else {"id": wanted.id}), "outputs": outputs}).encode()
    if any(wanted.outputs.values()):
        return Response(content + binary, headers={HEADER: str(len(content))}, media_type="application/octet-stream")
    return Response(content, media_type="application/json")


class OpenInferenceErrors:
    """ASGI: adds "error", where this protocol's clients look for the message, to the errors of its paths."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not (scope["path"] == "/v2" or scope["path"].startswith("/v2/")) or scope["method"] == "HEAD":
            await self.app(scope, receive, send)
            return
        start: Message | None = None

        async def add(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
            elif start is not None and message["type"] == "http.response.body":
                # an error's body is one message
                body = _with_error(message.get("body", b""))
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({**message, "body": body})
            else:
                await send(message)

        await self.app(scope, receive, add)


def _with_error(body: bytes) -> bytes:
    content = json.loads(body) if body.startswith(b"{") else None
    if not isinstance(content, dict) or "message" not in content:
        return body
    return (json.dumps({"error": content["message"], **content}, ensure_ascii=False) + "\n").encode(errors="replace")
