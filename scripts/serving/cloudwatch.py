"""The figures of an instance for CloudWatch: lines of the embedded metric format (EMF) each minute on standard output.

They are those that /metrics shows (metrics.py), read each SAMPLE_S; nothing is counted here again. Alarms and the dashboard of
scripts/ecs/templates follow them. There are no dimensions: each set of their values would be paid for as a metric of its own, so
that a deployment has len(METRICS) of them, however many tasks. The format: https://docs.aws.amazon.com/AmazonCloudWatch/latest/
monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from prometheus_client.metrics_core import Metric

from scripts.steps import Steps

# each of them with its unit, and with the statistic by which many tasks become one number
METRICS = {
    "Answered": "Count",  # photos in the minute. Sum
    "Failed": "Count",  # photos without an answer, by our fault. Sum
    "Shed": "Count",  # photos refused as too much came at a time. Sum
    "Seconds": "Seconds",  # that a photo takes once its body is here, a value for each; see MOST_PHOTOS. p50, p99
    "QueueSeconds": "Seconds",  # of CPU that wait, the minute's mean. Maximum
    "NotReady": "None",  # 1 if it had not been ready for NOT_READY_S, though it was not told to end; else 0. Maximum
    "Restarts": "Count",  # of a worker, TorchServe or the door. Sum
    "ReleaseLag": "Seconds",  # for how long the release was not served, or the status not written. Maximum
    "Unsure": "None",  # share of the last UNSURE_MINUTES' answers, of at least UNSURE_ANSWERS of one version. Maximum
    "Drift": "None",  # the largest of all signals. Maximum
    "EstimatedAccuracy": "None",  # the lowest of all versions. Minimum
    "FreeDisk": "Bytes",  # Minimum
}
SAMPLE_S = 10.0  # what is rarer than that is seen, and the last seconds before a stop are few
MOST_VALUES = 100  # of a metric in one line, by the format
# Of a minute, each with a value, so that a task weighs by what it answers: as many as one of two cores can answer. Values and their
# counts would take less room, and CloudWatch's own exporters write them, but the specification has arrays of numbers alone.
MOST_PHOTOS = 6000
NOT_READY_S = 60.0  # a start takes some 30 s, and a repair 40; as the alert SeefoodNotReady has it
UNSURE_MINUTES, UNSURE_ANSWERS = 2, 50  # as the alert SeefoodUnsure has it

Labels = tuple[tuple[str, str], ...]
Series = Mapping[str, Mapping[Labels, float]]  # the value of each series, by the name of its metric


def series_of(families: Iterable[Metric]) -> dict[str, dict[Labels, float]]:
    """All samples, by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def spread(buckets: Mapping[float, float], most: int = MOST_VALUES) -> list[float]:
    """Up to `most` values with the quantiles of a histogram, given as cumulative counts by upper bound; none without counts.

    Within a bucket values lie evenly, as Prometheus' histogram_quantile has it; what is above the last bound counts as that bound.
    """
    bounds = sorted(buckets)
    count = buckets[bounds[-1]] if bounds else 0
    size = min(int(count), most)
    found, index, lower, below = list[float](), 0, 0.0, 0.0
    for place in range(size):
        rank = (place + 0.5) / size * count
        while buckets[bounds[index]] < rank:
            lower, below, index = bounds[index], buckets[bounds[index]], index + 1
        upper = bounds[index]
        share = (rank - below) / (buckets[upper] - below)
        found.append(round(lower if math.isinf(upper) else lower + (upper - lower) * share, 4))
    return found


