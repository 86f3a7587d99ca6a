"""The figures that Prometheus reads: what workers count in processes of their own, merged, and beside TorchServe's."""

import contextlib
import errno
import http.server
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from handler.metrics import Metrics, outcome
from scripts.archive.build import build
from scripts.serving.metrics import KEEP_VERSIONS, MetricsServer
from tests.conftest import ROOT, free_port, picture_bytes
from tests.serving.test_server import Server

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
        assert all("version" in sample.labels for sample in family.samples)
        if family.type == "counter":
            assert {sample.name for sample in family.samples} == {total}
            continue
        assert family.type == "histogram"
        for version in {sample.labels["version"] for sample in family.samples}:
            samples = [sample for sample in family.samples if sample.labels["version"] == version]
            buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
            bounds = [float(sample.labels["le"]) for sample in samples if sample.name.endswith("_bucket")]
            assert bounds == sorted(bounds)
            assert buckets == sorted(buckets)
            assert [sample.value for sample in samples if sample.name.endswith("_count")] == [buckets[-1]]
            histograms += 1
    assert histograms >= 5


@pytest.fixture
def server(tmp_path):
    with MetricsServer(tmp_path / "metrics", free_port(), free_port()) as server:
        server.url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        yield server


def test_workers_figures_add_up_and_keep_prometheus_rules(server):
    work(server.folder, 3)
    work(server.folder, 2, "1.1.0")
    response = httpx.get(server.url)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    check_format(response.text)
    assert values(response.text, version="1.0.0", outcome="answered") == {"seefood_requests_total": 6}
    assert values(response.text, version="1.1.0", outcome="unreadable") == {"seefood_requests_total": 2}
    assert values(response.text, label="pizza") == {"seefood_predictions_total": 5}
    found = values(response.text)
    assert (found["seefood_unsure_total"], found["seefood_batch_size_sum"], found["seefood_batch_size_bucket 2.0"]) == (5, 15, 0)
    assert (found["seefood_decode_seconds_bucket 0.003"], found["seefood_decode_seconds_bucket 0.005"]) == (0, 5)
    assert (found["seefood_top1_probability_bucket 0.3"], found["seefood_top1_probability_count"]) == (5, 10)
    assert found["seefood_handle_seconds_sum"] == pytest.approx(0.15)


def test_figures_of_hundreds_of_ended_workers_stay_counted_in_two_files(server):
    for round_ in range(1, 4):
        work(server.folder, 100)
        assert len(list(server.folder.iterdir())) == 200 + (2 if round_ > 1 else 0)
        before = httpx.get(server.url).text
        server.bury()
        assert sorted(path.name for path in server.folder.iterdir()) == ["counter_0.db", "histogram_0.db"]
        after = httpx.get(server.url).text
        check_format(after)
        assert values(after) == pytest.approx(values(before))
        assert values(after, outcome="explained") == {"seefood_requests_total": 100 * round_}
    assert sum(path.stat().st_size for path in server.folder.iterdir()) < 50_000


def test_rollouts_do_not_add_up_for_ever_but_what_serves_stays(server):
    work(server.folder, 1, "0.0.1")
    with living(server.folder, "0.0.1"):
        sizes = []
        for major in (1, 2):
            work(server.folder, KEEP_VERSIONS + 15, f"{major}.0.{{}}")
            server.bury()
            sizes.append(sum(path.stat().st_size for path in server.folder.glob("*_0.db")))
        text = httpx.get(server.url).text
    assert sizes[1] <= sizes[0] * 1.01
    check_format(text)
    assert values(text, version="0.0.1", label="ramen") == {"seefood_predictions_total": 1}
    versions = {line.split('version="')[1].split('"')[0] for line in text.splitlines() if 'version="' in line}
    assert len(versions) == KEEP_VERSIONS + 1
    assert {version[:2] for version in versions} == {"0.", "2."}


