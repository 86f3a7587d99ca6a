"""Spans to a collector by OTLP over HTTP, from a thread of OpenTelemetry's own, with its defaults and its variables.

Its queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE, 2,048 spans), so a collector that is slow or away costs spans, and no request.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import Counter

NAME = "seefood"
SILENT_S = 300.0  # after a line about a collector that takes nothing
REASON_CHARACTERS = 200


class _Reasons(logging.Handler):
    """Keeps the last reason that OpenTelemetry logs: it would write several lines for each batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        message = record.getMessage()
        if "max retries" not in message:  # the tries before it had the reason
            self.last = message[:REASON_CHARACTERS]


class Watched(SpanExporter):
    """An exporter, of whose failures there is a line at the first, and one at their end; at most one pair in SILENT_S."""

    def __init__(self, exporter: SpanExporter, endpoint: str, warn: Callable[[str], object], sent: Counter) -> None:
        self._exporter, self._endpoint, self._warn, self._sent = exporter, endpoint, warn, sent
        self._reasons = _Reasons()
        self._lost, self._warned, self._silent_until = 0, False, 0.0
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [self._reasons], False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by the SDK's thread."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._sent.inc(len(spans))
            if self._warned:
                self._warn(f"spans are sent to {self._endpoint} again: at least {self._lost} were lost")
            self._lost, self._warned = 0, False
            return result
        self._lost += len(spans)
        if time.monotonic() > self._silent_until:
            self._silent_until, self._warned = time.monotonic() + SILENT_S, True
            self._warn(f"spans cannot be sent to {self._endpoint} and are lost: {self._reasons.last}: is a collector there?")
        return result

    def shutdown(self) -> None:
        """Called by the SDK."""
        self._exporter.shutdown()


def provider_to(endpoint: str, warn: Callable[[str], object], sent: Counter) -> TracerProvider:
    """What tracers come from. `endpoint` is for messages; the exporter reads it from the environment, as all else.

    ValueError for a variable that OpenTelemetry cannot read.
    """
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # its own default
        resource = resource.merge(Resource({SERVICE_NAME: NAME}))
    # it is closed in order, and in bounded time: `close`
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Watched(OTLPSpanExporter(), endpoint, warn, sent)))
    return provider


def close(provider: TracerProvider, limit_s: float) -> None:
    """Send what waits, for at most so long."""
    sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    sending.start()
    sending.join(limit_s)
