"""What the door counts, beside the workers' own metrics: requests, bytes, what waits and what was refused."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from scripts.door.admission import Admission
from scripts.door.http.connections import Connections
from scripts.door.in_flight import BytesInFlight
from scripts.door.times import Times

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# a path that leads nowhere is a stranger's word: no label of its own
NO_ROUTE = "none"
PHOTO_METHODS = ("POST", "PUT")
NO_PHOTO = ("/feedback",)  # routes that take such a method, and no photo
SLOW = ("slow head", "slow body", "slow reader", "idle", "evicted")
# the "type" of a 503 by which too much at a time is refused: the door's, and the worker's two
SHED = ("BusyError", "PhotoError", "RequestError")
# by outcome, the "type" of its errors; without one: a good answer, or none at all
CAUSES = {"answered": ("",), "failed": ("", "InternalError", "ModelError", "UnavailableError"), "shed": SHED}


def outcome_of(method: str, status: int, kind: str) -> str:
    """What became of a photo, for the alarms: "answered"; "failed" by our fault; "shed", as too much came at a time; else "".

    Else is what clients do wrong, and whatever asks without a photo, health checks above all. `kind` is the error's "type";
    `status` is 0 where there was no answer at all.
    """
    if method not in PHOTO_METHODS:
        return "failed" if status == 500 else ""
    if status == 503 and kind in SHED:
        return "shed"
    if status == 0 or status >= 500:
        return "failed"
    return "answered" if status < 300 else ""


class _OfConnections(Collector):
    """Read where they are counted."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("seefood_door_connections", "connections that are open", value=len(self.connections.open))
        ended = CounterMetricFamily("seefood_door_ended_connections", "connections that the door ended", labels=["cause"])
        for cause in {*SLOW, *self.connections.ended}:  # shown as 0 before the first
            ended.add_metric([cause], self.connections.ended[cause])
        yield ended


class Metrics:
    """The door's own registry."""

    def __init__(self) -> None:
        self._models: Callable[[], Iterable[str]] = tuple
        disable_created_metrics()  # a series more for each, which nobody reads
        self.registry = CollectorRegistry()
        self.requests = Counter("seefood_door_requests", "requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "seefood_door_seconds",
            "seconds from a request's head to its answer",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.answer_seconds = Histogram(
            "seefood_door_answer_seconds",
            "seconds from the whole body of a request with photos to its answer",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.outcomes = Counter(
            "seefood_door_outcomes",
            "photos by what became of them, and the error's type",
            ["outcome", "cause"],
            registry=self.registry,
        )
        for outcome, causes in CAUSES.items():  # shown as 0 before the first, or increase() would not see it
            for cause in causes:
                self.outcomes.labels(outcome, cause)
        self.model_outcomes = Counter(
            "seefood_door_model_outcomes", "photos by model, and what became of them", ["model", "outcome"], registry=self.registry
        )
        self.model_seconds = Histogram(
            "seefood_door_model_answer_seconds",
            "seconds from the whole body of a request with photos to its answer, by model",
            ["model"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.received = Counter("seefood_door_received_bytes", "bytes of bodies", registry=self.registry)
        self.sent = Counter("seefood_door_sent_bytes", "bytes of answers", registry=self.registry)
        self.in_flight = Gauge("seefood_door_requests_in_flight", "requests that are being answered", registry=self.registry)
        self.retries = Counter("seefood_door_retries", "photos asked again after a worker ended", registry=self.registry)
        self.backend_errors = Counter(
            "seefood_door_backend_errors", "photos without an answer of the backend", registry=self.registry
        )

        self.lost_lines = Counter(
            "seefood_door_lost_log_lines", "lines of the access log that were not written", registry=self.registry
        )
        self.spans = Counter("seefood_door_spans", "spans of traces that were made", registry=self.registry)
        self.sent_spans = Counter("seefood_door_sent_spans", "spans that a collector has taken", registry=self.registry)

    def watch(self, admission: Admission) -> None:
        """Show what waits, and what runs, at a worker."""
        for name, text, value in (
            ("seefood_door_waiting_requests", "requests that wait for a place", lambda: admission.waiting),
            ("seefood_door_waiting_cpu_seconds", "CPU that they take, estimated", lambda: admission.waiting_cpu_s),
            ("seefood_door_running_requests", "requests that a worker has", lambda: admission.running),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def watch_models(self, models: Callable[[], Iterable[str]]) -> None:
        """Show each of these models' photos as 0 before the first."""
        self._models = models

    def watch_bytes(self, bodies: BytesInFlight) -> None:
        """Show how many bytes of bodies are held."""
        name, text = "seefood_door_bytes_in_flight", "bytes of bodies that are held"
        Gauge(name, text, registry=self.registry).set_function(lambda: bodies.held)

    def watch_connections(self, connections: Connections) -> None:
        """Show how many are open, and why others were ended: what took too long, gave way, found no room, or was refused."""
        self.registry.register(_OfConnections(connections))

    def answered(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        """One request that is over."""
        route = scope["route"].path if "route" in scope else NO_ROUTE
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(times.total_s)
        kind = scope["state"].get("error_kind", "")
        outcome = outcome_of("" if route in NO_PHOTO else scope["method"], status, kind)
        if outcome:
            self.outcomes.labels(outcome, kind).inc()
        # that of a model that is served: a stranger's word is refused before
        model = scope["state"].get("model")
        if outcome and model:
            self.model_outcomes.labels(model, outcome).inc()
        if times.answer_s is not None and outcome and outcome != "shed":  # that takes no time, and would hide what does
            self.answer_seconds.observe(times.answer_s)
            if model:
                self.model_seconds.labels(model).observe(times.answer_s)
        self.received.inc(times.received)
        self.sent.inc(sent)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        for model in self._models():
            for outcome in CAUSES:
                self.model_outcomes.labels(model, outcome)
        return generate_latest(self.registry)
