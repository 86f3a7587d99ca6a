"""Drift and estimated accuracy of each version that is served, for Prometheus, from the rows that its workers keep."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from handler.locks import alone
from handler.recent import forget, has_worker, read
from handler.signals import PROFILE, Profile
from scripts.drift.statistics import LEAST, WINDOWS, Compared, compare, estimated_accuracy
from scripts.steps import Steps

CACHED_S = 5.0
FOLDER = "drift"  # below the server's
KEPT_VERSIONS = 8  # of those that are served no more: a rollback finds its last answers

Drift = dict[tuple[str, str, int], tuple[dict[str, Compared], float]]
"""(drift by signal, estimated accuracy) by (model, version, window). The model is "" where an older archive's worker names none."""


def start_anew(run_dir: Path) -> None:
    """An empty folder for the workers of a server that starts. OSError."""
    folder = run_dir / FOLDER
    if folder.is_symlink() or folder.is_file():
        folder.unlink()  # and nothing of what a link leads to
    elif folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir()


class DriftMetrics(Collector):
    """`seefood_drift` and `seefood_estimated_accuracy`, read from the workers' folder. Safe to read from threads."""

    def __init__(self, folder: Path, steps: Steps | None = None) -> None:
        """`steps` gets each reason for which a version's drift cannot be measured, once."""
        self.folder, self.steps = folder, steps
        self._problems: dict[str, str] = {}
        self._lock, self._read_at = threading.Lock(), -CACHED_S
        self._newest: Drift = {}

    def now(self) -> Drift:
        """Of versions whose workers run, for windows that hold LEAST answers; at most CACHED_S old."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHED_S:
                problems: dict[str, str] = {}
                self._newest, self._read_at = measured(self.folder, problems), time.monotonic()
                self._log(problems)
            return self._newest

    def _log(self, problems: dict[str, str]) -> None:
        for version, why in problems.items():
            if self.steps and self._problems.get(version) != why:
                self.steps("drift cannot be measured", version=version, why=why)
        self._problems = problems

    def collect(self) -> Iterable[Metric]:
        """Each metric once."""
        text = "-log10 of the p-value that the last answers differ from the reference profile by no more than a small effect"
        drift_family = GaugeMetricFamily("seefood_drift", text, labels=("model", "version", "signal", "window"))
        text = "mean calibrated top-1 probability; unsure answers beyond their usual share count as wrong"
        accuracy = GaugeMetricFamily("seefood_estimated_accuracy", text, labels=("model", "version", "window"))
        for (model, version, window), (signals, estimate) in self.now().items():
            for signal, compared in signals.items():
                drift_family.add_metric([model, version, signal, str(window)], compared.value)
            accuracy.add_metric([model, version, str(window)], estimate)
        yield drift_family
        yield accuracy


def measured(folder: Path, problems: dict[str, str] | None = None) -> Drift:
    """See DriftMetrics.now. Removes what is left of versions that were served long ago.

    Why a version that is served cannot be measured goes into `problems`.
    """
    found: Drift = {}
    ended, running = [], set()
    for written, path in _oldest_first(folder):  # of two that run as the same version the newer one counts
        version = path.name.removesuffix(f"_{PROFILE}")
        try:
            if has_worker(folder, version):
                running.add(_named(version))
                found |= _of_version(path, version)
            else:
                ended.append((written, version))
        except FileNotFoundError:
            pass  # removed or replaced just now, by a worker that starts
        except (OSError, ValueError) as error:
            if problems is not None:
                problems[version] = str(error)
    replaced = [one for one in ended if _named(one[1]) in running]  # by another archive with this version number
    for _, version in [*replaced, *[one for one in ended if one not in replaced][:-KEPT_VERSIONS]]:
        with contextlib.suppress(OSError), alone(folder, 0):
            if not has_worker(folder, version):  # none has started since
                forget(folder, version)
    return dict(sorted(found.items()))


def _oldest_first(folder: Path) -> list[tuple[float, Path]]:
    """(when it was written, path) of each profile."""
    found = []
    for path in folder.glob(f"*_{PROFILE}"):
        with contextlib.suppress(FileNotFoundError):  # removed just now
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def _named(version: str) -> tuple[str, str]:
    """(model, version) of the names that handler/recent.py lists."""
    parts = version.split("@")
    return (parts[0], parts[1]) if len(parts) > 1 else ("", version)


def _of_version(path: Path, version: str) -> Drift:
    """Of a version, as the worker names its files."""
    profile, rows = Profile.load(path), read(path.parent, version)
    if profile is None or len(rows) < LEAST:
        return {}
    model, number = _named(version)
    return {
        (model, number, window): (compare(profile, rows[-window:]), estimated_accuracy(profile, rows[-window:]))
        for window in WINDOWS
    }
