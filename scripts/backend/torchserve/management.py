"""TorchServe's management API and the predictions that go with it, one function a call."""

from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 30


class ManagementError(RuntimeError):
    """TorchServe refused a call, or did not answer it; the message holds its status and its reason."""


@dataclass(frozen=True)
class Server:
    """Where one TorchServe is: its addresses, http://host:port, and its tokens if it wants some."""

    management: str
    inference: str
    management_token: str | None = None
    inference_token: str | None = None
    # one client for all calls: each new one would take 20 ms to read the machine's certificates. No proxy of the environment:
    # the way to loopback needs none
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=TIMEOUT_S, trust_env=False), compare=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The management API's answer, from JSON. Raises ManagementError."""
        headers = {"authorization": f"Bearer {self.management_token}"} if self.management_token else {}
        try:
            response = self.client.request(method, self.management + path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise ManagementError(f"{method} {path}: {error or type(error).__name__}") from error
        try:
            body = response.json()
        except ValueError:
            body = {"message": response.text}
        if response.is_error:
            raise ManagementError(f"{method} {path}: {response.status_code} {body.get('message')}")
        return body

    def predict(self, path: str, photo: bytes, top_k: int, timeout_s: float) -> httpx.Response:
        """The answer of /predictions/<path> to a photo, which counts for no figure. httpx.HTTPError as it comes."""
        headers = {"x-top-k": str(top_k), "content-type": "application/octet-stream", "x-probe": "true"}
        if self.inference_token:
            headers["authorization"] = f"Bearer {self.inference_token}"
        return self.client.post(f"{self.inference}/predictions/{path}", content=photo, headers=headers, timeout=timeout_s)


def register(server: Server, model: str, url: str) -> None:
    """Let it load what lies at `url`, a name in its model store; returns before that has begun. Raises ManagementError.

    Not synchronously: the call would block one of the front end's threads, and with it the predictions that it serves.
    """
    server.call("POST", "/models", params={"url": url, "model_name": model, "initial_workers": "1", "synchronous": "false"})


def versions(server: Server, model: str) -> dict[str, dict[str, Any]]:
    """TorchServe's description of each registered version. Raises ManagementError."""
    if not any(listed["modelName"] == model for listed in server.call("GET", "/models")["models"]):
        return {}
    return {described["modelVersion"]: described for described in server.call("GET", f"/models/{model}/all")}


def version(server: Server, model: str, number: str) -> dict[str, Any]:
    """TorchServe's description of one version: "workers", "jobQueueStatus". Raises ManagementError."""
    described: dict[str, Any] = server.call("GET", f"/models/{model}/{number}")[0]
    return described


def default_version(server: Server, model: str) -> str:
    """The version that answers where none is named. Raises ManagementError."""
    return str(server.call("GET", f"/models/{model}")[0]["modelVersion"])


def describe(server: Server, model: str, number: str) -> dict[str, Any]:
    """What a version's worker says of itself (SeefoodHandler.describe). Raises ManagementError."""
    answer = server.call("GET", f"/models/{model}/{number}", params={"customized": "true"})
    described: dict[str, Any] = answer[0]["customizedMetadata"]
    return described


def set_default(server: Server, model: str, number: str) -> None:
    """Let this version answer where none is named. Raises ManagementError."""
    server.call("PUT", f"/models/{model}/{number}/set-default")


def unregister(server: Server, model: str, number: str) -> None:
    """End a version's workers: drain it first, or clients whose requests it has wait for ever. Raises ManagementError."""
    server.call("DELETE", f"/models/{model}/{number}")


def responds(server: Server) -> bool:
    """Whether the management API answers at all."""
    try:
        return server.client.get(f"{server.management}/models", timeout=2).is_success
    except httpx.HTTPError:
        return False
