"""Records of a run on their way to MLflow: embedded stores, a real server that is down, slow or there, S3, kills."""

import contextlib
import http.server
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import httpx
import psutil
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import LIMIT_S, free_port
from tests.waiting import until
from training.model import Checkpoint
from training.tracking.journal import Tracker
from training.tracking.machine import system_metrics
from training.tracking.registry import Registry
from training.tracking.sender import Sender, lock, send
from training.tracking.store import CLOSE_S, JOURNAL, STATE, open_client, records_left, sha256_of

# MLflow asks SQLAlchemy for what that deprecates
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


AT_ONCE_S = 5  # far less than any time-out of MLflow's, and enough for a machine that is busy otherwise


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder as the current one; nothing is sent unless a test says where to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    yield tmp_path
    for process in psutil.Process().children():  # where a test failed before its Tracker was closed
        if "training.tracking.follow" in process.cmdline():
            process.kill()
            process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in a file."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def tracked(folder, status="FINISHED", **metrics):
    """A Tracker's whole life: a run of one epoch."""
    folder.mkdir(exist_ok=True)
    tracker = Tracker(folder)
    tracker.log_params({"lr": 0.1})
    tracker.log_metrics({"loss": 1.0, **metrics}, 1)
    tracker.close(status)
    return folder


def took_s(call, *arguments):
    started = time.monotonic()
    call(*arguments)
    return time.monotonic() - started


@contextlib.contextmanager
def stderr_into(path):
    """Processes that are started inside print errors into a file: capfd loses what comes between its reading and its emptying."""
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_run_lands_in_the_embedded_store_while_the_caller_never_waits(here, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder = here / "runs" / "20261121-000000"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"weights")
    (folder / "report.html").write_text("<h1>run</h1>")
    calls = []
    tracker = Tracker(folder)
    params = {"lr": 0.1, "model_args": {"drop_rate": 0.2}, "freeze": [], "note": "x" * 7000}
    calls.append(took_s(tracker.log_params, params))
    for epoch in range(1, 4):
        calls.append(took_s(tracker.log_metrics, {"loss": 1 / epoch, "f1": math.nan}, epoch))
    calls.append(took_s(tracker.set_tags, {"git_commit": "abc", "git_tree": "dirty"}))
    calls.append(took_s(tracker.log_artifact, folder / "report.html"))
    calls.append(took_s(tracker.register, "food", folder / "checkpoint.pt"))
    # as a loader's worker does, this one holds the writing end of the sender's pipe
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LIMIT_S,))
    worker.start()
    try:
        evaluation = Tracker(folder)  # of a run that still trains: one of the two senders sends for both
        evaluation.log_metrics({"held_out/top1": 0.9}, 3)
        evaluation.close()
        closing = took_s(tracker.close)
    finally:
        worker.kill()
        worker.join()
    assert max(calls) < AT_ONCE_S
    assert closing < CLOSE_S
    assert [line for line in capfd.readouterr().err.splitlines() if "sending the remaining records" not in line] == []

    client = open_client("sqlite:///runs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("seefood").experiment_id])
    assert (run.info.run_name, run.info.status) == ("20261121-000000", "FINISHED")
    assert run.info.artifact_uri.startswith((here / "runs" / "mlflow-artifacts").as_uri())
    assert run.data.params == {"lr": "0.1", "model_args.drop_rate": "0.2", "freeze": "[]", "note": "x" * 6000}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert math.isnan(run.data.metrics["f1"])
    assert run.data.metrics["held_out/top1"] == 0.9
    assert (run.data.tags["git_commit"], run.data.tags["git_tree"]) == ("abc", "dirty")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"checkpoints", "params.json", "report.html"}
    version = client.get_model_version_by_alias("food", "challenger")
    assert (version.run_id, version.tags["sha256"]) == (run.info.run_id, sha256_of(folder / "checkpoint.pt"))


