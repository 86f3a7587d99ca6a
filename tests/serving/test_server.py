"""A real TorchServe: trained on generated pictures, archived, served on free ports, asked in every form, stopped."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from PIL import Image

from handler.preprocess import read_photo
from scripts.archive.build import build, pack, provenance_of, unpack
from scripts.atomic import write_json
from scripts.settings import ports_of
from tests.conftest import ROOT, SHARED, bytes_of, free_port, needs_photos, picture_bytes
from tests.hostile_files import MADE

pytestmark = pytest.mark.server


class Server:
    """`scripts/serving/serve.py` in a process of its own, as a user runs it."""

    def __init__(self, model_store, port, *arguments):
        self.port = port
        self.url = f"http://127.0.0.1:{port}/predictions/seefood"
        command = [
            sys.executable,
            *("-m", "scripts.serving.serve"),
            "--port",
            str(port),
            "--model-store",
            str(model_store),
            *arguments,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.output = ""

    def wait_ready(self):
        while "Ctrl-C" not in self.output:
            line = self.process.stdout.readline()
            assert line, f"serve.py ended: {self.output}"
            self.output += line
        return self

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, signal_number=signal.SIGTERM):
        """Output and exit status after the signal; no process of the server may be left."""
        family = self.family()
        self.process.send_signal(signal_number)
        self.output += self.process.communicate(timeout=60)[0]
        assert not psutil.wait_procs(family, timeout=5)[1]
        return self.output, self.process.returncode


@pytest.fixture(scope="module")
def model_store(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model_store")
    build(exported, "1.0.0", folder)
    return folder


@pytest.fixture(scope="module")
def server(model_store):
    server = Server(model_store, free_port()).wait_ready()
    yield server
    server.end()


@pytest.fixture(scope="module")
def photo():
    return picture_bytes(1)


@pytest.fixture(scope="module")
def expected(server, photo):
    response = httpx.post(server.url, content=photo)
    assert response.status_code == 200
    return response.json()


def test_answer_names_the_dish_model_and_version(expected):
    assert (expected["model"], expected["version"]) == ("seefood", "1.0.0")
    assert len(expected["predictions"]) == 4
    assert expected["predictions"][0]["label"] == "dish_1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-T", "PHOTO"],
        ["--data-binary", "@PHOTO"],
        ["-H", "content-type: image/jpeg", "--data-binary", "@PHOTO"],
        ["-F", "data=@PHOTO"],
        ["-F", "image=@PHOTO"],
        ["-F", "body=@PHOTO"],
        ["-F", "image=@PHOTO;type=text/plain"],
        ["-H", "content-type: application/json", "-d", "@JSON"],
        ["-H", "content-type: application/json; charset=utf-8", "-d", "@KSERVE"],
        ["-d", "@JSON"],
    ],
)
def test_curl_is_answered_alike_for_every_input_form(server, photo, expected, tmp_path, arguments):
    encoded = base64.b64encode(photo).decode()
    contents = {"PHOTO": photo, "JSON": json.dumps({"image": encoded}).encode()}
    contents["KSERVE"] = json.dumps({"instances": [{"image": encoded}]}).encode()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        arguments = [argument.replace(name, str(tmp_path / name)) for argument in arguments]
    done = subprocess.run(["curl", "-sS", "-i", server.url, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout[done.stdout.index("{") :]) == expected
    assert "content-type: application/json" in done.stdout


@pytest.mark.parametrize("header", ["x-top-k", "X-Top-K"])
def test_top_k_by_header_and_by_form_field(server, photo, header):
    assert len(httpx.post(server.url, content=photo, headers={header: "2"}).json()["predictions"]) == 2
    assert len(httpx.post(server.url, files={"data": photo}, data={"top_k": "1"}).json()["predictions"]) == 1
    assert len(httpx.post(server.url, content=photo, headers={header: "500"}).json()["predictions"]) == 4
    refused = httpx.post(server.url, content=photo, headers={header: "lots"})
    assert (refused.status_code, refused.json()["type"]) == (400, "RequestError")
    assert "'lots'" in refused.json()["message"]


@pytest.mark.parametrize(
    ("status", "request_options"),
    [
        (400, {"content": b""}),
        (415, {"content": b"no photo"}),
        (415, {"data": {"a": "b"}}),  # a form without a file is a raw body to us: see scripts/backend/torchserve/frontend_patch.py
        (400, {"files": {"picture": b"x"}}),
        (400, {"json": {"image": "?"}}),
        (400, {"json": []}),
        (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
        (415, {"content": b"\xff\xd8%%", "headers": {"content-type": "multipart/form-data"}}),
        (422, {"content": b"\xff\xd8\xff%%"}),
        (413, {"content": MADE["3.6 gigapixels of PNG"][0]()}),
        (413, {"content": bytes(21 * 1024 * 1024)}),
    ],
)
def test_bad_request_gets_its_status_with_code_type_and_message(server, status, request_options):
    response = httpx.post(server.url, **request_options)
    assert response.status_code == status
    assert response.json().keys() == {"code", "type", "message"}
    assert response.json()["code"] == status


def test_broken_photos_among_good_ones_harm_nobody(server, photo, expected):
    bodies = [photo if i % 4 else b"broken %d" % i for i in range(64)]
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda body: httpx.post(server.url, content=body, timeout=30), bodies))
    for body, response in zip(bodies, responses, strict=True):
        assert response.status_code == (200 if body is photo else 415)
        if body is photo:
            best, wanted = response.json()["predictions"][0], expected["predictions"][0]
            assert best["label"] == wanted["label"]
            assert best["probability"] == pytest.approx(wanted["probability"], abs=1e-4)


@needs_photos
def test_hard_files_never_get_a_server_error(server):
    for path in sorted((SHARED / "data" / "hard_images").iterdir()):
        if path.suffix != ".json":
            assert httpx.post(server.url, content=path.read_bytes(), timeout=30).status_code in (200, 400, 413, 415, 422), path.name


def test_photo_of_twenty_megabytes_is_answered_and_more_than_the_limit_is_413(server):
    padded = picture_bytes(1) + bytes(20_000_000)  # what follows a JPEG's end is ignored by all decoders
    assert httpx.post(server.url, content=padded, timeout=30).status_code == 200
    encoded = base64.b64encode(padded[:20_000_000]).decode()
    assert httpx.post(server.url, json={"image": encoded}, timeout=30).status_code == 200
    assert httpx.post(server.url, content=bytes(30_000_000), timeout=30).status_code == 413


def test_management_metrics_and_grpc_listen_on_loopback_only(server):
    java = next(process for process in server.family() if process.name() == "java")
    listening = {(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in java.net_connections("tcp") if c.status == "LISTEN"}
    listening |= {
        (c.laddr.ip, c.laddr.port) for c in psutil.Process(server.process.pid).net_connections("tcp") if c.status == "LISTEN"
    }
    assert listening == {("127.0.0.1", number) for number in ports_of(server.port).values()}
    assert httpx.get(f"http://127.0.0.1:{server.port + 1}/models").json()["models"][0]["modelName"] == "seefood"
    assert "ts_inference_requests_total" in httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics").text


def test_model_urls_beyond_the_model_store_are_refused(server, model_store):
    management = f"http://127.0.0.1:{server.port + 1}/models"
    for url in ("http://127.0.0.1:9/x.mar", f"file://{model_store}/seefood-1.0.0.mar", "../seefood-1.0.0.mar"):
        assert httpx.post(management, params={"url": url, "model_name": "other"}).status_code in (400, 403, 404), url


def test_logs_stay_quiet_under_requests(server, photo):
    log = ROOT / "build" / f"serve-{server.port}" / "logs" / "torchserve.log"
    before = log.stat().st_size
    for _ in range(50):
        httpx.post(server.url, content=photo)
    assert log.stat().st_size == before


def test_taken_port_is_named_and_nothing_else_is_touched(server, model_store):
    second = Server(model_store, server.port)
    output = second.process.communicate(timeout=30)[0]
    assert second.process.returncode == 1
    assert re.search(rf"inference port {server.port} is taken by process \d+ \(java\)", output)
    assert httpx.get(f"http://127.0.0.1:{server.port}/ping").status_code == 200
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        third = Server(model_store, port)
        assert f"management port {port + 1} is taken" in third.process.communicate(timeout=30)[0]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything_and_leaves_logs_and_what_the_next_start_uses(model_store, signal_number):
    server = Server(model_store, free_port()).wait_ready()
    output, status = server.end(signal_number)
    assert status == 0
    assert f"stopped by {signal_number.name}" in output
    run_dir = ROOT / "build" / f"serve-{server.port}"
    assert {re.sub("-.*", "", path.name) for path in run_dir.iterdir()} == {"logs", "unpacked", "good", "org"}
    assert [path.name.startswith("seefood-1.0.0-") for path in (run_dir / "unpacked").iterdir()] == [True]
    shutil.rmtree(run_dir)


@pytest.mark.slow
def test_signal_while_starting_leaves_no_process(model_store):
    server = Server(model_store, free_port())
    time.sleep(1.5)
    _, status = server.end()
    assert status == 0


@pytest.mark.slow
def test_stop_command_ends_it_from_elsewhere(model_store):
    server = Server(model_store, free_port()).wait_ready()
    stop = [sys.executable, "-m", "scripts.serving.serve", "--stop", "--port", str(server.port)]
    assert "served no more" in subprocess.run(stop, capture_output=True, text=True, check=True).stdout
    assert "stopped by SIGTERM" in server.process.communicate(timeout=10)[0]
    assert server.process.returncode == 0
    again = subprocess.run(stop, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "nothing is served" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("other labels", "label map has 1 names"),
        ("changed labels", "index_to_name.json was changed"),
        ("renamed", r"seefood-3\.0\.1\.mar holds version 3\.0\.2"),
    ],
)
def test_archive_that_cannot_be_served_ends_with_what_is_wrong_with_it(exported, tmp_path, damage, reason):
    parts, version = tmp_path / "parts", "3.0.2" if damage == "renamed" else "3.0.1"
    unpack(build(exported, version, tmp_path / "good"), parts)
    if damage != "renamed":
        (parts / "index_to_name.json").write_text('{"0": "soup"}')
    if damage == "other labels":
        write_json(parts / "provenance.json", provenance_of(parts, version))
    build(exported, "3.0.0", tmp_path)
    pack(parts, tmp_path / "seefood-3.0.1.mar")
    server = Server(tmp_path, free_port())
    output = server.process.communicate(timeout=200)[0]
    assert server.process.returncode == 1
    assert re.search(f"error: nothing can be served: .*{reason}", output)


def status_of(url, **options):
    """HTTP's, None if nobody answers."""
    try:
        return httpx.request(url=url, **{"method": "GET", "timeout": 30, **options}).status_code
    except httpx.TransportError:
        return None


