"""TorchServe's management API, and the predictions that check a version: one function for each call."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from scripts.errors import SeeFoodError
from scripts.settings import Settings

PING_TIMEOUT_S = 2  # of one attempt while TorchServe starts; many follow


class ManagementError(SeeFoodError):
    """TorchServe refused a call, or did not answer it; the message holds its status and its reason."""


def new_client(timeout_s: float = Settings.management_timeout_s) -> httpx.Client:
    """A client for many calls: each new one takes 20 ms to read the machine's certificates."""
    # loopback needs no proxy, whatever the environment names
    return httpx.Client(timeout=timeout_s, trust_env=False)


@dataclass(frozen=True)
class Server:
    """Where one TorchServe is: its addresses, http://host:port, and its tokens if it needs them."""

    management: str
    inference: str
    management_token: str | None = None
    inference_token: str | None = None
    client: httpx.Client = field(default_factory=new_client, compare=False)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The management API's answer, from JSON. Raises ManagementError."""
        headers = {"authorization": f"Bearer {self.management_token}"} if self.management_token else {}
        try:
            response = self.client.request(method, self.management + path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise ManagementError(f"{method} {path}: {error or type(error).__name__}") from error
        try:
            body = response.json()
        except ValueError:  # errors of netty itself are plain text
            body = {"message": response.text}
        if response.is_error:
            raise ManagementError(f"{method} {path}: {response.status_code} {body.get('message')}")
        return body

    def predict(self, path: str, photo: bytes, top_k: int, timeout_s: float) -> httpx.Response:
        """The answer of /predictions/<path> to a photo. x-probe keeps it out of the metrics. Raises httpx.HTTPError."""
        # x-probe: handler/seefood_handler.py leaves such a request out of its metrics, and captures no photo of it
        headers = {"x-top-k": str(top_k), "content-type": "application/octet-stream", "x-probe": "true"}
        if self.inference_token:
            headers["authorization"] = f"Bearer {self.inference_token}"
        return self.client.post(f"{self.inference}/predictions/{path}", content=photo, headers=headers, timeout=timeout_s)


def register(server: Server, model: str, url: str) -> None:
    """Start loading the archive `url`, a name in its model store; returns at once. Raises ManagementError.

    Not synchronous: such a call blocks one of the front end's threads, and with it the predictions that the thread serves.
    """
    server.call("POST", "/models", params={"url": url, "model_name": model, "initial_workers": "1", "synchronous": "false"})


def versions(server: Server, model: str) -> dict[str, dict[str, Any]]:
    """TorchServe's description of each registered version. Raises ManagementError."""
    # /models/NAME/all is a 404 without any version, which is no error here
    if not any(listed["modelName"] == model for listed in server.call("GET", "/models")["models"]):
        return {}
    return {described["modelVersion"]: described for described in server.call("GET", f"/models/{model}/all")}


def version(server: Server, model: str, number: str) -> dict[str, Any]:
    """TorchServe's description of one version: "workers", "jobQueueStatus". Raises ManagementError."""
    described: dict[str, Any] = server.call("GET", f"/models/{model}/{number}")[0]
    return described


def default_version(server: Server, model: str) -> str:
    """The version that answers where no version is named. Raises ManagementError."""
    return str(server.call("GET", f"/models/{model}")[0]["modelVersion"])


def describe(server: Server, model: str, number: str) -> dict[str, Any]:
    """The description that a version's worker gives (SeefoodHandler.describe). Raises ManagementError."""
    answer = server.call("GET", f"/models/{model}/{number}", params={"customized": "true"})
    described: dict[str, Any] = answer[0]["customizedMetadata"]
    return described


def set_default(server: Server, model: str, number: str) -> None:
    """Make this the version that answers where no version is named. Raises ManagementError."""
    server.call("PUT", f"/models/{model}/{number}/set-default")


def unregister(server: Server, model: str, number: str) -> None:
    """End a version's workers. Drain it first: TorchServe never answers the requests they still hold. Raises ManagementError."""
    server.call("DELETE", f"/models/{model}/{number}")


def responds(server: Server) -> bool:
    """Whether the management API answers at all."""
    try:
        return server.client.get(f"{server.management}/models", timeout=PING_TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False
