"""What scripts/serving/serve.py takes from where it runs."""

import http.server
import json
import socket
import threading

import pytest

from scripts.serving.serve import own_name


@pytest.fixture
def metadata():
    """An endpoint as ECS gives one to each task: set `answer`; its address."""

    class Endpoint(http.server.BaseHTTPRequestHandler):
        answer = b"{}"

        def do_GET(self):
            self.send_response(200 if self.path == "/v4/abc/task" else 404)
            self.end_headers()
            self.wfile.write(Endpoint.answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Endpoint.address = f"http://127.0.0.1:{server.server_port}/v4/abc"
        yield Endpoint
        server.shutdown()


def test_instance_on_ecs_is_called_as_its_task_is(metadata, monkeypatch):
    metadata.answer = json.dumps({"TaskARN": "arn:aws:ecs:eu-central-1:1:task/seefood/0f9de17a6465404e8b1b2356dc13c2f8"}).encode()
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", metadata.address)
    assert own_name(8080) == "0f9de17a6465404e8b1b2356dc13c2f8"


def test_instance_that_ecs_does_not_name_goes_by_its_host(metadata, monkeypatch, capsys):
    assert own_name(8080) == f"{socket.gethostname()}-8080"
    for address in (metadata.address, metadata.address + "/no", "http://127.0.0.1:1"):
        monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", address)
        assert own_name(8080) == f"{socket.gethostname()}-8080"
        assert "ECS does not tell which task this is" in capsys.readouterr().err
