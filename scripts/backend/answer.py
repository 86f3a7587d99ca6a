"""What a backend answers to a photo. A backend is what is behind the door: TorchServe is the only one so far."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from scripts.errors import SeeFoodError


class BackendDownError(SeeFoodError):
    """The backend gave no answer: it is starting, has ended, or a worker ended under the request."""


class Answer(NamedTuple):
    """An HTTP status, headers by name in lower case, and a body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Backend(Protocol):
    """What the door needs."""

    async def predict(self, model: str, version: str | None, photo: bytes, headers: Mapping[str, str], explain: bool = False) -> Answer:
        """The answer of a version, or of the default one, to a photo's bytes. BackendDownError without one."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
