"""An archive of several programs, served: the choice is shown, outlives the server, and FORMAT fixes it."""

import json
import time

import httpx
import pytest

from scripts.archive.build import build
from scripts.archive.inspect import chosen_here
from scripts.archive.read import inspect
from scripts.release.address import open_store
from scripts.release.status import status_table
from scripts.settings import Settings
from tests.conftest import LIMIT_S, free_port, picture_bytes
from tests.programs import MORE, with_onnxruntime
from tests.serving.server import Server
from tests.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    build(with_onnxruntime(exported, folder / "1.0.0"), "1.0.0", folder / "store")
    return folder / "store"


def description(server):
    answer = httpx.get(f"{server.management}/seefood", params={"customized": "true"}, timeout=LIMIT_S)
    described = answer.json()[0]["customizedMetadata"]
    return json.loads(described) if isinstance(described, str) else described


def test_choice_is_made_once_and_shown_by_description_log_status_and_inspect(store, tmp_path):
    run_dir = tmp_path / "build" / "serve-1"
    server = Server(store, free_port(), "--run-dir", str(run_dir)).wait_ready()
    try:
        found = description(server)
        release = open_store(str(store / "release.json"))
        until(lambda: found["program"] in status_table(release, Settings()))
        table = status_table(release, Settings())
        assert found["choice"]["why"] not in table
        assert httpx.post(server.url, content=picture_bytes(0), timeout=LIMIT_S).json()["predictions"]
    finally:
        output, code = server.end()
    assert code == 0
    assert f"program={found['program']}" in output or found["program"] in output
    assert found["choice"]["why"].split(";")[0] in output
    (path,) = run_dir.glob("programs/*/choice-*.json")
    (chosen,) = chosen_here(inspect(store / "seefood-1.0.0.mar")["sha256"], tmp_path / "build").values()
    assert chosen["program"] == found["program"]
    assert chosen["ms_per_photo"] == found["choice"]["ms_per_photo"]
    written = path.stat().st_mtime_ns
    time.sleep(0.01)
    again = Server(store, free_port(), "--run-dir", str(run_dir)).wait_ready()
    try:
        assert description(again)["choice"]["ms_per_photo"] == found["choice"]["ms_per_photo"]
    finally:
        assert again.end()[1] == 0
    assert path.stat().st_mtime_ns == written


def test_format_fixes_the_program_and_one_that_is_not_there_is_a_clear_error(store, tmp_path):
    server = Server(store, free_port(), "--run-dir", str(tmp_path / "run"), "--format", MORE).wait_ready()
    try:
        found = description(server)
        assert (found["program"], found["format"], found["choice"]["why"]) == (MORE, "onnxruntime", f"by FORMAT={MORE}")
    finally:
        assert server.end()[1] == 0
    server = Server(store, free_port(), "--run-dir", str(tmp_path / "run"), "--format", "openvino-int8")
    server.wait_output("is 'openvino-int8', but this archive has")
    server.end()
