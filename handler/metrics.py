"""The worker's counters and histograms, for Prometheus.

TorchServe's own metrics cost a log line each, and its histograms' fixed buckets suit seconds. Where
PROMETHEUS_MULTIPROC_DIR names a folder (scripts/backend/torchserve/process.py sets it for TorchServe), each worker keeps its
metrics there in memory-mapped files, and scripts/serving/metrics.py exposes those of all workers; elsewhere, and if the disk is
full when the worker starts, they stay in memory.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, values

OUTCOMES = {200: "answered", 400: "bad_request", 413: "too_large", 415: "unsupported", 422: "unreadable", 503: "busy"}
# seconds: three steps a decade show a change of milliseconds, from a batch's bookkeeping to one that nearly timed out
TIME_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
PROBABILITY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def make_files(folder: Path, labels: int) -> bool:
    """Whether there is room for this worker's files in the folder; if so they are there, and their pages on the disk.

    prometheus_client makes them without pages, and on a full disk a write to a page without one ends the process (SIGBUS).
    """
    paths = [folder / f"{kind}_{os.getpid()}.db" for kind in ("counter", "histogram")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 64 * 1024 + 512 * labels)  # a series takes some 200 bytes
    except OSError:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return False
    return True


def outcome(status: int) -> str:
    """The outcome that an answer's HTTP status counts as: "failed" for a status that no photo can cause."""
    return OUTCOMES.get(status, "failed")


class Metrics:
    """The metrics of one worker: one object a process, as two would overwrite each other's files. Safe to call from threads.

    `version` is the archive's, `labels` are those of all classes: every series exists from the start, at 0, so that rates see
    the first event, and so that a full disk shows now and not as a bus error under a request.
    """

    def __init__(self, version: str, labels: Sequence[str]) -> None:
        # prometheus_client reads the variable too, when it is imported; a worker is better off without metrics than dead
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder and not make_files(Path(folder), len(labels)):
            values.ValueClass = values.MutexValue
        # not prometheus_client's global one, which refuses a second handler in the same process
        self.registry = CollectorRegistry()
        names = ("version",)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, meaning, names, registry=self.registry, buckets=buckets).labels(version)

        requests = Counter("seefood_requests_total", "Requests by outcome.", (*names, "outcome"), registry=self.registry)
        outcomes = (*OUTCOMES.values(), "explained", "failed")
        self._requests = {name: requests.labels(version, name) for name in outcomes}
        predictions = Counter("seefood_predictions_total", "Answers by top-1 label.", (*names, "label"), registry=self.registry)
        self._predictions = {label: predictions.labels(version, label) for label in labels}
        self._unsure = Counter("seefood_unsure_total", "Answers that are not sure.", names, registry=self.registry).labels(version)
        died = "Photos whose decoder died, hung or ran out of memory."
        deaths = Counter("seefood_decoder_deaths_total", died, names, registry=self.registry)
        self._deaths = deaths.labels(version)
        self._batch = histogram("seefood_batch_size", "Requests in a batch.", BATCH_BUCKETS)
        self._decode = histogram("seefood_decode_seconds", "Decoding and cropping one photo.", TIME_BUCKETS)
        self._inference = histogram("seefood_inference_seconds", "The network, one batch.", TIME_BUCKETS)
        self._handle = histogram("seefood_handle_seconds", "One batch in the worker, in total.", TIME_BUCKETS)
        self._top1 = histogram("seefood_top1_probability", "Probability of the top-1 class.", PROBABILITY_BUCKETS)

    def batch(self, size: int) -> None:
        """A batch of `size` requests came in."""
        self._batch.observe(size)

    def decoded(self, seconds: float) -> None:
        """One photo was decoded and cropped, or refused, in that time."""
        self._decode.observe(seconds)

    def decoder_died(self) -> None:
        """A decoder ended, hung or ran out of memory under a photo."""
        self._deaths.inc()

    def inferred(self, seconds: float) -> None:
        """The network took that long for one batch."""
        self._inference.observe(seconds)

    def handled(self, seconds: float) -> None:
        """One batch took that long in the worker."""
        self._handle.observe(seconds)

    def answered(self, label: str, probability: float, sure: bool) -> None:
        """One prediction went out, with this class first. KeyError for a label that is not among the archive's."""
        self._predictions[label].inc()
        self._requests["answered"].inc()
        self._top1.observe(probability)
        if not sure:
            self._unsure.inc()

    def refused(self, status: int) -> None:
        """One request was answered with this error status."""
        self._requests[outcome(status)].inc()

    def explained(self) -> None:
        """One heat map went out."""
        self._requests["explained"].inc()
