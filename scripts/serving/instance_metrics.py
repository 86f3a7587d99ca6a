"""What an instance says of itself, for Prometheus: ready, its state and versions, restarts, the disk, CPU and memory by part.

Read at each scrape from where it is kept anyway; only the CPU of processes that have ended is added up here.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from scripts.backend.torchserve.front_end import MAIN
from scripts.serving.door import MODULE as DOOR
from scripts.serving.door import Door
from scripts.serving.instance import STATES, Instance
from scripts.serving.supervisor import Supervisor

# a word of the command line of the process that heads a part: the JVM belongs to TorchServe, decoders to their worker
HEADS = {"model_service_worker": "worker", DOOR: "door", MAIN: "torchserve"}


class InstanceMetrics(Collector):
    """The `seefood_instance_...` metrics. Safe to read from threads."""

    def __init__(self, instance: Instance, supervisor: Supervisor, door: Door) -> None:
        self.instance, self.supervisor, self.door = instance, supervisor, door
        self.processes = Processes(psutil.Process())
        self.began = time.time()

    def collect(self) -> Iterable[Metric]:
        """Each metric once."""
        yield _gauge("ready", "whether /readyz says so", self.instance.health.readiness()[0])
        yield _gauge("start_time_seconds", "when the server was started, since 1970", self.began)
        now = self.instance.state
        states = {state: float(state == now) for state in STATES}
        yield _family(GaugeMetricFamily, "state", "1 for the state that it is in", ("state",), _each(states))
        yield from self._versions()
        workers = sum(sum(one.worker_restarts.copy().values()) for one in self.instance.health.models.values())
        restarts = {"worker": workers, "torchserve": max(0, self.supervisor.restarts), "door": self.door.restarts}
        text = "times that a part was started again, as it had ended or hung"
        yield _family(CounterMetricFamily, "restarts", text, ("part",), _each(restarts))
        yield from self._disk(self.instance.run_dir)
        cpu_s, memory = self.processes.read()
        yield _family(CounterMetricFamily, "cpu_seconds", "CPU that a part's processes took", ("part",), _each(cpu_s))
        text = "resident memory of a part's processes; what they share counts in each"
        yield _family(GaugeMetricFamily, "memory_bytes", text, ("part",), _each(memory))

    def _versions(self) -> Iterable[Metric]:
        instance = self.instance
        yield _gauge("release_served", "whether all that the release document says is served, without a problem", served(instance))
        models = list(instance.models.copy().values())
        loaded = {
            (model.name, version, str(version == model.default).lower()): 1.0 for model in models for version in model.loaded.copy()
        }
        names = ("model", "version", "default")
        yield _family(GaugeMetricFamily, "version", "1 for each version that is loaded", names, loaded)
        asked_for = {(model.name, model.wanted): 1.0 for model in instance.released if model.wanted}
        text = "1 for the version that shall be the default"
        yield _family(GaugeMetricFamily, "wanted_version", text, ("model", "version"), asked_for)

    def _disk(self, folder: Path) -> Iterable[Metric]:
        with contextlib.suppress(OSError):  # a disk that is gone shows as metrics that are missing
            disk = shutil.disk_usage(folder)
            yield _gauge("disk_free_bytes", "room on the disk that the server writes to", disk.free)
            yield _gauge("disk_size_bytes", "size of that disk", disk.total)
        yield _gauge("disk_min_free_bytes", "with less room no archive is fetched", self.instance.settings.min_free_bytes)


def served(instance: Instance) -> bool:
    """Whether all that the release document says is served; versions that it names no more may still leave."""
    models = instance.released
    return bool(models) and all(
        model.release is not None
        and set(model.release["versions"]) <= set(model.loaded.copy())
        and model.default == model.wanted
        and not model.all_problems
        for model in models
    )


class Processes:
    """The processes of a server, by part."""

    def __init__(self, head: psutil.Process) -> None:
        self.head = head
        self._lock = threading.Lock()
        self._seen: dict[psutil.Process, float] = {}
        self._cpu_s = dict.fromkeys(("serve", *HEADS.values()), 0.0)

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """(CPU seconds, bytes of memory) by part. What a process took between the last call and its end is lost."""
        with self._lock:
            parts: dict[int, str] = {}
            memory, seen = dict.fromkeys(self._cpu_s, 0.0), {}
            for process in [self.head, *self.head.children(recursive=True)]:  # parents before their children
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    parts[process.pid] = part = _part(process, parts.get(process.ppid(), "serve"))
                    used = process.cpu_times()
                    seen[process] = used.user + used.system
                    self._cpu_s[part] += max(0.0, seen[process] - self._seen.get(process, 0.0))
                    memory[part] += process.memory_info().rss
            self._seen = seen
            return self._cpu_s.copy(), memory


def _part(process: psutil.Process, of_parent: str) -> str:
    command = " ".join(process.cmdline())
    return next((part for word, part in HEADS.items() if word in command), of_parent)


def _each(values: Mapping[str, float]) -> dict[tuple[str], float]:
    return {(label,): value for label, value in values.items()}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"seefood_instance_{name}", text, value=float(value))


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Mapping[Any, float],
) -> Metric:
    """`values` by the tuple of its labels' values."""
    family = kind(f"seefood_instance_{name}", text, labels=labels)
    for value_of, value in values.items():
        family.add_metric(list(value_of), float(value))
    return family
