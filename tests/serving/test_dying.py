"""What a client is answered when the worker dies under its request, in each way of dying: the table of handler/README.md."""

import re

import httpx
import pytest

from scripts.archive.build import build, provenance_of
from scripts.archive.pack import pack
from scripts.archive.read import unpack
from scripts.atomic import write_json
from tests.conftest import ROOT, free_port
from tests.serving.server import Server, status_of

pytestmark = [pytest.mark.server, pytest.mark.slow]

# what the handler does with a batch, by a header of its first request
WAYS = """
        import os, signal
        how = requests[0].headers.get("x-die", "")
        if how.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, how))
        if how in ("SIGTERM", "hang"):
            time.sleep(100)
        if how == "exit":
            os._exit(0)
        if how == "memory":
            raise MemoryError
        if how == "raise":
            raise RuntimeError
"""
# TorchServe looks whether the worker's process ended by SIGKILL, as the kernel's out-of-memory killer does; it may look too soon
STATUSES = {
    "raise": {503},
    "memory": {507},
    "SIGKILL": {500, 507},
    "SIGSEGV": {500},
    "SIGTERM": {500},
    "exit": {500},
    "hang": {500},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dying")
    unpack(build(ROOT / "model_store" / "starter", "1.0.0", folder / "good"), folder / "parts")
    handler, config = folder / "parts" / "seefood_handler.py", folder / "parts" / "model-config.yaml"
    counted = "        self.metrics.batch(len(requests))\n"
    assert counted in handler.read_text()
    handler.write_text(handler.read_text().replace(counted, counted + WAYS))
    shorter = re.sub(r"responseTimeout: \d+", "responseTimeout: 4", config.read_text())
    config.write_text(re.sub(r"batch_cpu_s: [\d.]+", "batch_cpu_s: 0.5", shorter))
    write_json(folder / "parts" / "provenance.json", provenance_of(folder / "parts"))
    (folder / "model_store").mkdir()
    pack(folder / "parts", folder / "model_store" / "seefood-1.0.0.mar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEFOOD_CHECK_S", "3600")  # its photo would share a batch
        server = Server(folder / "model_store", free_port()).wait_ready()
    yield server
    server.end()


@pytest.mark.parametrize("way", STATUSES)
def test_request_under_which_the_worker_dies_gets_the_status_of_the_table(server, photo, way):
    response = httpx.post(server.url, content=photo, headers={"x-die": way}, timeout=60)
    assert response.status_code in STATUSES[way]
    while status_of(server.url, method="POST", content=photo) != 200:  # the next worker
        assert server.process.poll() is None
    table = (ROOT / "handler" / "README.md").read_text()
    assert all(f"\n| {status} | " in table for status in STATUSES[way])
