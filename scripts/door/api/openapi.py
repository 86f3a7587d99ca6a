"""GET /openapi.json, made from the table of operations and the models that are served. The page at /docs shows it."""

import json
from collections.abc import Mapping
from importlib.metadata import version as version_of
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scripts.door.api.operations import OPERATIONS, Operation
from scripts.door.api.schemas import TOP_K, answers, ref, takes
from scripts.door.api.statuses import STATUSES
from scripts.door.state import State

DESCRIPTION = """Photos in, classes out.

A photo comes as the body itself, in a form, or as base64 in JSON; bodies may be compressed by gzip or deflate. top_k may stand in \
the query, in the header x-top-k, in a field, in an instance or among its parameters; two different values are a 400. The open \
inference protocol also takes and answers tensors in binary (Inference-Header-Content-Length); its gRPC is not offered."""


def document(state: State, keys: bool = False, rates: bool = False) -> dict[str, Any]:
    """The description, OpenAPI 3.1. `keys`: API keys are needed; `rates`: there are rates."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, state, keys, rates)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "SeeFood", "version": version_of("seefood"), "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": answers()},
    }
    if keys:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        described["components"]["securitySchemes"] = schemes
    return described


def _described(operation: Operation, state: State, keys: bool, rates: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "parameters": _parameters(operation, state),
        "responses": _responses(operation, keys, rates),
    }
    if operation.takes:
        described["requestBody"] = {"required": True, "content": takes(operation.takes, reads_text(state))}
    if keys and not _is_open(operation):
        described["security"] = [{"bearer": []}, {"header": []}]
    return described


def reads_text(state: State) -> bool:
    """Whether a version that is served reads texts."""
    return any(state.reads_text(name, version) for name, model in state.models.items() for version in model["versions"])


def _is_open(operation: Operation) -> bool:
    """Whether it needs no key: health."""
    return bool(operation.not_ready) or operation.path == "/ping"


def _parameters(operation: Operation, state: State) -> list[dict[str, Any]]:
    names = sorted(state.ours)
    versions = sorted({version for name in names for version in state.models[name]["versions"]})
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **({"enum": values} if values else {})}}
        for name, values in (("model", names), ("version", versions))
        if f"{{{name}}}" in operation.path
    ]
    if operation.takes in ("photo", "instances"):
        found.append({"name": "top_k", "in": "query", "schema": TOP_K})
    return found


def _responses(operation: Operation, keys: bool, rates: bool) -> dict[str, Any]:
    content = {kind: {"schema": ref(operation.answer) if kind == "application/json" else {}} for kind in operation.answer_types}
    responses: dict[str, Any] = {"200": {"description": STATUSES[200], "content": content}}
    errors = set(operation.errors)
    if not _is_open(operation):
        errors |= ({401} if keys else set()) | ({429} if rates else set())
    for status in sorted(errors):
        responses[str(status)] = {"description": STATUSES[status], "content": {"application/json": {"schema": ref("Error")}}}
    if operation.not_ready:
        schema = {"schema": ref(operation.not_ready)}
        responses["503"] = {"description": "not so", "content": {"application/json": schema}}
    return responses


def api_routes(state: State, keys: bool = False, rates: bool = False) -> list[Route]:
    """GET /openapi.json."""

    served: Mapping[str, Any] | None = None
    written = b""

    async def openapi(request: Request) -> Response:
        nonlocal served, written
        # written once for the models that are served: whoever asks again and again shall not keep the door busy
        if served is not state.models:
            served, written = state.models, json.dumps(document(state, keys, rates)).encode()
        return Response(written, media_type="application/json")

    return [Route("/openapi.json", openapi)]