@pytest.mark.slow
def test_ended_torchserve_is_started_again_and_predictions_come_back(model_store, photo):
    server = Server(model_store, free_port()).wait_ready()
    health = f"http://127.0.0.1:{ports_of(server.port)['health']}"
    assert (status_of(f"{health}/readyz"), status_of(f"{health}/livez")) == (200, 200)
    java = next(process for process in server.family() if process.name() == "java")
    java.kill()
    deadline = time.monotonic() + 60
    for wanted in (503, 200):
        while status_of(f"{health}/readyz") != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert status_of(f"{health}/livez") == 200
    assert status_of(server.url, method="POST", content=photo) == 200
    output, status = server.end()
    assert status == 0
    assert "TorchServe ended by itself" in output


@pytest.mark.slow
def test_full_disk_is_said(model_store, mount_disk, tmp_path):
    disk = mount_disk(tmp_path / "disk", "20m")
    for folder in ("scripts", "handler"):
        shutil.copytree(ROOT / folder, disk / folder)
    command = [sys.executable, "-m", "scripts.serving.serve", "--port", str(free_port()), "--model-store", str(model_store)]
    environment = {**os.environ, "PYTHONPATH": str(disk)}
    done = subprocess.run(command, cwd=disk, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr


def test_photo_turned_by_exif_is_answered_like_the_upright_one(server):
    upright = read_photo(picture_bytes(2))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = bytes_of(upright.transpose(Image.Transpose.ROTATE_180), "PNG", exif=exif.tobytes())
    assert httpx.post(server.url, content=turned).json() == httpx.post(server.url, content=bytes_of(upright, "PNG")).json()
