"""The door's application without a server, and with a backend that is not there."""

from scripts.backend.torchserve.inference import Inference
from scripts.door.app import Door
from scripts.door.door import predictions_of
from scripts.door.log import AccessLog
from scripts.door.metrics import Metrics
from scripts.settings import Settings


def application(state, access=None, feedback=None):
    """All of the door's application; each request has the id "test-id"."""
    return application_of(predictions(state), access, feedback)


def predictions(state, backend=None, settings=None):
    """The way of photos to a backend, which is not there if it is not given."""
    return predictions_of(backend or Inference("http://127.0.0.1:1"), state, Metrics(), settings or Settings())


def application_of(predictions, access=None, feedback=None):
    """As `application`, with these predictions."""
    door = Door(predictions, predictions.state, predictions.metrics, AccessLog(False), access, feedback)
    return WithId(door.application())


class WithId:
    """ASGI: gives requests an id, as the server does."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["request_id"] = "test-id"
        await self.app(scope, receive, send)
