"""What SageMaker demands of a container: GET /ping and POST /invocations, both on one port.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. SageMaker passes few headers on:
Content-Type, Accept, X-Amzn-SageMaker-Custom-Attributes, and for endpoints of several models X-Amzn-SageMaker-Target-Model.
It chooses among variants itself, so X-Amzn-SageMaker-Target-Variant says nothing here.
"""

import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from scripts.door.errors import DoorError, error_body
from scripts.door.forms.body import Body
from scripts.door.predictions import Predictions
from scripts.door.protocols.several import answers, checked

ATTRIBUTES, TARGET = "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-target-model"
TOP_K = re.compile(r"(?:^|[,;&\s])top_k\s*=\s*([^,;&\s]*)")


class AttributesBody(Body):
    """A body whose top_k may stand in the custom attributes: top_k=3, among others after commas or semicolons."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        for value in TOP_K.findall(Headers(scope=scope).get(ATTRIBUTES, "")):
            self._found.top_k.append(("the custom attributes", value))


class SageMaker:
    """The two paths."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.state = predictions, predictions.state

    def routes(self) -> list[Route]:
        """Its routes."""
        return [Route("/ping", self.ping), Route("/invocations", self.invocations, methods=["POST"])]

    async def ping(self, request: Request) -> Response:
        """GET /ping: 200 once photos are answered, 503 before and when they are not."""
        ready, why = self.state.readiness()
        if ready:
            return JSONResponse({"status": "Healthy"})
        message = f"not ready: {why.get('why')}"
        body = error_body(503, "UnavailableError", message, request.state.request_id, {"status": "Unhealthy"})
        return Response(body, 503, media_type="application/json")

    async def invocations(self, request: Request) -> Response:
        """POST /invocations: a photo in any form; {"instances": [...]} is answered with {"predictions": [...]}."""
        model = self._model(request.headers.get(TARGET))
        self.state.chosen(model, None)  # before the body is read; its turn comes later, and the default may have changed by then
        with self.predictions.begin(request.scope, request.receive, model) as in_flight:
            asked = await self.predictions.read(in_flight, AttributesBody(request.scope))
            if asked.instances:
                found = await answers(self.predictions, in_flight, model, None, asked)
                return JSONResponse({"predictions": found})
            photo, text = asked.photos[0], asked.texts[0]
            answer = checked(await self.predictions.answer(in_flight, model, None, photo, asked.top_k, text=text))
        return Response(answer.body, media_type=answer.headers.get("content-type", "application/json"))

    def _model(self, target: str | None) -> str:
        """The model that is named, else the only one."""
        names = sorted(self.state.ours)
        if target:
            return target.removesuffix(".tar.gz")
        if len(names) > 1:
            raise DoorError(f"there are several models: name one of {', '.join(names)} as X-Amzn-SageMaker-Target-Model")
        return names[0] if names else ""