class Minute:
    """What the samples of a minute add up to."""

    def __init__(self) -> None:
        self.rises: dict[str, dict[Labels, float]] = {}  # of counters
        self.gauges: list[Series] = []
        self.ill_s: dict[str, float] = {}  # how long something had not been well, at most

    def add(self, series: Series, rises: Series) -> None:
        """One sample, and how far its counters have risen since the one before."""
        self.gauges.append(series)
        for name, by_labels in rises.items():
            total = self.rises.setdefault(name, {})
            for labels, value in by_labels.items():
                total[labels] = total.get(labels, 0.0) + value

    def risen(self, name: str, **labels: str) -> float:
        """How far a counter has risen, over all series with these labels."""
        return sum(value for of, value in self.rises.get(name, {}).items() if labels.items() <= dict(of).items())

    def by(self, name: str, *names: str) -> dict[str, float]:
        """The same for each value of a label, or for their values, with spaces between, of several."""
        found: dict[str, float] = {}
        for labels, value in self.rises.get(name, {}).items():
            key = " ".join(dict(labels).get(one, "") for one in names)
            found[key] = found.get(key, 0.0) + value
        return found

    def seen(self, name: str) -> list[float]:
        """The values that a gauge had, over all series and samples; what is no number is left out."""
        return [value for series in self.gauges for value in series.get(name, {}).values() if math.isfinite(value)]

    def last(self, name: str, **labels: str) -> list[float]:
        """A gauge's values, of series with these labels, in the last sample that has any."""
        found = next((series[name] for series in reversed(self.gauges) if name in series), {})
        return [value for of, value in found.items() if labels.items() <= dict(of).items() and math.isfinite(value)]


