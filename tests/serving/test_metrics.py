"""The metrics that Prometheus reads: what workers count in processes of their own, merged, and TorchServe's own."""

import contextlib
import errno
import http.server
import os
import threading

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.serving.metrics import MetricsServer
from scripts.serving.ports import PortError, check_ports
from scripts.settings import Settings
from tests.conftest import LIMIT_S, ROOT, free_port, picture_bytes
from tests.serving.server import Server
from tests.serving.workers import check_format, living, values, work
from tests.waiting import until

KEPT = Settings().keep_metrics_of


@pytest.fixture
def server(tmp_path):
    with MetricsServer(tmp_path / "metrics", free_port(), f"http://127.0.0.1:{free_port()}") as server:
        server.url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        yield server


def test_workers_metrics_add_up_and_keep_prometheus_rules(server):
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


@pytest.mark.slow
def test_metrics_of_hundreds_of_ended_workers_stay_counted_in_two_files(server):
    for round_ in range(1, 4):
        work(server.folder, 100)
        assert len(list(server.folder.iterdir())) == 200 + (2 if round_ > 1 else 0)
        before = httpx.get(server.url).text
        server.merge()
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
            work(server.folder, KEPT + 15, f"{major}.0.{{}}")
            server.merge()
            sizes.append(sum(path.stat().st_size for path in server.folder.glob("*_0.db")))
        text = httpx.get(server.url).text
    assert sizes[1] <= sizes[0] * 1.01
    check_format(text)
    assert values(text, version="0.0.1", label="ramen") == {"seefood_predictions_total": 1}
    versions = {line.split('version="')[1].split('"')[0] for line in text.splitlines() if 'version="' in line}
    assert len(versions) == KEPT + 1
    assert {version[:2] for version in versions} == {"0.", "2."}


def test_ended_workers_are_merged_though_nothing_scrapes(server):
    work(server.folder, 5)
    server._next_merge = 0.0
    until(lambda: len(list(server.folder.iterdir())) <= 2)
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
        server.merge()
    assert len(list(server.folder.iterdir())) == 4


def fill(path):
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_loses_no_metrics_and_ends_no_process(mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "disk", "512k")
    work(disk, 2)
    with MetricsServer(disk, free_port(), f"http://127.0.0.1:{free_port()}") as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        fill(disk / "filler")
        with pytest.raises(OSError) as caught:
            server.merge()
        assert caught.value.errno == errno.ENOSPC
        assert values(httpx.get(url).text, outcome="answered") == {"seefood_requests_total": 4}
        (disk / "filler").unlink()
        server.merge()
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


def test_torchserves_own_metrics_follow_and_if_missing_a_comment_says_so(server):
    work(server.folder, 1)
    missing = httpx.get(server.url).text
    check_format(missing)
    assert missing.splitlines()[-1].startswith("# metrics of TorchServe are missing: ")
    assert "refused" in missing.splitlines()[-1]
    own = b"# HELP ts_requests_total Requests.\n# TYPE ts_requests_total counter\nts_requests_total 3.0\n"
    with torchserve(httpx.URL(server.torchserve).port, 200, own):
        text = httpx.get(server.url).text
    assert text.index("seefood_requests_total") < text.index("# HELP ts_requests_total")
    assert values(text)["ts_requests_total"] == 3
    assert "missing" not in text
    with torchserve(httpx.URL(server.torchserve).port, 500, b"x"):
        assert httpx.get(server.url).text.splitlines()[-1] == "# metrics of TorchServe are missing: status 500"


def test_other_paths_are_404_and_only_loopback_listens(server):
    assert httpx.get(server.url + "?name=x").status_code == 200
    for path in ("", "/", "/metric", "/metrics/", "/../etc/passwd"):
        response = httpx.get(server.url.removesuffix("/metrics") + path)
        assert (response.status_code, response.text) == (404, "not found, try /metrics\n")
    port = server.server_address[1]
    listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def test_setting_opens_metrics_to_other_machines(tmp_path):
    with MetricsServer(tmp_path, free_port(), f"http://127.0.0.1:{free_port()}", Settings(metrics_host="0.0.0.0")) as server:
        assert server.socket.getsockname()[0] == "0.0.0.0"
        assert httpx.get(f"http://127.0.0.1:{server.server_address[1]}/metrics").status_code == 200


def test_host_of_metrics_that_cannot_be_is_named():
    with pytest.raises(PortError, match="the metrics port .* of no.such.host.invalid cannot be opened"):
        check_ports("127.0.0.1", free_port(), "no.such.host.invalid")


