"""One address for all figures: what the workers count (handler/metrics.py), then what TorchServe counts itself.

A thread of serve.py's process. A worker that ended leaves two files; what they count is kept, in one file of each
kind for all the dead, so that hundreds of restarts leave no more than one.
"""

import http.client
import json
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Self

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

KINDS = ("counter", "histogram")
# no process has this id, so the dead's file is told from a worker's
DEAD = "0"
# figures of a version that no worker serves any more are kept for this many versions, or rollouts would add up
KEEP_VERSIONS = 20
LOOK_EVERY_S = 30
TORCHSERVE_TIMEOUT_S = 5


def _read(path: Path) -> dict[str, tuple[float, float]]:
    """(value, time) of each series in a worker's file, none if the worker is just making it, or a full disk broke it."""
    try:
        return {key: (value, when) for key, value, when, _ in MmapedDict.read_all_values_from_file(path)}
    except (struct.error, RuntimeError, FileNotFoundError):
        return {}


def _write(path: Path, values: dict[str, tuple[float, float]]) -> None:
    # all of its room first: on a full disk that is an OSError, where the memory map would be the end of this process
    path.write_bytes(bytes(8 + sum(len(key.encode()) + 32 for key in values)))
    merged = MmapedDict(str(path))
    for key, (value, when) in values.items():
        merged.write_value(key, value, when)
    merged.close()


def _version(key: str) -> str:
    return str(json.loads(key)[2].get("version", ""))


def bury_the_dead(folder: Path) -> None:
    """Add what workers that are no more have counted to the files of the dead, and remove theirs. OSError on a full disk."""
    files = [path for path in folder.glob("*_*.db") if path.stem.split("_")[1] != DEAD]
    dead = [path for path in files if not psutil.pid_exists(int(path.stem.split("_")[1]))]
    serving = {_version(key) for path in files if path not in dead for key in _read(path)}
    now = time.time()  # one for all, so that both kinds forget the same versions
    for kind in KINDS:
        of_kind = [path for path in dead if path.stem.startswith(kind)]
        if not of_kind:
            continue
        graveyard, part = folder / f"{kind}_{DEAD}.db", folder / f"{kind}.part"
        values = _read(graveyard)
        for path in of_kind:
            for key, (value, _) in _read(path).items():
                values[key] = (values.get(key, (0.0, 0.0))[0] + value, now)
        forgotten = _forgotten(values, serving)
        _write(part, {key: both for key, both in values.items() if _version(key) not in forgotten})
        part.replace(graveyard)
        for path in of_kind:
            path.unlink()


def _forgotten(values: dict[str, tuple[float, float]], serving: set[str]) -> set[str]:
    """Versions beyond the KEEP_VERSIONS of which a worker ended last; none that is served."""
    ended: dict[str, float] = {}
    for key, (_, when) in values.items():
        version = _version(key)
        ended[version] = max(ended.get(version, 0.0), when)
    oldest_first = sorted((when, version) for version, when in ended.items() if version not in serving)
    return {version for _, version in oldest_first[:-KEEP_VERSIONS]}


class WorkersCollector:
    """The figures of all workers, living and dead, for prometheus_client to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> list[Metric]:
        """Each metric once, summed over the workers."""
        # a file that a worker is just making has no content yet, at which merge() would fail
        files = [str(path) for path in sorted(self.folder.glob("*_*.db")) if _read(path)]
        return list(MultiProcessCollector.merge(files))


class MetricsServer(ThreadingTCPServer):  # no HTTPServer: that one asks the name service for this machine's name
    """Answers GET /metrics on loopback `port` inside `with`; `torchserve_port` is where TorchServe's own figures are."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, folder: Path, port: int, torchserve_port: int) -> None:
        """Listen; the folder need not be there yet. OSError if the port is taken."""
        self.folder, self.torchserve_port = folder, torchserve_port
        self.registry = CollectorRegistry()
        self.registry.register(WorkersCollector(folder))
        self._lock, self._next_look = threading.Lock(), time.monotonic() + LOOK_EVERY_S
        super().__init__(("127.0.0.1", port), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def bury(self) -> None:
        """Merge the files of workers that are no more. OSError on a full disk."""
        with self._lock:
            bury_the_dead(self.folder)

    def service_actions(self) -> None:
        """Called twice a second: the dead are looked for even if nobody ever asks for figures."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            try:
                self.bury()
            except OSError as error:  # a full disk: their files stay, and count, until there is room
                print(f"warning: figures of ended workers cannot be merged: {error}", flush=True)

    def figures(self) -> dict[str, dict[str, Any]]:
        """What a rollout compares: for each version requests by outcome, and cumulative counts of batches by their seconds."""
        found: dict[str, dict[str, Any]] = {}
        with self._lock:
            metrics = list(self.registry.collect())
        for metric in metrics:
            for sample in metric.samples:
                of_version = found.setdefault(sample.labels.get("version", ""), {"outcomes": {}, "seconds": {}})
                if sample.name == "seefood_requests_total":
                    of_version["outcomes"][sample.labels["outcome"]] = sample.value
                elif sample.name == "seefood_handle_seconds_bucket":
                    of_version["seconds"][sample.labels["le"]] = sample.value
        return found

    def text(self) -> bytes:
        """The workers' figures and then TorchServe's, in Prometheus' text format."""
        with self._lock:  # else a worker's figures could be read twice or not at all while they are moved
            ours = generate_latest(self.registry)
        return ours + self._torchserve()

    def _torchserve(self) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.torchserve_port, timeout=TORCHSERVE_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return body
            reason = f"status {response.status}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        finally:
            connection.close()
        # one line, whatever the reason is: a comment ends with its line
        return f"# TorchServe's own metrics are missing: {' '.join(reason.split())}\n".encode()


class Handler(BaseHTTPRequestHandler):
    """One request to MetricsServer."""

    server: MetricsServer
    server_version = "seefood"
    timeout = 10  # seconds; a client that says nothing does not hold its thread for ever

    def do_GET(self) -> None:
        """The figures at /metrics, 404 elsewhere."""
        if self.path.split("?")[0] != "/metrics":
            self._answer(404, b"figures are at /metrics\n", "text/plain; charset=utf-8")
            return
        self._answer(200, self.server.text(), CONTENT_TYPE_PLAIN_0_0_4)

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: a line a scrape says nothing."""