@pytest.mark.slow
def test_server_that_is_down_at_first_gets_all_once_it_is_up(here, monkeypatch, store):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = here / "run"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"weights")
    with stderr_into(here / "stderr"):
        tracker = Tracker(folder)
    tracker.log_params({"lr": 0.1})
    tracker.log_metrics({"loss": 1.0, "f1": math.nan}, 1)
    until(lambda: "cannot send" in (here / "stderr").read_text())
    assert "Connection refused" in (here / "stderr").read_text()
    assert "training goes on" in (here / "stderr").read_text()

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{here}/server.db", "--artifacts-destination", str(here / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (here / "log").open("wb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")} | quiet
    server = subprocess.Popen([*command, *places], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: answers(f"{uri}/health"), (here / "log").read_text, server)
        tracker.log_metrics({"loss": 0.5}, 2)
        tracker.register("food", folder / "checkpoint.pt")
        tracker.close()
        assert "is reachable again" in (here / "stderr").read_text()
        assert records_left(folder, uri) == 0

        again = Tracker(folder)  # the run is resumed
        again.log_params({"lr": 0.1})
        again.log_metrics({"loss": 0.25}, 3)
        again.close()
        client = open_client(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("seefood").experiment_id])
        assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5, 0.25]
        assert run.info.status == "FINISHED"
        assert math.isnan(run.data.metrics["f1"])
        assert client.get_model_version_by_alias("food", "challenger").run_id == run.info.run_id
        registry = Registry(uri, "food")
        assert registry.holder("champion") is None
        assert registry.fetch(registry.named("challenger"), here / "out").read_bytes() == b"weights"
    finally:
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait(LIMIT_S)
        psutil.wait_procs(family, timeout=LIMIT_S)
        log.close()

    other = open_client(store).get_run(send(folder, store))  # another store gets the whole run
    assert other.data.metrics["loss"] == 0.25
    assert other.info.run_id != run.info.run_id


def test_without_a_store_nothing_is_said_and_the_records_are_kept(here, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    tracker = Tracker(here / "run")
    tracker.log_params({"lr": 0.1})
    tracker.close()
    assert capfd.readouterr() == ("", "")
    assert records_left(here / "run", "none") == 3  # a start, the parameters, the end


@pytest.mark.slow
def test_server_that_never_answers_stalls_nothing_and_the_records_can_be_sent_later(here, monkeypatch, capfd, store):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}")
        tracker = Tracker(here / "run")
        assert took_s(tracker.log_params, {"lr": 0.1}) < AT_ONCE_S
        assert took_s(tracker.log_metrics, {"loss": 1.0}, 1) < AT_ONCE_S
        silent.settimeout(LIMIT_S)
        connection, _ = silent.accept()  # the sender waits for an answer now
        assert took_s(tracker.log_metrics, {"loss": 0.5}, 2) < AT_ONCE_S
        assert took_s(tracker.close, "FINISHED", 1.0) < 1.0 + AT_ONCE_S
        connection.close()
    printed = capfd.readouterr().err
    assert f"not sent to http://{address} yet: 5 records; later: make track RUN=run" in printed
    assert "secret" not in printed + "".join(path.read_text() for path in (here / "run").iterdir())

    command = [sys.executable, "-m", "training.tracking.track", "run"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "MLFLOW_DEFAULT_ARTIFACT_ROOT": here.as_uri()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = open_client(store).get_run(done.stdout.split()[-1])
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.5})


@pytest.fixture
def refusing():
    """refusing(status): the address of a server that answers nothing else."""
    servers = []

    def start(status):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"<html>no</html>")

            def do_POST(self):
                self.do_GET()

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (401, "error code 401 .*MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, are missing, wrong or expired"),
        (403, "error code 403 .*MLFLOW_TRACKING_TOKEN"),
        (404, "no MLflow server; MLFLOW_TRACKING_URI is expected to be http://host:port"),
        ("htp://mlflow:5000", "no kind of store has such an address; MLFLOW_TRACKING_URI is expected to be http://host:port"),
        ("localhost:5000", "no kind of store has such an address; MLFLOW_TRACKING_URI is expected to be http://host:port"),
        ("postgresql://me:secret@127.0.0.1:9/db", "psycopg"),
    ],
)
def test_store_that_refuses_is_named_once_with_the_remedy_and_how_to_send_later(
    here, monkeypatch, capfd, refusing, address, reason
):
    address = refusing(address) if isinstance(address, int) else address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with stderr_into(here / "stderr"):
        tracker = Tracker(here / "run")
    assert took_s(tracker.log_params, {"lr": 0.1}) < AT_ONCE_S
    until(lambda: "cannot send" in (here / "stderr").read_text())
    # what is refused for good is not tried again until the limit
    assert took_s(tracker.close, "FINISHED", LIMIT_S) < CLOSE_S
    printed = (here / "stderr").read_text() + capfd.readouterr().err
    assert len(re.findall(f"cannot send to .*{reason}.*training goes on", printed)) == 1, printed
    assert "yet: 3 records; later" in printed
    assert "later: make track RUN=run" in printed
    assert "secret" not in printed
    with pytest.raises(ValueError, match=f"records? could not be sent to .*{reason}"):
        send(here / "run", address)


