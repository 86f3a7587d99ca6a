"""The files that workers count in (handler/metrics.py), two of each: read with the model that each worker serves, and merged.

A worker writes its version alone; TorchServe runs it in the folder that its archive is unpacked in, whose name begins with the
archive's (scripts/release/fetch.py). Those of ended workers are merged into two files for each model, so that hundreds of restarts
leave no more:

    counter_PID.db   histogram_PID.db   counter_0_MODEL.db   histogram_0_MODEL.db
"""

import json
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from scripts.archive.name import split_name
from scripts.settings import Settings

KINDS = ("counter", "histogram")
# stands where a worker's file has its process id, and no process has this one
ENDED = "0"
# what a worker counts when something is done, not when it comes in
PROGRESS = ("seefood_requests_total", "seefood_decode_seconds_sum", "seefood_handle_seconds_sum")

Values = dict[str, tuple[float, float]]


def _read(path: Path) -> Values:
    """(value, time) of each series in a worker's file; none while the worker makes it, or if a full disk broke it."""
    try:
        return {key: (value, when) for key, value, when, _ in MmapedDict.read_all_values_from_file(path)}
    except (struct.error, RuntimeError, FileNotFoundError):
        return {}


def _write(path: Path, values: Values) -> None:
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


def model_of_process(pid: int) -> str:
    """The model that a worker serves, by the folder that it runs in; "" if it has ended, or is none of ours."""
    try:
        folder = Path(psutil.Process(pid).cwd()).name
        return split_name(Path(f"{folder.rpartition('-')[0]}.mar"))[0]
    except (psutil.Error, OSError, ValueError):
        return ""


class WorkerFiles:
    """All of them in one folder, which need not exist yet. For one thread at a time."""

    def __init__(self, folder: Path, keep_versions: int = Settings.keep_metrics_of) -> None:
        """`keep_versions`: of so many versions of a model that are served no more the counts are kept."""
        self.folder, self.keep_versions = folder, keep_versions
        self._models: dict[str, str] = {}  # by process id

    def by_model(self) -> dict[str, list[Path]]:
        """The files by model, "" for those of workers that ended before they were seen."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.glob("*_*.db")):
            found.setdefault(self._model(path), []).append(path)
        return found

    def _model(self, path: Path) -> str:
        pid = _process_id(path)
        if pid == ENDED:
            return path.stem.split("_", 2)[2] if path.stem.count("_") > 1 else ""
        if not self._models.get(pid):
            self._models[pid] = model_of_process(int(pid))
        return self._models[pid]

    def collect(self) -> Iterable[Metric]:
        """Each metric once, summed over the workers of a model, whose name is the label "model"."""
        metrics: dict[str, Metric] = {}
        for model, paths in self.by_model().items():
            # a file that a worker has just made is still empty, and merge() would fail on it
            for metric in MultiProcessCollector.merge([str(path) for path in paths if _read(path)]):
                named = {"model": model} if model else {}
                samples = [sample._replace(labels={**sample.labels, **named}) for sample in metric.samples]
                metric.samples = [*(metrics[metric.name].samples if metric.name in metrics else ()), *samples]
                metrics[metric.name] = metric
        return list(metrics.values())

    def progress(self) -> dict[tuple[str, str], float]:
        """By (model, version), another number after each photo, request and batch that its workers have finished."""
        found: dict[tuple[str, str], float] = {}
        for model, paths in self.by_model().items():
            for key, (value, _) in (one for path in paths for one in _read(path).items()):
                if json.loads(key)[1].startswith(PROGRESS):
                    of = model, _version(key)
                    found[of] = found.get(of, 0.0) + value
        return found

    def merge(self) -> None:
        """Add the counts of workers that have ended to the merged files, and remove theirs. OSError on a full disk."""
        for model, paths in self.by_model().items():
            self._merge(model, [path for path in paths if _process_id(path) != ENDED])

    def _merge(self, model: str, files: list[Path]) -> None:
        ended = [path for path in files if not psutil.pid_exists(int(_process_id(path)))]
        serving = {_version(key) for path in files if path not in ended for key in _read(path)}
        now = time.time()  # one for all, so that both kinds forget the same versions
        for kind in KINDS:
            paths = [path for path in ended if path.stem.startswith(kind)]
            if not paths:
                continue
            merged = self.folder / f"{kind}_{ENDED}{f'_{model}' if model else ''}.db"
            part, values = self.folder / f"{kind}.part", _read(merged)
            for path in paths:
                for key, (value, _) in _read(path).items():
                    values[key] = (values.get(key, (0.0, 0.0))[0] + value, now)
            forgotten = _versions_to_forget(values, serving, self.keep_versions)
            # not scripts/atomic.py: these files do not outlive the server, and fsync of each would hold up a scrape
            _write(part, {key: value for key, value in values.items() if _version(key) not in forgotten})
            part.replace(merged)
            for path in paths:
                path.unlink()
        for pid in {_process_id(path) for path in ended}:
            self._models.pop(pid, None)


def _versions_to_forget(values: Values, serving: set[str], keep: int) -> set[str]:
    """All but the `keep` versions whose workers ended last; none that is still served."""
    ended_at: dict[str, float] = {}
    for key, (_, when) in values.items():
        version = _version(key)
        ended_at[version] = max(ended_at.get(version, 0.0), when)
    oldest_first = sorted((when, version) for version, when in ended_at.items() if version not in serving)
    return {version for _, version in oldest_first[: max(0, len(oldest_first) - keep)]}
