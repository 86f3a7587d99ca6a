"""TorchServe's management API for people and scripts on this machine, through the door: at PORT+1 on loopback.

Its calls are those of TorchServe 0.12, its answers, too. What a page of another site could send is refused (Host, Origin), and
archives are loaded by their names in the model store alone. Each request is built anew: what TorchServe reads is what was checked.
At /metrics are the door's own, for `serve`, which adds them to the others and has no token.
"""

import hmac
import json
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from scripts.door.errors import DoorError, error_body

# method and path -> the parameters that TorchServe reads
MODEL, VERSION = r"/models/([^/]{1,200})", r"/models/([^/]{1,200})/([^/]{1,100})"
SCALE = ("min_worker", "max_worker", "synchronous", "timeout")
CALLS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("GET", "/models"): ("limit", "next_page_token"),
    ("POST", "/models"): (
        *("url", "model_name", "handler", "runtime", "batch_size", "max_batch_delay", "response_timeout", "startup_timeout"),
        *("initial_workers", "synchronous"),
    ),
    ("GET", MODEL): ("customized",),
    ("GET", VERSION): ("customized",),
    ("PUT", MODEL): SCALE,
    ("PUT", VERSION): SCALE,
    ("DELETE", MODEL): ("synchronous", "timeout"),
    ("DELETE", VERSION): ("synchronous", "timeout"),
    ("PUT", VERSION + "/set-default"): (),
}
METRICS = "/metrics"
MAX_PARAMETERS = 100
ARCHIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}", re.ASCII)
HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class ManagementLimits:
    """What a request may be, and how long TorchServe may take."""

    token: str = ""  # needed as Authorization: Bearer TOKEN; empty: loopback is the protection, as it was
    body_bytes: int = 64 * 1024  # a registration as JSON has a few hundred
    timeout_s: float = 300.0  # a registration with synchronous=true loads the model before it is answered


class Management:
    """ASGI: the API at `port`, passed on to TorchServe's at `address`, http://host:port or unix:PATH; `metrics()` at /metrics."""

    def __init__(self, address: str, port: int, metrics: Callable[[], bytes], limits: ManagementLimits | None = None) -> None:
        self.metrics, self.limits = metrics, limits or ManagementLimits()
        self.hosts = {f"{host}:{port}" for host in HOSTS} | (set(HOSTS) if port == 80 else set())
        socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        self.client = httpx.AsyncClient(
            base_url="http://torchserve" if socket else address,
            transport=httpx.AsyncHTTPTransport(uds=socket, verify=False),  # it has no HTTPS, and reading certificates takes 20 ms
            timeout=self.limits.timeout_s,
            trust_env=False,
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self.client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        state = scope.setdefault("state", {})
        headers = {}
        if not state.get("request_id"):
            # nothing around it that gives ids
            state["request_id"] = headers["x-request-id"] = str(uuid.uuid4())
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except DoorError as error:
            body = error_body(error.status, error.kind, str(error), state["request_id"])
            response = Response(body, error.status, error.headers, "application/json")
        except ClientDisconnect:
            return
        response.headers.update(headers)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        self._check_sender(request)
        if request.scope["path"] == METRICS:
            _check_method(request, ("GET", "HEAD"))
            return Response(self.metrics(), media_type="text/plain")
        self._check_token(request)
        method, path, known = _call(request)
        parameters = _checked(await self._parameters(request), known)
        if (method, path) == ("POST", "/models"):
            _check_archive(parameters)
        return await self._ask(method, path, parameters, request.state.request_id)

    def _check_sender(self, request: Request) -> None:
        """DoorError unless a program on this machine sent it."""
        host = request.headers.get("host", "").lower()
        if host not in self.hosts:
            # a page of a site whose name was made to lead here has that name as its Host
            raise DoorError(f"the host is {host[:80]!r}, expected one of {', '.join(sorted(self.hosts))}", 421, "HostError")
        origin = request.headers.get("origin")
        foreign = origin is not None and origin.lower().removeprefix("http://") not in self.hosts
        if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise DoorError("pages of other sites may not manage models", 403, "OriginError")

    def _check_token(self, request: Request) -> None:
        """DoorError without the token, if one is set."""
        if self.limits.token:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.limits.token.encode()):
                challenge = {"www-authenticate": 'Bearer realm="management"'}
                raise DoorError("a token is needed: Authorization: Bearer TOKEN", 401, "UnauthorizedError", headers=challenge)

    async def _parameters(self, request: Request) -> list[tuple[str, str]]:
        """Those of the query, and of a body of JSON, which TorchServe reads for registrations."""
        try:
            found = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise DoorError(f"the query has over {MAX_PARAMETERS} parameters, the limit") from error
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.limits.body_bytes:
                raise DoorError(f"the body has over {self.limits.body_bytes:,} bytes, the limit", 413)
        if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            found += _members(body)
        elif body:
            raise DoorError("the body is not JSON: send the parameters in the query, or as application/json", 415)
        return found

    async def _ask(self, method: str, path: str, parameters: Mapping[str, str], request_id: str) -> Response:
        try:
            answer = await self.client.request(method, path, params=parameters)
        except httpx.TimeoutException as error:
            message = f"TorchServe did not answer within {self.limits.timeout_s:g} s"
            raise DoorError(message, 503, "UnavailableError", retry_after_s=2) from error
        except httpx.HTTPError as error:
            message = f"TorchServe did not answer: {error or type(error).__name__}"
            raise DoorError(message, 503, "UnavailableError", retry_after_s=2) from error
        if answer.is_error:
            return Response(_error(answer, request_id), answer.status_code, media_type="application/json")
        return Response(answer.content, answer.status_code, media_type="application/json")