@pytest.mark.slow
def test_killed_run_is_sent_and_called_killed_until_it_is_resumed(here, monkeypatch, store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom training.tracking.journal import Tracker\n"
        "tracker = Tracker(Path('run'))\ntracker.log_params({'lr': 0.1})\ntracker.log_metrics({'loss': 1.0}, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    client = open_client(store)
    until(lambda: (here / "run" / STATE).is_file() and not records_left(here / "run", store))
    run_id = json.loads((here / "run" / STATE).read_text())[store]["run_id"]
    until(lambda: client.get_run(run_id).info.status == "KILLED")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    tracked(here / "run", loss=0.5)
    assert send(here / "run", store) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert sorted(m.value for m in client.get_metric_history(run_id, "loss")) == [0.5, 1.0]


def test_full_disk_is_said_once_and_nothing_is_lost_when_there_is_room_again(here):
    code = (
        "import resource\nfrom pathlib import Path\nfrom training.tracking.journal import Tracker\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "tracker = Tracker(Path('run'))\nresource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))\n"
        "for step in range(20): tracker.log_metrics({'loss': 1.0}, step)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\ntracker.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("records cannot be written") == 1
    events = [json.loads(line) for line in (here / "run" / JOURNAL).read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "metrics"] == list(range(20))
    assert events[-1]["kind"] == "close"


@pytest.mark.slow
def test_line_that_broke_off_harms_no_other(here, store):
    folder = tracked(here / "run")
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"time": 17, "kind": "met')
    tracker = Tracker(folder)
    tracker.set_tags({"first": "after it"})
    tracker.close()
    run = open_client(store).get_run(send(folder, store))
    assert (run.data.metrics, run.data.tags["first"]) == ({"loss": 1.0}, "after it")


def test_sending_again_without_the_note_of_what_was_sent_adds_nothing(here, store):
    folder = tracked(here / "run")
    (folder / "checkpoint.pt").write_bytes(b"sent twice")
    tracker = Tracker(folder)
    tracker.register("food", folder / "checkpoint.pt")
    tracker.close()
    run_id = send(folder, store)
    (folder / STATE).unlink()
    assert send(folder, store) == run_id
    client = open_client(store)
    assert len(client.get_metric_history(run_id, "loss")) == 1
    assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 1


def test_changed_parameter_of_a_resumed_run_is_a_tag(here, store):
    folder = tracked(here / "run", "KILLED")
    client, run_id = open_client(store), send(folder, store)
    assert client.get_run(run_id).info.status == "KILLED"
    tracker = Tracker(folder)
    tracker.log_params({"lr": 0.1, "workers": 4})
    tracker.log_params({"lr": 0.1, "workers": 2})
    with Sender(folder, store) as sender:
        sender.send_all()
    assert client.get_run(run_id).info.status == "RUNNING"
    tracker.close()
    assert send(folder, store) == run_id
    run = client.get_run(run_id)
    assert (run.data.params, run.data.tags["changed.workers"]) == ({"lr": "0.1", "workers": "4"}, "2")


def test_list_of_runs_shows_the_data_set_and_sorts_by_the_best_epochs_metrics(here, store, tiny_run, monkeypatch):
    shutil.copytree(tiny_run, here / "tiny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    for name, step, top1 in (("a", 3, 0.25), ("b", 2, 0.5)):
        tracker = Tracker(here / name)
        tracker.log_params({"lr": 0.1})
        tracker.log_input("photos", "0" * 64, "/data/photos", {"classes": 2})
        tracker.log_input("photos", "0" * 64, "/data/photos", {"classes": 2})  # as a run does that is resumed
        tracker.log_metrics({"top1": top1, "best_top1": top1}, step)
        tracker.close()
        send(here / name, store)
    run_id, client = send(here / "tiny", store), open_client(store)
    experiment = client.get_experiment_by_name("seefood").experiment_id
    for order in ("metrics.best_top1 DESC", "metrics.best_top5 DESC", "metrics.best_val_loss ASC"):
        assert client.search_runs([experiment], order_by=[order])[0].info.run_id == run_id
    run = client.get_run(run_id)
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    metrics = run.data.metrics
    best = [metrics[f"best_{name}"] for name in ("epoch", "top1", "top5", "val_loss")]
    assert best == pytest.approx([checkpoint.epoch, *(checkpoint.metrics[name] for name in ("top1", "top5", "loss"))])
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == Path(checkpoint.data["root"]).name == "pictures"
    assert given.dataset.digest == checkpoint.data["fingerprint"][:36]
    assert json.loads(given.dataset.source) == {"uri": checkpoint.data["root"]}
    assert json.loads(given.dataset.profile)["classes"] == 4
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "training"}
    assert (run.info.run_name, run.data.params["model"]) == (tiny_run.name, "test_efficientnet")
    assert run.data.tags.keys() >= {"model_name", "git_commit", "data_fingerprint"}
    (twice,) = client.search_runs([experiment], "attributes.run_name = 'a'")[0].inputs.dataset_inputs
    assert twice.dataset.name == "photos"


