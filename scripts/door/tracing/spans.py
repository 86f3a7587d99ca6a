"""A request that is over -> its spans, by the semantic conventions for HTTP, and `seefood.*` for what they have no name for.

    POST /predictions/{model}              the request (server)
      body                                 until its body had come
      queue                                until it was a photo's turn
      POST /predictions/{model}/{version}  TorchServe's answer to a photo, its own queue included (client); once for each try
        decode, inference, explain         in the worker, where it says when they began (Server-Timing); explain: a heat map

They are made at the end, from times that are taken anyway: a request does not wait for its traces, and whatever a sampler wants to
see is there. No photo, no key, no query and no client's address is in them.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagate import extract, get_global_textmap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from prometheus_client import Counter
from starlette.types import Scope

from scripts.door.access.keys import HEALTH_PATHS
from scripts.door.log import MOST_PATH
from scripts.door.times import Step, Times
from scripts.door.tracing.exporter import close

Attributes = dict[str, str | int | bool]
CLOSE_S = 2.0  # for the last of them, when the server stops
METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
# the worker's metrics: milliseconds, when it began by the monotonic clock, and for how many photos; older archives have the first
WORKER = re.compile(r"(\w+);dur=(\d+(?:\.\d+)?)(?:;start=(\d+(?:\.\d+)?))?(?:;batch=(\d+))?")


class Spans:
    """Makes and sends them. `made` counts them."""

    def __init__(self, provider: TracerProvider, made: Counter) -> None:
        self._provider, self._made = provider, made
        self._tracer = provider.get_tracer("seefood.door")
        self._fields = {name.lower().encode(): name for name in get_global_textmap().fields}

    def __call__(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        """One request that is over. Nothing of health checks that went well. Leaves the trace's id in the scope, for the log."""
        if status == 200 and scope["path"] in HEALTH_PATHS:
            return
        request = _Request(self._tracer, scope, times, extract(self._carrier(scope)))
        request.span(status, sent)
        self._made.inc(request.made)

    def _carrier(self, scope: Scope) -> dict[str, list[str]]:
        """Of the headers, those that a trace comes with. One that comes twice is none (W3C Trace Context, 3.2)."""
        found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            if name in self._fields:
                found.setdefault(self._fields[name], []).append(value.decode("latin-1"))
        parents = found.get("traceparent", [])
        return found if len(parents) < 2 else {name: values for name, values in found.items() if name != "traceparent"}

    def close(self) -> None:
        """Send what waits, for at most CLOSE_S."""
        close(self._provider, CLOSE_S)


class _Request:
    """The spans of one request, under the client's if it has sent one."""

    def __init__(self, tracer: Any, scope: Scope, times: Times, parent: Context) -> None:
        self._tracer, self._scope, self._times, self._parent = tracer, scope, times, parent
        self._wall = time.time() - time.monotonic()
        self.made = 0

    def _start(self, name: str, began: float, parent: Context, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        span: Span = self._tracer.start_span(name, parent, kind, attributes, start_time=self._ns(began))
        self.made += span.is_recording()
        return span

    def _ns(self, monotonic: float) -> int:
        return int((monotonic + self._wall) * 1e9)

    def span(self, status: int, sent: int) -> None:
        """That of the whole request, and all within it."""
        scope, state, times = self._scope, self._scope["state"], self._times
        attributes = _request_attributes(scope, status, times.received, sent)
        method = attributes["http.request.method"] if attributes["http.request.method"] != "_OTHER" else "HTTP"
        name = f"{method} {attributes['http.route']}" if "http.route" in attributes else str(method)
        span = self._start(name, times.started, self._parent, attributes, SpanKind.SERVER)
        state["trace_id"] = f"{span.get_span_context().trace_id:032x}"
        ended = times.ended or time.monotonic()
        if span.is_recording():
            _record_error(span, state, status, self._ns(ended))
            inside = set_span_in_context(span, self._parent)
            if times.body_s:
                self._start("body", times.started, inside, {}).end(self._ns(times.started + times.body_s))
            for step in times.steps:
                self._step(step, inside)
        span.end(self._ns(ended))

    def _step(self, step: Step, parent: Context) -> None:
        attributes: Attributes = {} if step.number is None else {"seefood.photo": step.number}
        if step.name == "backend":
            self._backend(step, parent, attributes)
        else:
            self._start(step.name, step.began, parent, attributes).end(self._ns(step.ended))

    def _backend(self, step: Step, parent: Context, attributes: Attributes) -> None:
        kind = "explanations" if step.explain else "predictions"
        name = f"/{kind}/{{model}}/{{version}}"
        attributes |= {
            "http.request.method": "POST",
            "url.template": name,
            "peer.service": "torchserve",
            **_model(self._scope["state"]),
        }
        attributes |= {"http.response.status_code": step.status} if step.status else {}
        span = self._start(f"POST {name}", step.began, parent, attributes, SpanKind.CLIENT)
        if step.error or step.status >= 400:
            kind, words = step.error or (str(step.status), "")
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, words or None))
            if step.error:
                span.add_event("exception", {"exception.type": kind, "exception.message": words}, self._ns(step.ended))
        inside = set_span_in_context(span, parent)
        for part, began, ended, more in _worker_parts(step):
            self._start(part, began, inside, more).end(self._ns(ended))
        span.end(self._ns(step.ended))


def _request_attributes(scope: Scope, status: int, received: int, sent: int) -> Attributes:
    """What OpenTelemetry's conventions want of an HTTP server, and ours."""
    method, state = scope["method"], scope["state"]
    attributes: Attributes = {
        "http.request.method": method if method in METHODS else "_OTHER",
        "url.scheme": scope.get("scheme", "http"),
        "url.path": scope["path"][:MOST_PATH],
        "network.protocol.version": scope["http_version"],
        "http.request.body.size": received,
        "http.response.body.size": sent,
        "seefood.request_id": state["request_id"],
        **_model(state),
    }
    if "route" in scope:
        attributes["http.route"] = scope["route"].path
    if status:
        attributes["http.response.status_code"] = status
    return attributes


def _model(state: Mapping[str, Any]) -> Attributes:
    return {f"seefood.{name}": state[name] for name in ("model", "version") if name in state}


def _record_error(span: Span, state: Mapping[str, Any], status: int, at_ns: int) -> None:
    """Why there was no good answer. What clients do wrong is no error of a server's span, by the conventions."""
    kind, words, trace = state.get("raised", (state.get("error_kind", ""), state.get("error", ""), ""))
    if kind:
        event = {"exception.type": kind, "exception.message": words}
        span.add_event("exception", event | ({"exception.stacktrace": trace} if trace else {}), at_ns)
    if status == 0 or status >= 500:
        span.set_attribute("error.type", kind or str(status))
        span.set_status(Status(StatusCode.ERROR, words or None))


def _worker_parts(step: Step) -> list[tuple[str, float, float, Attributes]]:
    """(name, began, ended, attributes) of what the worker did within a call.

    An archive of an older release does not say when they began: then they are laid at the call's end, one after the other, with
    `seefood.start_estimated`.
    """
    parts: list[tuple[str, float, float, Attributes]] = []
    latest = step.ended
    for name, milliseconds, start, batch in reversed(WORKER.findall(step.timing)):
        seconds = float(milliseconds) / 1000
        more: Attributes = {"seefood.batch_size": int(batch)} if batch else {}
        began = float(start) if start else latest - seconds
        if not start or not step.began <= began <= step.ended:
            began, more = max(step.began, latest - seconds), more | {"seefood.start_estimated": True}
        latest = began
        parts.append((name, began, min(began + seconds, step.ended), more))
    return parts[::-1]
