"""Drift and estimated accuracy of each version that is served, for Prometheus, from the rows that its workers keep."""

import contextlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from handler.recent import is_held, read
from handler.signals import PROFILE, Profile
from scripts.drift.statistics import LEAST, WINDOWS, drift, estimated_accuracy

CACHED_S = 5.0

Drift = dict[tuple[str, int], tuple[dict[str, float], float]]
"""(drift by signal, estimated accuracy) by (version, window)."""


class DriftMetrics(Collector):
    """`seefood_drift` and `seefood_estimated_accuracy`, read from the workers' folder. Safe to read from threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock, self._read_at = threading.Lock(), -CACHED_S
        self._newest: Drift = {}

    def now(self) -> Drift:
        """Of versions whose workers run, for windows that hold LEAST answers; at most CACHED_S old."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHED_S:
                self._newest, self._read_at = measured(self.folder), time.monotonic()
            return self._newest

    def collect(self) -> Iterable[Metric]:
        """Each metric once."""
        text = "-log10 of the p-value that the last answers differ from the reference profile by no more than a small effect"
        drift_family = GaugeMetricFamily("seefood_drift", text, labels=("version", "signal", "window"))
        text = "mean calibrated top-1 probability; unsure answers beyond their usual share count as wrong"
        accuracy = GaugeMetricFamily("seefood_estimated_accuracy", text, labels=("version", "window"))
        for (version, window), (signals, estimate) in self.now().items():
            for signal, value in signals.items():
                drift_family.add_metric([version, signal, str(window)], value)
            accuracy.add_metric([version, str(window)], estimate)
        yield drift_family
        yield accuracy


def measured(folder: Path) -> Drift:
    """See DriftMetrics.now."""
    found: Drift = {}
    for path in sorted(folder.glob(f"*_{PROFILE}")):
        version = path.name.removesuffix(f"_{PROFILE}")
        profile = None
        with contextlib.suppress(OSError, ValueError):  # TorchServe was started again, and its folder emptied
            if any(is_held(worker) for worker in folder.glob(f"{version}_*.recent")):
                profile = Profile.load(path)
        rows = read(folder, version) if profile else None
        if profile is None or rows is None or len(rows) < LEAST:
            continue
        for window in WINDOWS:
            last = rows[-window:]
            found[version, window] = drift(profile, last), estimated_accuracy(profile, last)
    return found
