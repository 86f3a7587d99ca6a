"""KServe's first protocol, which is TensorFlow Serving's: {"instances": [...]} in, {"predictions": [...]} out, one an instance."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scripts.door.errors import DoorError
from scripts.door.forms.body import Body
from scripts.door.predictions import Predictions
from scripts.door.protocols.several import answers

# of a heat map's answer, what a prediction has
PREDICTION = ("label", "index", "probability", "sure", "model", "version")


class Kserve1:
    """The protocol's paths."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.state = predictions, predictions.state

    def routes(self) -> list[Route]:
        """Its routes; those with a verb first, as a model's name would take it in."""
        return [
            Route("/v1/models/{model}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model}:explain", self.explain, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
        ]

    async def models(self, request: Request) -> Response:
        """GET /v1/models: the models' names; beyond the protocol, which of them read texts, if any do."""
        reading = [name for name in self.state.ours if self._reads_text(name, self.state.models[name]["default"])]
        return JSONResponse({"models": self.state.ours, **({"texts": reading} if reading else {})})

    def _reads_text(self, model: str, version: str | None) -> bool:
        return version in self.state.models[model]["versions"] and self.state.reads_text(model, str(version))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME: whether it is ready; 503 if it is not, as KServe's own server answers."""
        model = request.path_params["model"]
        self.state.chosen(model, None)
        ready, why = self.state.readiness(model)
        if not ready:
            raise DoorError(f"{model} is not ready: {why.get('why')}", 503, "UnavailableError", retry_after_s=2)
        return JSONResponse({"name": model, "ready": True})

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/NAME:predict."""
        return JSONResponse({"predictions": await self._answers(request, explain=False)})

    async def explain(self, request: Request) -> Response:
        """POST /v1/models/NAME:explain: heat maps, and the classes that they are of."""
        explained = await self._answers(request, explain=True)
        predictions = [{name: answer[name] for name in PREDICTION} for answer in explained]
        return JSONResponse({"predictions": predictions, "explanations": explained})

    async def _answers(self, request: Request, explain: bool) -> list[dict[str, object]]:
        model = request.path_params["model"]
        self.state.chosen(model, None)  # before the body is read; its turn comes later, and the default may have changed by then
        with self.predictions.begin(request.scope, request.receive, model) as in_flight:
            asked = await self.predictions.read(in_flight, Body(request.scope))
            return await answers(self.predictions, in_flight, model, None, asked, explain)
