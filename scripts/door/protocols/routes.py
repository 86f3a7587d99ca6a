"""The routes of all protocols but our own."""

from starlette.routing import Route

from scripts.door.predictions import Predictions
from scripts.door.protocols.kserve1 import Kserve1
from scripts.door.protocols.open_inference import OpenInference
from scripts.door.protocols.sagemaker import SageMaker


def protocol_routes(predictions: Predictions) -> list[Route]:
    """The open inference protocol's, KServe's, SageMaker's. OpenInferenceErrors belongs around the application."""
    return [*OpenInference(predictions).routes(), *Kserve1(predictions).routes(), *SageMaker(predictions).routes()]