@pytest.fixture(scope="module")
def served(model_store):
    """A real TorchServe."""
    server = Server(model_store, free_port()).wait_ready()
    server.metrics = lambda **labels: values(httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics").text, **labels)
    yield server
    server.end()
    assert not (ROOT / "build" / f"serve-{server.port}" / "metrics").exists()


@pytest.mark.server
def test_requests_are_counted_by_outcome_and_timed(served):
    text = httpx.get(f"http://127.0.0.1:{served.port + 2}/metrics").text
    check_format(text)
    assert "# TYPE ts_inference_requests_total counter" in text
    before = served.metrics(version="1.0.0")
    for index in range(3):
        assert httpx.post(served.url, content=picture_bytes(index)).status_code == 200
    assert httpx.post(served.url, content=b"no photo").status_code == 415
    assert httpx.post(served.url, content=picture_bytes()[:2000]).status_code == 422
    assert httpx.post(served.url.replace("predictions", "explanations"), content=picture_bytes(1)).status_code == 200
    after = served.metrics(version="1.0.0")
    rise = {name: after[name] - before[name] for name in before}
    assert rise["seefood_requests_total"] == 6 <= rise["seefood_batch_size_sum"], "a probe may have come in between"
    assert rise["seefood_predictions_total"] == rise["seefood_top1_probability_count"] == 3
    assert rise["seefood_handle_seconds_count"] >= 6
    assert rise["seefood_decode_seconds_count"] >= 4
    assert rise["seefood_inference_seconds_count"] >= 3
    assert 0 < rise["seefood_inference_seconds_sum"] <= rise["seefood_handle_seconds_sum"]
    for name in ("unsupported", "unreadable", "explained"):
        assert served.metrics(outcome=name) == {"seefood_requests_total": 1}
    assert served.metrics(label="class_1")["seefood_predictions_total"] >= 1


@pytest.mark.server
def test_instance_says_that_it_is_ready_what_it_serves_and_what_it_uses(served):
    text = httpx.get(f"http://127.0.0.1:{served.port + 2}/metrics").text
    found = {
        (sample.name.removeprefix("seefood_instance_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("seefood_instance_")
    }
    assert found["ready",] == found["release_served",] == found["state", "reconciled"] == 1
    assert found["state", "starting"] == found["state", "draining"] == 0
    assert found["version", "true", "seefood", "1.0.0"] == found["wanted_version", "seefood", "1.0.0"] == 1
    assert [found["restarts_total", part] for part in ("worker", "torchserve", "door")] == [0, 0, 0]
    assert all(found["memory_bytes", part] > 1e7 for part in ("serve", "door", "torchserve", "worker"))
    assert all(found["cpu_seconds_total", part] > 0.1 for part in ("serve", "door", "torchserve", "worker"))
    assert 0 < found["disk_free_bytes",] <= found["disk_size_bytes",]
    assert found["disk_min_free_bytes",] == Settings.min_free_bytes


@pytest.mark.server
def test_strangers_probes_count_as_any_request_even_with_the_servers_own_token(served):
    worker = served.part("worker")
    token = worker.environ()["SEEFOOD_PROBE_TOKEN"]
    assert not any(token in " ".join(process.cmdline()) for process in served.family())  # those are shown to every user
    before = served.metrics(outcome="answered")["seefood_requests_total"]
    for given in ("true", "", token[:-1], token):
        assert httpx.post(served.url, content=picture_bytes(), headers={"x-probe": given}).status_code == 200
    assert served.metrics(outcome="answered")["seefood_requests_total"] == before + 4
    # on TorchServe's own socket, which the server's user alone can open
    socket = str(ROOT / "build" / f"serve-{served.port}" / "sockets" / "inference")
    for given, counts in ((token, 4), (token[:-1], 5), (token + "0", 6)):
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
            url = served.url.replace(f":{served.port}", "")
            assert client.post(url, content=picture_bytes(), headers={"x-probe": given}).status_code == 200
        assert served.metrics(outcome="answered")["seefood_requests_total"] == before + counts


@pytest.mark.server
@pytest.mark.slow
def test_killed_worker_stays_counted_and_its_successor_goes_on(served):
    before = served.metrics(outcome="answered")["seefood_requests_total"]
    httpx.post(served.url, content=picture_bytes())
    worker = served.part("worker")
    worker.kill()
    psutil.wait_procs([worker], timeout=LIMIT_S)
    assert served.metrics(outcome="answered")["seefood_requests_total"] == before + 1
    until(lambda: httpx.post(served.url, content=picture_bytes(), timeout=LIMIT_S).status_code == 200)
    assert served.metrics(outcome="answered")["seefood_requests_total"] == before + 2
