"""What a backend answers to a photo. A backend is what is behind the door: TorchServe is the only one so far."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from scripts.errors import SeeFoodError


class BackendDownError(SeeFoodError):
    """The backend gave no answer: it is starting, it has ended, or a worker ended under the request."""


class PredictionFailedError(BackendDownError):
    """The model raised an exception, for this request or for another one in its batch."""


class Question(NamedTuple):
    """A photo's bytes for one version of a model, and the headers that its worker shall see, by name in lower case.

    With a content-type among them it is whatever that says, for a handler that is not ours. `as_file`: whether the worker takes a
    large photo as a file.
    """

    model: str
    version: str
    photo: bytes
    headers: Mapping[bytes, bytes]
    explain: bool = False
    as_file: bool = False


class Answer(NamedTuple):
    """The worker's answer, or its error about the request: an HTTP status, headers by name in lower case, and a body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Backend(Protocol):
    """What the door needs."""

    async def ask(self, question: Question) -> Answer:
        """The worker's answer. BackendDownError without one."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