def test_run_that_was_deleted_in_the_store_is_sent_anew(here, store):
    folder = tracked(here / "run")
    run_id = send(folder, store)
    open_client(store).delete_run(run_id)
    anew = open_client(store).get_run(send(folder, store))
    assert anew.info.run_id != run_id
    assert anew.data.metrics == {"loss": 1.0}


def test_evaluation_adds_to_a_run_and_leaves_its_status(here, store):
    folder = tracked(here / "run", "KILLED")
    client, before = open_client(store), open_client(store).get_run(send(folder, store)).info
    evaluation = Tracker(folder)
    evaluation.log_metrics({"held_out/top1": 0.9}, 1)
    evaluation.close()
    after = client.get_run(send(folder, store))
    assert after.data.metrics["held_out/top1"] == 0.9
    assert (after.info.status, after.info.end_time) == ("KILLED", before.end_time)


def test_what_cannot_be_sent_any_more_is_left_out_by_name_and_the_rest_is_sent(here, store, capfd):
    folder = here / "run"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"epoch 1")
    tracker = Tracker(folder)
    tracker.log_artifact(folder / "gone.png")
    tracker.register("food", folder / "checkpoint.pt")
    tracker.log_metrics({"not a name?": 1.0}, 1)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.close()
    (folder / "checkpoint.pt").write_bytes(b"epoch 2")
    client, run_id = open_client(store), send(folder, store)
    printed = capfd.readouterr().err
    assert "gone.png is gone" in printed
    assert "checkpoint.pt is not the checkpoint that was to be registered any more" in printed
    assert "not a name?" in printed
    assert client.get_run(run_id).data.metrics == {"loss": 1.0}
    assert not client.search_model_versions(f"run_id = '{run_id}'")


def test_record_that_is_older_than_model_names_is_left_out_by_name(here, store, capfd):
    folder = tracked(here / "run")
    with (folder / JOURNAL).open("a") as journal:
        journal.write(json.dumps({"time": 1, "kind": "register", "path": "checkpoint.pt", "sha256": "0" * 64}) + "\n")
    send(folder, store)
    assert "left out, register: the run has no model name" in capfd.readouterr().err


def test_run_that_is_sent_late_does_not_take_the_alias_from_a_newer_one(here, store):
    for name in ("older", "newer"):
        tracker = Tracker(here / name)
        (here / name / "checkpoint.pt").write_bytes(name.encode())
        tracker.register("food", here / name / "checkpoint.pt")
        tracker.close()
        time.sleep(0.01)
    newer = send(here / "newer", store)
    send(here / "older", store)
    assert open_client(store).get_model_version_by_alias("food", "challenger").run_id == newer


def test_run_of_a_sweep_is_its_child(here, store):
    parent = send(tracked(here / "sweep"), store)
    Tracker(here / "trial", parent).close()
    assert open_client(store).get_run(send(here / "trial", store)).data.tags["mlflow.parentRunId"] == parent


def test_folder_without_a_journal_is_refused(here, store):
    with pytest.raises(ValueError, match="expected the folder of a run"):
        send(here, store)


def test_run_that_another_process_sends_is_not_sent_twice(here, store):
    folder = tracked(here / "run")
    with lock(folder / JOURNAL), pytest.raises(ValueError, match="being sent by another process"):
        send(folder, store)


@pytest.mark.slow
def test_artifacts_go_to_s3_and_come_back(here, monkeypatch):
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        names = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
        for name, value in {**names, "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://bucket/some"}.items():
            monkeypatch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bucket")
        folder = tracked(here / "run")
        (folder / "checkpoint.pt").write_bytes(b"weights")
        tracker = Tracker(folder)
        tracker.register("food", folder / "checkpoint.pt")
        tracker.close()
        uri = f"sqlite:///{here}/mlflow.db"
        run_id, sha256 = send(folder, uri), sha256_of(folder / "checkpoint.pt")
        (stored,) = s3.list_objects_v2(Bucket="bucket")["Contents"]
        assert stored["Key"] == f"some/{run_id}/artifacts/checkpoints/{sha256[:12]}/checkpoint.pt"
        registry = Registry(uri, "food")
        assert registry.fetch(registry.named("challenger"), here / "out").read_bytes() == b"weights"
    finally:
        server.stop()


def test_system_metrics_have_mlflows_names_and_plausible_values():
    values = system_metrics()
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] < 100
    assert values["system/system_memory_usage_megabytes"] > 10
    assert values["system/disk_available_megabytes"] > 0
