"""The door's application without a server, and with a backend that is not there."""

from scripts.backend.torchserve.inference import Inference
from scripts.door.app import Door
from scripts.door.door import predictions_of
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.settings import Settings


def application(state, access=None):
    """All of the door's application; each request has the id "test-id"."""
    metrics = Metrics()
    predictions = predictions_of(Inference("http://127.0.0.1:1"), state, metrics, Settings())
    return WithId(Door(predictions, state, metrics, AccessLog(False), access).application())


class WithId:
    """ASGI: gives requests an id, as the server does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["request_id"] = "test-id"
        await self.app(scope, receive, send)
