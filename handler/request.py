"""One request as TorchServe hands it to the worker -> the photo's bytes, its text, and the number of classes to answer with.

A photo comes in one form, as the raw body, its text as base64 of UTF-8 in the header x-text; one of both may be missing where the
model reads texts. Whoever takes other forms (multipart, JSON, base64) stands in front: scripts/door.
"""

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handler.errors import PhotoError
from handler.handed import PHOTO_HEADER, HandedPhoto, Photo, open_handed
from handler.text import READS_NO_TEXT, TEXT_HEADER, TextError, decode_header

RAW_FIELDS = ("body", "data")  # TorchServe's names for a body that is no form


class RequestError(ValueError):
    """The request holds no photo where one is expected, a text that is not read, or a top_k that cannot be; the message says which.

    `status` is HTTP's: 400; 413 where photo or text are over a limit; 503 for a heat map over the batch's budget,
    or a photo's file that cannot be read.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class HandedError(RequestError):
    """The photo is not where the server in front has put it. By this name in the answer that server sends its bytes."""


@dataclass(slots=True, eq=False)
class Request:
    """One request of a batch on its way to its answer: the handler's steps fill it in, one after the other.

    `fields` are TorchServe's by name: bytes, or what it decoded itself: str for text, a JSON value for JSON. One is expected.
    """

    fields: Mapping[str, Any]
    headers: Mapping[str, Any]  # by name in lower case, however the client wrote it
    photo: Photo = b""
    top_k: int = field(init=False)
    text: str = ""
    crop: np.ndarray = field(init=False)  # uint8 (H, W, 3)
    size: tuple[int, int] = field(init=False)  # (width, height) of the upright photo, in whatever scale it was decoded
    decode_started: float = field(init=False)  # by the monotonic clock
    decode_s: float = field(init=False)
    answer: dict[str, Any] = field(init=False)
    unsure: float = field(init=False)  # 0 to 1: one minus the margin between the two best classes, however many are answered
    explain_timing: str = ""  # of Server-Timing, of a heat map
    captured: bool = False  # whether the photo was kept
    error: RequestError | PhotoError | None = None  # once there is one, the steps that are left pass the request over
    content_type: str = "application/json"

    def __post_init__(self) -> None:
        self.headers = {name.lower(): value for name, value in self.headers.items()}

    @property
    def is_text_alone(self) -> bool:
        """Whether there is a text, and no photo."""
        return bool(self.text) and not self.photo

    def close(self) -> None:
        """Close the photo's file, if it has one."""
        if isinstance(self.photo, HandedPhoto):
            self.photo.close()

    @property
    def id(self) -> str:
        """The door's `x-request-id`; a new one for whoever asks past the door."""
        return str(self.headers.get("x-request-id") or os.urandom(16).hex())


def is_probe(request: Request) -> bool:
    """Whether it bears the token that the server gave this worker: a golden photo, or a comparison of versions, but no traffic."""
    token, given = os.environ.get("SEEFOOD_PROBE_TOKEN", ""), str(request.headers.get("x-probe", ""))
    # in constant time: else a stranger could find the token byte by byte
    return bool(token) and hmac.compare_digest(given.encode(errors="replace"), token.encode())


def read_request(request: Request, num_classes: int, default_top_k: int) -> tuple[Photo, int]:
    """(photo, top-k in 1..num_classes) of one request. Raises RequestError."""
    name, value = next(iter(request.fields.items()), ("", None))
    if len(request.fields) != 1 or name not in RAW_FIELDS or not isinstance(value, bytes | bytearray):
        found = ", ".join(f"{name!a} ({type(value).__name__})" for name, value in sorted(request.fields.items())) or "no body"
        raise RequestError(
            f"expected a photo's bytes as the body, found {found[:200]}: send other forms (multipart, JSON, base64) to the door"
        )
    top_k = _top_k(request.headers.get("x-top-k"), num_classes, default_top_k)
    if name := str(request.headers.get(PHOTO_HEADER, "")):
        try:
            return open_handed(name), top_k
        except ValueError as error:
            raise RequestError(f"the photo's file cannot be read: {error}") from error
        except OSError as error:  # its message has the server's path
            raise HandedError(f"the photo's file cannot be read: {error.strerror or type(error).__name__}", 503) from error
    return bytes(value), top_k


def read_text(request: Request, reads_text: bool) -> str:
    """The text of one request, "" without one. RequestError, also for a text where the model reads none."""
    header = str(request.headers.get(TEXT_HEADER, ""))
    if not header:
        return ""
    if not reads_text:
        raise RequestError(READS_NO_TEXT)
    try:
        return decode_header(header)
    except TextError as error:
        raise RequestError(str(error), error.status) from error


def _top_k(value: Any, num_classes: int, default: int) -> int:
    if value is None:
        return min(default, num_classes)
    text = str(value)
    try:
        wanted = int(text)
    except ValueError as error:
        raise RequestError(f"top_k is {text[:40]!r}, expected a whole number from 1 to {num_classes}") from error
    if wanted < 1:
        raise RequestError(f"top_k is {text[:40]}, expected a whole number from 1 to {num_classes}")
    return min(wanted, num_classes)