def _call(request: Request) -> tuple[str, str, tuple[str, ...]]:
    """(method, path to ask TorchServe for, known parameters). DoorError for what its API does not have."""
    path = request.scope["path"]
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for (method, pattern), known in CALLS.items():
        match = re.fullmatch(pattern, path)
        if match and not {".", ".."} & set(match.groups()):
            last = "/set-default" if pattern.endswith("/set-default") else ""
            found[method] = ("".join(["/models", *(f"/{quote(part, safe='')}" for part in match.groups()), last]), known)
    if not found:
        raise DoorError(f"there is no {path[:200]!r}, expected e.g. /models or /models/MODEL/VERSION", 404, "NotFoundError")
    _check_method(request, found)
    return request.method, *found[request.method]


def _check_method(request: Request, methods: Collection[str]) -> None:
    if request.method not in methods:
        allowed = ", ".join(sorted(methods))
        raise DoorError(
            f"{request.method} is not possible here, expected {allowed}", 405, "MethodError", headers={"allow": allowed}
        )


def _members(body: bytes) -> list[tuple[str, str]]:
    """The members of a JSON object, as the query writes them."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise DoorError(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DoorError(f"the JSON is a {type(value).__name__}, expected an object")
    return [(name, _text(name, one)) for name, one in value.items() if one is not None]


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict | list):
        raise DoorError(f"{name[:40]} is a {type(value).__name__}, expected a string, a number or true or false")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(parameters: list[tuple[str, str]], known: tuple[str, ...]) -> dict[str, str]:
    """The parameters by name. DoorError for one that TorchServe does not have, or that is there twice."""
    for name, value in parameters:
        if name not in known:
            raise DoorError(f"the parameter {name[:40]!r} is not known, expected {', '.join(known) or 'none'}")
        if not value.isprintable():
            raise DoorError(f"{name} holds a control character")
    names = [name for name, _ in parameters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DoorError(f"given twice: {', '.join(twice)}")
    return dict(parameters)


def _check_archive(parameters: Mapping[str, str]) -> None:
    """DoorError unless `url` is the name of an archive or a folder in the model store."""
    url = parameters.get("url", "")
    if not url:
        raise DoorError("url is missing: the name of an archive in the model store, such as seefood-1.1.0.mar")
    if not ARCHIVE.fullmatch(url) or ".." in url:
        message = f"url is {url[:100]!r}, expected the name of an archive in the model store: no address, no path"
        raise DoorError(message, 403, "ForbiddenError")


def _error(answer: httpx.Response, request_id: str) -> bytes:
    """TorchServe's error in our form; netty's own is plain text."""
    try:
        content = answer.json()
        kind, message = str(content["type"]), str(content["message"])
    except (ValueError, KeyError, TypeError):
        kind, message = "TorchServeError", answer.text[:500]
    return error_body(answer.status_code, kind, message, request_id)
