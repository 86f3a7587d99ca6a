"""A real TorchServe: trained on generated pictures, archived, served on free ports, sent photos in every format."""

import base64
import json
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from handler.preprocess import read_photo
from scripts.backend.torchserve.handed import LEAST_BYTES
from scripts.settings import ports_of
from tests.conftest import LIMIT_S, ROOT, SHARED, bytes_of, free_port, needs_photos, picture_bytes
from tests.hostile_files import MADE
from tests.serving.server import Server

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(model_store):
    server = Server(model_store, free_port()).wait_ready()
    yield server
    server.end()


@pytest.fixture(scope="module")
def expected(server, photo):
    response = httpx.post(server.url, content=photo)
    assert response.status_code == 200
    return response.json()


def test_answer_names_the_class_the_model_and_the_version(expected):
    assert (expected["model"], expected["version"]) == ("seefood", "1.0.0")
    assert len(expected["predictions"]) == 4
    assert expected["predictions"][0]["label"] == "class_1"


def test_large_photo_is_answered_alike_as_a_file_and_as_bytes_and_no_file_is_left(server):
    large = bytes_of(Image.effect_noise((900, 700), 60).convert("RGB"), "PNG")
    assert len(large) > LEAST_BYTES
    folder = Path(server.part("worker").environ()["SEEFOOD_PHOTO_DIR"])
    answer = httpx.post(server.url, content=large).json()
    assert sorted(path.name for path in folder.iterdir()) == ["inference", "management", "metrics"]
    (folder / ("a" * 32)).write_bytes(large)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "inference"))) as past_the_door:
        route = "http://torchserve/predictions/seefood/1.0.0"
        assert past_the_door.post(route, content=large).json() == answer
        assert past_the_door.post(route, headers={"x-photo-file": "a" * 32}).json() == answer
        gone = past_the_door.post(route, headers={"x-photo-file": "b" * 32})
        assert (gone.status_code, gone.json()["type"], str(folder) in gone.text) == (503, "HandedError", False)
    (folder / ("a" * 32)).unlink()
    # a client names no file
    assert httpx.post(server.url, content=large, headers={"x-photo-file": "b" * 32}).json() == answer


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
def test_curl_is_answered_alike_for_every_input_format(server, photo, expected, tmp_path, arguments):
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
        (415, {"data": {"a": "b"}}),  # no field is a photo's: its bytes are taken as they are
        (400, {"files": {"picture": b"x"}}),
        (400, {"json": {"image": "?"}}),
        (400, {"json": []}),
        (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, {"content": b"\xff\xd8%%", "headers": {"content-type": "multipart/form-data"}}),
        (422, {"content": b"\xff\xd8\xff%%"}),
        (413, {"content": MADE["3.6 gigapixels of PNG"][0]()}),
        (413, {"content": bytes(21 * 1024 * 1024)}),
    ],
)
def test_bad_request_gets_its_status_with_code_type_and_message(server, status, request_options):
    response = httpx.post(server.url, **request_options)
    assert response.status_code == status
    assert response.json().keys() == {"code", "type", "message", "request_id"}
    assert response.json()["code"] == status


def test_broken_photos_among_good_ones_harm_nobody(server, photo, expected):
    bodies = [photo if i % 4 else b"broken %d" % i for i in range(64)]
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda body: httpx.post(server.url, content=body, timeout=LIMIT_S), bodies))
    for body, response in zip(bodies, responses, strict=True):
        assert response.status_code == (200 if body is photo else 415)
        if body is photo:
            best, wanted = response.json()["predictions"][0], expected["predictions"][0]
            assert best["label"] == wanted["label"]
            assert best["probability"] == pytest.approx(wanted["probability"], abs=1e-4)


@pytest.mark.slow
@needs_photos
def test_hard_files_never_get_a_server_error(server):
    for path in sorted((SHARED / "data" / "hard_images").iterdir()):
        if path.suffix != ".json":
            answer = httpx.post(server.url, content=path.read_bytes(), timeout=LIMIT_S)
            assert answer.status_code in (200, 400, 413, 415, 422), path.name


def test_photo_of_twenty_megabytes_is_answered_and_more_than_the_limit_is_413(server):
    padded = picture_bytes(1) + bytes(20_000_000)  # what follows a JPEG's end is ignored by all decoders
    assert httpx.post(server.url, content=padded, timeout=LIMIT_S).status_code == 200
    encoded = base64.b64encode(padded[:20_000_000]).decode()
    assert httpx.post(server.url, json={"image": encoded}, timeout=LIMIT_S).status_code == 200
    assert httpx.post(server.url, content=bytes(30_000_000), timeout=LIMIT_S).status_code == 413


def test_torchserve_listens_on_private_sockets_alone_and_all_ports_are_loopback(server):
    listening = {
        (process.name() == "java", connection.laddr)
        for process in [psutil.Process(server.process.pid), *server.family()]
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    }
    assert listening == {(False, ("127.0.0.1", number)) for number in ports_of(server.port).values()}
    java = server.part("JVM")
    paths = {Path(connection.laddr) for connection in java.net_connections("unix") if connection.laddr}
    assert {path.name for path in paths} == {"inference", "management", "metrics"}
    assert {path.parent.stat().st_mode & 0o777 for path in paths} == {0o700}
    assert httpx.get(f"http://127.0.0.1:{server.port + 1}/models").json()["models"][0]["modelName"] == "seefood"
    metrics = httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics").text
    for name in ("seefood_requests_total", "seefood_door_requests_total", "ts_inference_requests_total"):
        assert f"\n{name}{{" in metrics


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
    output = second.wait()
    assert second.process.returncode == 1
    assert re.search(rf"inference port {server.port} is taken by process \d+ \(python", output)
    assert httpx.get(f"http://127.0.0.1:{server.port}/ping").status_code == 200
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        third = Server(model_store, port)
        assert f"management port {port + 1} is taken" in third.wait()


@pytest.mark.slow
def test_photo_turned_by_exif_is_answered_like_the_upright_one(server):
    upright = read_photo(picture_bytes(2))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = bytes_of(upright.transpose(Image.Transpose.ROTATE_180), "PNG", exif=exif.tobytes())
    assert httpx.post(server.url, content=turned).json() == httpx.post(server.url, content=bytes_of(upright, "PNG")).json()