def test_dead_are_looked_for_though_nobody_asks(server):
    work(server.folder, 5)
    server._next_look = 0.0
    deadline = time.monotonic() + 10
    while len(list(server.folder.iterdir())) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert values(httpx.get(server.url).text, outcome="answered") == {"seefood_requests_total": 10}


def test_worker_killed_or_just_starting_harms_no_answer(server):
    with living(server.folder, "1.0.0") as worker:
        worker.kill()
        worker.wait()
    work(server.folder, 1)
    for kind in ("counter", "histogram"):
        (server.folder / f"{kind}_{os.getpid()}.db").touch()  # a worker makes its file, and has not yet sized it
    for _ in range(2):
        assert values(httpx.get(server.url).text, outcome="answered") == {"seefood_requests_total": 2}
        server.bury()
    assert len(list(server.folder.iterdir())) == 4


def fill(path):
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_loses_no_figures_and_ends_no_process(mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "disk", "512k")
    work(disk, 2)
    with MetricsServer(disk, free_port(), free_port()) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        fill(disk / "filler")
        with pytest.raises(OSError) as caught:
            server.bury()
        assert caught.value.errno == errno.ENOSPC
        assert values(httpx.get(url).text, outcome="answered") == {"seefood_requests_total": 4}
        (disk / "filler").unlink()
        server.bury()
        assert values(httpx.get(url).text, outcome="answered") == {"seefood_requests_total": 4}
    assert sorted(path.name for path in disk.iterdir()) == ["counter_0.db", "histogram_0.db"]


@contextlib.contextmanager
def torchserve(port, status, body):
    """Something at TorchServe's metrics port that answers so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_torchserves_own_figures_follow_and_if_missing_a_comment_says_so(server):
    work(server.folder, 1)
    missing = httpx.get(server.url).text
    check_format(missing)
    assert missing.splitlines()[-1].startswith("# TorchServe's own metrics are missing: ")
    assert "refused" in missing.splitlines()[-1]
    own = b"# HELP ts_requests_total Requests.\n# TYPE ts_requests_total counter\nts_requests_total 3.0\n"
    with torchserve(server.torchserve_port, 200, own):
        text = httpx.get(server.url).text
    assert text.index("seefood_requests_total") < text.index("# HELP ts_requests_total")
    assert values(text)["ts_requests_total"] == 3
    assert "missing" not in text
    with torchserve(server.torchserve_port, 500, b"x"):
        assert httpx.get(server.url).text.splitlines()[-1] == "# TorchServe's own metrics are missing: status 500"


def test_other_paths_are_404_and_only_loopback_listens(server):
    assert httpx.get(server.url + "?name=x").status_code == 200
    for path in ("", "/", "/metric", "/metrics/", "/../etc/passwd"):
        response = httpx.get(server.url.removesuffix("/metrics") + path)
        assert (response.status_code, response.text) == (404, "figures are at /metrics\n")
    port = server.server_address[1]
    listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def test_without_a_folder_figures_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    first, second = (Metrics(version, ["ramen", "pizza"]) for version in ("1.0.0", "1.1.0"))
    first.answered("ramen", 1.0, True)
    text = generate_latest(first.registry).decode()
    assert values(text, version="1.0.0", outcome="answered")["seefood_requests_total"] == 1
    assert values(generate_latest(second.registry).decode(), outcome="answered")["seefood_requests_total"] == 0
    assert values(text)["seefood_top1_probability_bucket 1.0"] == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError, match="soup"):
        first.answered("soup", 0.5, True)


@pytest.mark.parametrize("missing", [False, True])
def test_worker_makes_the_folder_that_is_missing(tmp_path, missing):
    folder = tmp_path / "a" / "metrics" if missing else tmp_path
    with living(folder, "1.0.0"):
        assert len(list(folder.iterdir())) == 2


def test_outcomes_are_few_and_each_status_has_one():
    assert [outcome(status) for status in (200, 400, 413, 415, 422)] == [
        *("answered", "bad_request", "too_large", "unsupported", "unreadable"),
    ]
    metrics = Metrics("1.0.0", ["ramen"])
    for status in range(400, 600):
        metrics.refused(status)
    text = generate_latest(metrics.registry).decode()
    assert values(text, outcome="failed") == {"seefood_requests_total": 196}
    assert values(text)["seefood_requests_total"] == 200


def test_threads_lose_no_count():
    metrics = Metrics("1.0.0", ["ramen"])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [metrics.decoded(0.01) for _ in range(500)], range(8)))
    found = values(generate_latest(metrics.registry).decode())
    assert found["seefood_decode_seconds_count"] == 4000
    assert found["seefood_decode_seconds_sum"] == pytest.approx(40)


COST = """
import time
from handler.metrics import Metrics
metrics = Metrics("1.0.0", [f"dish_{i}" for i in range(101)])
took = []
for _ in range(500):
    started = time.perf_counter()
    metrics.batch(8)
    for i in range(8):
        metrics.decoded(0.004)
        metrics.answered(f"dish_{i}", 0.9, i > 0)
    metrics.inferred(0.02)
    metrics.handled(0.03)
    took.append(time.perf_counter() - started)
