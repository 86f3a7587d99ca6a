"""One address for all metrics: what the workers count (handler/metrics.py), then the instance, the door and TorchServe.

Runs on a thread of the server's process. Each worker counts in two files of its own. Those of ended workers are merged
into one file of each kind, so that hundreds of restarts leave no more than two.
"""

import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from scripts.backend.torchserve.management import new_client, url_of
from scripts.serving.drift import FOLDER, DriftMetrics
from scripts.serving.http_server import Answer, HttpServer
from scripts.settings import Settings
from scripts.steps import Steps

KINDS = ("counter", "histogram")
# stands where a worker's file has its process id, and no process has this one
ENDED = "0"
MERGE_EVERY_S = 30
# what a worker counts when something is done, not when it comes in
PROGRESS = ("seefood_requests_total", "seefood_decode_seconds_sum", "seefood_handle_seconds_sum")


def _read(path: Path) -> dict[str, tuple[float, float]]:
    """(value, time) of each series in a worker's file; none while the worker makes it, or if a full disk broke it."""
    try:
        return {key: (value, when) for key, value, when, _ in MmapedDict.read_all_values_from_file(path)}
    except (struct.error, RuntimeError, FileNotFoundError):
        return {}


def _write(path: Path, values: dict[str, tuple[float, float]]) -> None:
    # the whole size first: on a full disk that is an OSError, where the memory map would end this process by SIGBUS
    path.write_bytes(bytes(8 + sum(len(key.encode()) + 32 for key in values)))
    merged = MmapedDict(str(path))
    for key, (value, when) in values.items():
        merged.write_value(key, value, when)
    merged.close()


def _process_id(path: Path) -> str:
    return path.stem.split("_")[1]


def _version(key: str) -> str:
    return str(json.loads(key)[2].get("version", ""))


def merge_ended_workers(folder: Path, keep_versions: int = Settings.keep_metrics_of) -> None:
    """Add the counts of workers that have ended to the merged files, and remove theirs. OSError on a full disk."""
    files = [path for path in folder.glob("*_*.db") if _process_id(path) != ENDED]
    ended = [path for path in files if not psutil.pid_exists(int(_process_id(path)))]
    serving = {_version(key) for path in files if path not in ended for key in _read(path)}
    now = time.time()  # one for all, so that both kinds forget the same versions
    for kind in KINDS:
        paths = [path for path in ended if path.stem.startswith(kind)]
        if not paths:
            continue
        merged, part = folder / f"{kind}_{ENDED}.db", folder / f"{kind}.part"
        values = _read(merged)
        for path in paths:
            for key, (value, _) in _read(path).items():
                values[key] = (values.get(key, (0.0, 0.0))[0] + value, now)
        forgotten = _versions_to_forget(values, serving, keep_versions)
        # not scripts/atomic.py: these files do not outlive the server, and fsync of each would hold up a scrape
        _write(part, {key: value for key, value in values.items() if _version(key) not in forgotten})
        part.replace(merged)
        for path in paths:
            path.unlink()


def _versions_to_forget(values: dict[str, tuple[float, float]], serving: set[str], keep: int) -> set[str]:
    """All but the `keep` versions whose workers ended last; none that is still served."""
    ended_at: dict[str, float] = {}
    for key, (_, when) in values.items():
        version = _version(key)
        ended_at[version] = max(ended_at.get(version, 0.0), when)
    oldest_first = sorted((when, version) for version, when in ended_at.items() if version not in serving)
    return {version for _, version in oldest_first[: max(0, len(oldest_first) - keep)]}


def _nothing() -> dict[str, Any]:
    """The totals of a version of which nothing was counted."""
    return {"outcomes": {}, "seconds": {}, "answers": {"classes": {}, "unsure": 0.0, "probabilities": {}, "probability": 0.0}}


class WorkersCollector:
    """The metrics of all workers, running and ended, as prometheus_client's registry reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> list[Metric]:
        """Each metric once, summed over the workers."""
        # a file that a worker has just made is still empty, and merge() would fail on it
        files = [str(path) for path in sorted(self.folder.glob("*_*.db")) if _read(path)]
        return list(MultiProcessCollector.merge(files))


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
        self.door, self._door_client = door, new_client(self.settings.metrics_timeout_s)
        self.torchserve, self._client = url_of(torchserve), new_client(self.settings.metrics_timeout_s, torchserve)
        self.steps = steps or Steps(self.settings.log_json)
        self.registry = CollectorRegistry()
        self.registry.register(WorkersCollector(folder))
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
            merge_ended_workers(self.folder, self.settings.keep_metrics_of)

    def service_actions(self) -> None:
        """Called by socketserver twice a second, so files are merged even where nothing scrapes the metrics."""
        if time.monotonic() >= self._next_merge:
            self._next_merge = time.monotonic() + MERGE_EVERY_S
            try:
                self.merge()
            except OSError as error:  # a full disk: their files stay, and count, until there is room
                self.steps("metrics of ended workers cannot be merged", why=error)

    def progress(self, version: str) -> float:
        """Another number after each photo, request and batch that the version's workers have finished."""
        with self._lock:
            files = [_read(path) for path in self.folder.glob("*_*.db")]
        return sum(
            value
            for series in files
            for key, (value, _) in series.items()
            if json.loads(key)[1].startswith(PROGRESS) and _version(key) == version
        )

    def totals(self) -> dict[str, dict[str, Any]]:
        """What a rollout compares, for each version: requests by outcome, cumulative counts of batches by their seconds, answers.

        Answers: by top-1 class, all classes of the version; those that are unsure; cumulative counts by top-1 probability, and
        the sum of those probabilities. Beside them the drift, for `make drift`.
        """
        totals: dict[str, dict[str, Any]] = {}
        with self._lock:
            metrics = list(self.registry.collect())
        for metric in metrics:
            for sample in metric.samples:
                total = totals.setdefault(sample.labels.get("version", ""), _nothing())
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
        for (version, window), (signals, estimate) in self.drift.now().items():
            of_window = {"signals": {name: one._asdict() for name, one in signals.items()}, "estimated_accuracy": estimate}
            totals.setdefault(version, _nothing()).setdefault("drift", {})[str(window)] = of_window
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
