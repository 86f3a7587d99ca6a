"""A collector of traces: OTLP over HTTP, as a real one takes it, with whatever answer a test wants."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from tests.waiting import until


class Collector(ThreadingHTTPServer):
    """Keeps what it gets. `status` is its answer; `before_answer` is called first."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.status = 200
        self.before_answer: Callable[[], object] = lambda: None
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, _, asked in list(self.requests)
            for kind in asked.resource_spans
            for scope in kind.scope_spans
            for span in scope.spans
        ]

    def trace(self, name: str, value: str) -> dict[str, Any]:
        """The spans, by name, of the trace of the request whose span has this attribute; waits until it is there."""

        def found():
            return [span for span in self.spans if attributes(span).get(name) == value]

        (request,) = until(found)
        inside = {request.span_id}
        spans = [request]
        for _ in range(2):  # a request's, and a call's
            more = [span for span in self.spans if span.parent_span_id in inside and span not in spans]
            spans += more
            inside |= {span.span_id for span in more}
        return {span.name: span for span in spans}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.before_answer()
        if self.server.status == 200:
            self.server.requests.append((self.path, dict(self.headers), ExportTraceServiceRequest.FromString(body)))
        answer = ExportTraceServiceResponse().SerializeToString()
        with contextlib.suppress(OSError):  # it did not wait
            self.send_response(self.server.status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    with Collector(port) as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def attributes(span: Any) -> dict[str, Any]:
    """A span's or an event's."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
