"""The door's application on uvicorn, with every protocol, before a real TorchServe that serves the starter."""

import asyncio
import contextlib
import json
import threading
import time

import uvicorn

from scripts.archive.build import build
from scripts.archive.read import unpack
from scripts.backend.torchserve import management, versions
from scripts.backend.torchserve.inference import Inference
from scripts.backend.torchserve.process import TorchServe
from scripts.door.admission import Admission, Limits
from scripts.door.app import Door
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.door.predictions import BytesInFlight, Predictions
from scripts.door.protocols.open_inference import OpenInferenceErrors
from scripts.door.protocols.routes import protocol_routes
from scripts.door.state import State
from scripts.settings import Settings
from tests.conftest import LIMIT_S, ROOT, free_port

STARTER = ROOT / "model_store" / "starter"
VERSION = "0.2.0"


@contextlib.contextmanager
def torchserve(folder):
    """A TorchServe without models, and its inference port."""
    port = free_port()
    running = TorchServe(folder / "run", "127.0.0.1", port, Settings())
    try:
        running.wait_until_up()
        yield running, port
    finally:
        running.stop(now=True)


def load_starter(running, folder):
    """Register the starter, wait until it is ready, and return what it says of itself."""
    archive = build(STARTER, VERSION, folder)
    unpack(archive, running.run_dir / "unpacked" / archive.stem)
    versions.load(running.server, "seefood", VERSION, archive.stem, LIMIT_S, None, lambda: None)
    return management.describe(running.server, "seefood", VERSION, LIMIT_S)


def with_id(app):
    """The application, with the id that the server gives each request."""

    async def give(scope, receive, send):
        scope.setdefault("state", {})["request_id"] = "test-id"
        await app(scope, receive, send)

    return give


class Served:
    """The door before a backend: `url`, its `state`, its `door`."""

    def __init__(self, address, description):
        self.backend, self.state, metrics = Inference(address), State(), Metrics()
        self.line = {
            "live": True,
            "ready": True,
            "models": {"seefood": {"default": VERSION, "versions": {VERSION: description}}},
        }
        self.state.take(json.loads(json.dumps(self.line)))
        admissions = Admission(Limits()), Admission(Limits(running=1))
        predictions = Predictions(self.backend, self.state, *admissions, BytesInFlight(2**28), metrics, LIMIT_S)
        self.door = Door(predictions, self.state, metrics, AccessLog(False))
        self.app = self.door.application()
        self.app.app.router.routes += protocol_routes(predictions)
        self.app.app = OpenInferenceErrors(self.app.app)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self):
        """Served while inside."""
        config = uvicorn.Config(
            with_id(self.app),
            port=self.port,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)

        async def serve():
            await server.serve()
            self.backend.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        # no line comes each second here
        self.state.at = time.monotonic() + LIMIT_S
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()
