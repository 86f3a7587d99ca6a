"""TorchServe's management API, one function a call. `address` is http://host:port of the management port."""

from typing import Any

import httpx


class ManagementError(RuntimeError):
    """TorchServe refused a call; the message holds its status and its reason."""


def _answer(response: httpx.Response) -> Any:
    body: Any
    try:
        body = response.json()
    except ValueError:
        body = {"message": response.text}
    if response.is_error:
        raise ManagementError(f"{response.request.method} {response.url.path}: {response.status_code} {body.get('message')}")
    return body


def register(address: str, archive_name: str, timeout_s: float) -> None:
    """Load an archive that lies in the model store, and wait until its workers are ready. Raises ManagementError."""
    options = {"url": archive_name, "initial_workers": "1", "synchronous": "true"}
    _answer(httpx.post(f"{address}/models", params=options, timeout=timeout_s))


def describe(address: str, model: str) -> dict[str, Any]:
    """What a model's worker says of itself (SeefoodHandler.describe). Raises ManagementError."""
    answer = _answer(httpx.get(f"{address}/models/{model}", params={"customized": "true"}, timeout=30))
    described: dict[str, Any] = answer[0]["customizedMetadata"]
    return described


def responds(address: str) -> bool:
    """Whether the management API answers at all."""
    try:
        return httpx.get(f"{address}/models", timeout=2).is_success
    except httpx.TransportError:
        return False
