"""What the door counts, beside the workers' own metrics: requests, bytes, what waits and what was refused."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.types import Scope

from scripts.door.admission import Admission
from scripts.door.times import Times

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# a path that leads nowhere is a stranger's word: no label of its own
NO_ROUTE = "none"


class Metrics:
    """The door's own registry."""

    def __init__(self) -> None:
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
        self._labelled: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch(self, admission: Admission) -> None:
        """Show what waits, and what runs, at a worker."""
        for name, text, value in (
            ("seefood_door_waiting_requests", "requests that wait for a place", lambda: admission.waiting),
            ("seefood_door_waiting_cpu_seconds", "CPU that they take, estimated", lambda: admission.waiting_cpu_s),
            ("seefood_door_running_requests", "requests that a worker has", lambda: admission.running),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def answered(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        """One request that is over."""
        route = scope["route"].path if "route" in scope else NO_ROUTE
        requests, seconds = self._of(route, status)
        requests.inc()
        seconds.observe(times.total_s)
        self.received.inc(times.received)
        self.sent.inc(sent)

    def _of(self, route: str, status: int) -> tuple[Counter, Histogram]:
        """The counter and the histogram of a route and a status."""
        if (route, status) not in self._labelled:
            self._labelled[route, status] = self.requests.labels(route, str(status)), self.seconds.labels(route)
        return self._labelled[route, status]

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