print(sorted(took)[len(took) // 10])
"""


def test_counting_a_batch_of_eight_costs_far_less_than_a_photo(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COST], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.0002  # seconds; 0.05 ms on an idle machine


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """A real TorchServe."""
    model_store = tmp_path_factory.mktemp("model_store")
    build(exported, "1.0.0", model_store)
    server = Server(model_store, free_port()).wait_ready()
    server.figures = lambda **labels: values(httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics").text, **labels)
    yield server
    server.end()
    assert not (ROOT / "build" / f"serve-{server.port}" / "metrics").exists()


@pytest.mark.server
def test_requests_are_counted_by_outcome_and_timed(served):
    text = httpx.get(f"http://127.0.0.1:{served.port + 2}/metrics").text
    check_format(text)
    assert "# TYPE ts_inference_requests_total counter" in text
    before = served.figures(version="1.0.0")
    for index in range(3):
        assert httpx.post(served.url, content=picture_bytes(index)).status_code == 200
    assert httpx.post(served.url, content=b"no photo").status_code == 415
    assert httpx.post(served.url, content=picture_bytes()[:2000]).status_code == 422
    assert httpx.post(served.url.replace("predictions", "explanations"), content=picture_bytes(1)).status_code == 200
    after = served.figures(version="1.0.0")
    rise = {name: after[name] - before[name] for name in before}
    assert rise["seefood_requests_total"] == rise["seefood_batch_size_sum"] == 6
    assert rise["seefood_predictions_total"] == rise["seefood_top1_probability_count"] == 3
    assert rise["seefood_handle_seconds_count"] == 6
    assert rise["seefood_decode_seconds_count"] >= 4
    assert rise["seefood_inference_seconds_count"] >= 3
    assert 0 < rise["seefood_inference_seconds_sum"] <= rise["seefood_handle_seconds_sum"]
    for name in ("unsupported", "unreadable", "explained"):
        assert served.figures(outcome=name) == {"seefood_requests_total": 1}
    assert served.figures(label="dish_1")["seefood_predictions_total"] >= 1


@pytest.mark.server
@pytest.mark.slow
def test_killed_worker_stays_counted_and_its_successor_goes_on(served):
    before = served.figures(outcome="answered")["seefood_requests_total"]
    httpx.post(served.url, content=picture_bytes())
    worker = next(process for process in served.family() if "model_service_worker.py" in " ".join(process.cmdline()))
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    assert served.figures(outcome="answered")["seefood_requests_total"] == before + 1
    deadline = time.monotonic() + 60
    while httpx.post(served.url, content=picture_bytes(), timeout=60).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert served.figures(outcome="answered")["seefood_requests_total"] == before + 2