class CloudWatch:
    """Logs the step `metrics` each minute inside `with`; nothing without a namespace."""

    def __init__(self, families: Callable[[], Iterable[Metric]], namespace: str, steps: Steps) -> None:
        """`families()`: all that /metrics shows, but for TorchServe's; those of the door are missing while it does not answer."""
        self._families, self.namespace, self.steps = families, namespace, steps
        self._before: dict[str, dict[Labels, float]] = {}
        self._minute = Minute()
        self._began = time.time() // 60 * 60  # of the minute that is not logged yet
        self._unsure: deque[tuple[dict[str, float], dict[str, float]]] = deque(maxlen=UNSURE_MINUTES)
        self._ill_since: dict[str, float] = {}  # what is not well now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cloudwatch", daemon=True)

    def __enter__(self) -> Self:
        if self.namespace:
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self.namespace:
            self._stop.set()
            self._thread.join(SAMPLE_S)
            self.log()  # the door has ended: what came since its last sample is lost

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S - time.time() % SAMPLE_S):
            try:
                self.take(time.time())
            except Exception as error:  # this thread must not end: a metrics file may vanish while it is read
                self.steps("unexpected", why=f"{type(error).__name__}: {error}")

    def take(self, now: float) -> None:
        """One sample at `now`, seconds since 1970; the first of a minute completes the one before, which is logged."""
        series = series_of(self._families())
        self._minute.add(series, self._rises(series))
        self._follow(series, now)
        if now // 60 * 60 > self._began:
            self.log()
            self._began = now // 60 * 60

    def _rises(self, series: Series) -> dict[str, dict[Labels, float]]:
        """How far each counter has risen. One that is less than before was started again, from 0."""
        counters = {name: values for name, values in series.items() if _counts(name)}
        # The door's are started again, and go, together: whichever shows it. All others one by one: a version's workers' go when it
        # is forgotten, and those of other versions count on.
        of_door = [name for name in counters if name.startswith("seefood_door_")]
        before = ((counters[name], *one) for name in of_door for one in self._before.get(name, {}).items())
        if any(now.get(labels, 0.0) < value for now, labels, value in before):
            for name in of_door:
                del self._before[name]
        return {name: self._rise(name, values) for name, values in counters.items()}

    def _rise(self, name: str, values: Mapping[Labels, float]) -> dict[Labels, float]:
        before = self._before.setdefault(name, {})
        rise = {labels: value - before.get(labels, 0.0) for labels, value in values.items()}
        rise = {labels: values[labels] if by < 0 else by for labels, by in rise.items()}
        before.update(values)
        return rise

    def _follow(self, series: Series, now: float) -> None:
        """Note how long it has not been ready, and the release not served. One that was told to end is neither."""
        well = {
            "ready": _of(series, "ready"),
            "release": [*_of(series, "release_served"), *_of(series, "status_written")],
        }
        for what, values in well.items():
            if all(values) or _draining(series):
                self._ill_since.pop(what, None)
                seconds = 0.0
            else:
                seconds = now - self._ill_since.setdefault(what, now)
            self._minute.ill_s[what] = max(self._minute.ill_s.get(what, 0.0), seconds)

    def log(self) -> None:
        """Log what the samples since the last time add up to; nothing without one."""
        minute, self._minute = self._minute, Minute()
        if not minute.gauges:
            return
        figures = self._figures(minute)
        seconds = figures.get("Seconds", [])
        self._log(figures | ({"Seconds": seconds[:MOST_VALUES]} if seconds else {}))
        for start in range(MOST_VALUES, len(seconds), MOST_VALUES):
            self._log({"Seconds": seconds[start : start + MOST_VALUES]})

    def _log(self, figures: Mapping[str, Any]) -> None:
        metrics = [{"Name": name, "Unit": METRICS[name]} for name in figures]
        directive = {"Namespace": self.namespace, "Dimensions": [[]], "Metrics": metrics}
        self.steps("metrics", _aws={"Timestamp": int(self._began * 1000), "CloudWatchMetrics": [directive]}, **figures)

    def _figures(self, minute: Minute) -> dict[str, Any]:
        """The values of METRICS that are known."""
        outcomes = minute.by("seefood_door_outcomes_total", "outcome")
        buckets = {float(bound): count for bound, count in minute.by("seefood_door_answer_seconds_bucket", "le").items()}
        waiting, free = minute.seen("seefood_door_waiting_cpu_seconds"), minute.seen("seefood_instance_disk_free_bytes")
        # as the alert SeefoodDrift: what happens now, not over thousands of photos
        drift, accuracy = minute.last("seefood_drift", window="500"), minute.last("seefood_estimated_accuracy", window="500")
        figures: dict[str, Any] = {
            "Answered": int(outcomes.get("answered", 0)),
            "Failed": int(outcomes.get("failed", 0)),
            "Shed": int(outcomes.get("shed", 0)),
            "Seconds": spread(buckets, MOST_PHOTOS) or None,
            "QueueSeconds": sum(waiting) / len(waiting) if waiting else None,
            "NotReady": int(minute.ill_s["ready"] >= NOT_READY_S),
            "Restarts": int(minute.risen("seefood_instance_restarts_total")),
            "ReleaseLag": minute.ill_s["release"],
            "Unsure": self._unsure_share(minute),
            "Drift": max(drift, default=None),
            "EstimatedAccuracy": min(accuracy, default=None),
            "FreeDisk": min(free, default=None),
        }
        return {name: value for name, value in figures.items() if value is not None}

    def _unsure_share(self, minute: Minute) -> float | None:
        """The largest of all versions with enough answers; None if there is none."""
        of = ("model", "version")
        self._unsure.append((minute.by("seefood_unsure_total", *of), minute.by("seefood_top1_probability_count", *of)))
        shares = []
        for version in {version for _, answers in self._unsure for version in answers}:
            unsure, answers = (sum(one[index].get(version, 0.0) for one in self._unsure) for index in (0, 1))
            if answers >= UNSURE_ANSWERS:
                shares.append(unsure / answers)
        return max(shares, default=None)


def _counts(name: str) -> bool:
    return name.endswith(("_total", "_count", "_bucket"))


def _of(series: Series, name: str) -> Iterable[float]:
    return series.get(f"seefood_instance_{name}", {}).values()


def _draining(series: Series) -> bool:
    return series.get("seefood_instance_state", {}).get((("state", "draining"),), 0.0) == 1.0
