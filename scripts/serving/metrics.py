"""One address for all metrics: what the workers count (handler/metrics.py), then the instance, the door and TorchServe.

Runs on a thread of the server's process.
"""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from scripts.backend.torchserve.management import new_client, url_of
from scripts.serving.drift import FOLDER, DriftMetrics
from scripts.serving.http_server import Answer, HttpServer
from scripts.serving.worker_files import WorkerFiles
from scripts.settings import Settings
from scripts.steps import Steps

MERGE_EVERY_S = 30


def _nothing() -> dict[str, Any]:
    """The totals of a version of which nothing was counted."""
    return {"outcomes": {}, "seconds": {}, "answers": {"classes": {}, "unsure": 0.0, "probabilities": {}, "probability": 0.0}}


class MetricsServer(HttpServer):
    """Answers GET /metrics on `port` inside `with`; TorchServe's own metrics come from its address for them."""

    def __init__(
        self,
        folder: Path,
        port: int,
        torchserve: str,
        settings: Settings | None = None,
        steps: Steps | None = None,
        door: str = "",
    ) -> None:
        """Listen; the folder need not exist yet. OSError if the port is taken."""
        self.folder, self.settings = folder, settings or Settings()
        self.door, self._door_client = door, new_client(self.settings.metrics_timeout_s, door)
        self.torchserve, self._client = url_of(torchserve), new_client(self.settings.metrics_timeout_s, torchserve)
        self.steps = steps or Steps(self.settings.log_json)
        self.workers = WorkerFiles(folder, self.settings.keep_metrics_of)
        self.registry = CollectorRegistry()
        self.registry.register(self.workers)
        self.drift = DriftMetrics(folder.with_name(FOLDER), self.steps)
        self.of_instance = CollectorRegistry()  # apart, as a rollout compares what the other holds
        self.of_instance.register(self.drift)
        self._lock, self._next_merge = threading.Lock(), time.monotonic() + MERGE_EVERY_S
        super().__init__(self.settings.metrics_host, port, {"/metrics": self._metrics}, self.settings.http_timeout_s)

    def _metrics(self) -> Answer:
        return Answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.text())

    def merge(self) -> None:
        """Merge the files of ended workers. OSError on a full disk."""
        with self._lock:
            self.workers.merge()

    def service_actions(self) -> None:
        """Called by socketserver twice a second, so files are merged even where nothing scrapes the metrics."""
        with self._lock:
            self.workers.by_model()  # notes the model of each worker, which cannot be told once it has ended
        if time.monotonic() >= self._next_merge:
            self._next_merge = time.monotonic() + MERGE_EVERY_S
            try:
                self.merge()
            except OSError as error:  # a full disk: their files stay, and count, until there is room
                self.steps("metrics of ended workers cannot be merged", why=error)

    def progress(self) -> dict[tuple[str, str], float]:
        """By (model, version), another number after each photo, request and batch that its workers have finished."""
        with self._lock:
            return self.workers.progress()

    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What a rollout compares, by model and version: requests by outcome, batches by their seconds (cumulative), answers.

        Answers: by top-1 class, all classes of the version; those that are unsure; cumulative counts by top-1 probability, and
        the sum of those probabilities. Beside them the drift, for `make drift`. The model is "" where it is not known.
        """
        totals: dict[str, dict[str, dict[str, Any]]] = {}
        with self._lock:
            metrics = list(self.registry.collect())
        for metric in metrics:
            for sample in metric.samples:
                versions = totals.setdefault(sample.labels.get("model", ""), {})
                _count(versions.setdefault(sample.labels.get("version", ""), _nothing()), sample)
        for (model, version, window), (signals, estimate) in self.drift.now().items():
            of_window = {"signals": {name: one._asdict() for name, one in signals.items()}, "estimated_accuracy": estimate}
            for name, versions in totals.items():
                if version in versions and model in ("", name):
                    versions[version].setdefault("drift", {})[str(window)] = of_window
        return totals

    def families(self) -> list[Metric]:
        """The workers' metrics, the instance's and the door's; none of the door while it does not answer."""
        with self._lock:
            found = list(self.registry.collect())
        found += self.of_instance.collect()
        door = _asked(self._door_client, self.door, "the door") if self.door else b""
        return found + list(text_string_to_metric_families(door.decode()))

    def text(self) -> bytes:
        """The workers' metrics, the instance's, the door's and TorchServe's, in Prometheus' text format."""
        with self._lock:  # else a worker's counts could be read twice or not at all while they are merged
            ours = generate_latest(self.registry)
        ours += generate_latest(self.of_instance)
        door = _asked(self._door_client, self.door, "the door") if self.door else b""
        return ours + door + _asked(self._client, self.torchserve, "TorchServe")


def _count(total: dict[str, Any], sample: Sample) -> None:
    """Add a worker's sample to its version's totals."""
    if sample.name == "seefood_requests_total":
        total["outcomes"][sample.labels["outcome"]] = sample.value
    elif sample.name == "seefood_handle_seconds_bucket":
        total["seconds"][sample.labels["le"]] = sample.value
    elif sample.name == "seefood_predictions_total":
        total["answers"]["classes"][sample.labels["label"]] = sample.value
    elif sample.name == "seefood_unsure_total":
        total["answers"]["unsure"] = sample.value
    elif sample.name == "seefood_top1_probability_bucket":
        total["answers"]["probabilities"][sample.labels["le"]] = sample.value
    elif sample.name == "seefood_top1_probability_sum":
        total["answers"]["probability"] = sample.value


def _asked(client: httpx.Client, address: str, whose: str) -> bytes:
    """The metrics that another process shows, or a comment that says why there are none."""
    try:
        response = client.get(f"{address}/metrics")
        if response.is_success:
            return response.content
        reason = f"status {response.status_code}"
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
    # on one line, whatever the reason: a comment in this format ends with its line
    return f"# metrics of {whose} are missing: {' '.join(reason.split())}\n".encode()
