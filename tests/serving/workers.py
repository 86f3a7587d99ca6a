"""Workers for tests of metrics: processes that count and end, or live on, and what is read of their metrics."""

import contextlib
import os
import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT

# one process a version, as TorchServe's workers are: each counts, and ends
WORKERS = """
import os, sys
from handler.metrics import Metrics
for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        metrics = Metrics(sys.argv[2].format(number), ["ramen", "pizza"])
        metrics.batch(3)
        metrics.decoded(0.004)
        metrics.inferred(0.02)
        metrics.handled(0.03)
        metrics.answered("ramen", 0.95, True)
        metrics.answered("pizza", 0.25, False)
        metrics.refused(422)
        metrics.explained()
        os._exit(0)
    os.wait()
"""


def work(folder, count, version="1.0.0"):
    """Let `count` workers count, one after the other; {} in the version is a worker's number."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", WORKERS, str(count), version], env=environment, check=True)


@contextlib.contextmanager
def living(folder, version):
    """A worker that lives, and has counted nothing."""
    code = f"import sys; from handler.metrics import Metrics; m = Metrics({version!r}, ['ramen']); print('up', flush=True); input()"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "up\n"
        yield worker
        worker.kill()


def values(text, **labels):
    """{sample's name, with le if it has one: sum over all series with these labels}."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if labels.items() <= sample.labels.items() and not sample.name.endswith("_created"):
                name = sample.name + (f" {sample.labels['le']}" if "le" in sample.labels else "")
                found[name] = found.get(name, 0) + sample.value
    return found


def check_format(text):
    """Prometheus' rules: HELP and TYPE before a family, _total on counters, cumulative buckets of which +Inf is the count."""
    histograms = 0
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("seefood_"):
            continue
        total = f"{family.name}_total" if family.type == "counter" else family.name
        assert text.count(f"# HELP {total} ") == text.count(f"# TYPE {total} {family.type}\n") == 1
        assert family.documentation
        if family.name.startswith("seefood_instance_"):
            continue  # gauges, and counters by part
        # the door's own are of requests, whichever version answers
        label = "route" if family.name.startswith("seefood_door_") else "version"
        if family.type == "counter":
            assert {sample.name for sample in family.samples} == {total}
            assert label == "route" or all(label in sample.labels for sample in family.samples)
            continue
        if family.type == "gauge" and (label == "route" or family.name in ("seefood_drift", "seefood_estimated_accuracy")):
            continue
        assert family.type == "histogram"
        for value in {sample.labels.get(label) for sample in family.samples}:  # of photos the door has but one
            samples = [sample for sample in family.samples if sample.labels.get(label) == value]
            buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
            bounds = [float(sample.labels["le"]) for sample in samples if sample.name.endswith("_bucket")]
            assert bounds == sorted(bounds)
            assert buckets == sorted(buckets)
            assert [sample.value for sample in samples if sample.name.endswith("_count")] == [buckets[-1]]
            histograms += 1
    assert histograms >= 5
