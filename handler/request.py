"""One request as TorchServe hands it to the worker -> the photo's bytes and the number of classes to answer with.

A photo comes as the raw body, as a multipart field (data, image or body), or base64 in JSON.
"""

import base64
import binascii
import hmac
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handler.errors import PhotoError
from handler.photo_file import MAX_BYTES

PHOTO_FIELDS = ("data", "image", "body")
MAX_BASE64 = math.ceil(MAX_BYTES / 3) * 4
# lists, objects and their members: a photo needs three, and each takes far more memory than its two bytes of text
MAX_JSON_VALUES = 1000


class RequestError(ValueError):
    """The request holds no photo where one is expected, or a top_k that cannot be; the message says what was expected.

    `status` is HTTP's: 400; 413 where the photo is over the limit; 503 for a heat map over the batch's budget.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True, eq=False)
class Request:
    """One request of a batch on its way to its answer: the handler's steps fill it in, one after the other.

    `fields` are TorchServe's by name: bytes, or what it decoded itself: str for text, a JSON value for JSON.
    """

    fields: Mapping[str, Any]
    headers: Mapping[str, Any]  # by name in lower case, however the client wrote it
    photo: bytes = field(init=False)
    top_k: int = field(init=False)
    crop: np.ndarray = field(init=False)  # uint8 (H, W, 3)
    size: tuple[int, int] = field(init=False)  # (width, height) of the upright photo, in whatever scale it was decoded
    answer: dict[str, Any] = field(init=False)
    error: RequestError | PhotoError | None = None  # once there is one, the steps that are left pass the request over
    content_type: str = "application/json"

    def __post_init__(self) -> None:
        self.headers = {name.lower(): value for name, value in self.headers.items()}


def is_probe(request: Request) -> bool:
    """Whether it bears the token that the server gave this worker: a golden photo, or a comparison of versions, but no traffic."""
    token, given = os.environ.get("SEEFOOD_PROBE_TOKEN", ""), str(request.headers.get("x-probe", ""))
    # in constant time: else a stranger could find the token byte by byte
    return bool(token) and hmac.compare_digest(given.encode(errors="replace"), token.encode())


def read_request(request: Request, num_classes: int, default_top_k: int) -> tuple[bytes, int]:
    """(photo bytes, top-k in 1..num_classes) of one request. Raises RequestError."""
    name = next((name for name in PHOTO_FIELDS if name in request.fields), None)
    if name is None:
        raise RequestError(
            f"no photo: fields {str(sorted(request.fields))[:200]}, expected one of {list(PHOTO_FIELDS)}, or the photo as the body"
        )
    value = _decoded(request.fields[name])
    wanted = request.fields.get("top_k", request.headers.get("x-top-k"))
    if isinstance(value, dict):
        wanted = value.get("top_k", wanted)
    top_k = _top_k(wanted, num_classes, default_top_k)
    return (value if isinstance(value, bytes) else _photo_in_json(value)), top_k


def _decoded(value: Any) -> Any:
    """The photo's bytes, or the JSON value that holds it."""
    if isinstance(value, str):
        value = value.encode(errors="replace")  # JSON's strings may hold half a character
    if not isinstance(value, bytes | bytearray):
        return value
    # no image format starts with a brace: this is JSON, sent without its content type
    if not bytes(value[:64]).lstrip().startswith(b"{"):
        return bytes(value)
    if sum(value.count(sign) for sign in (b"[", b"{", b",")) > MAX_JSON_VALUES:
        raise RequestError(f"the JSON holds over {MAX_JSON_VALUES:,} values, the limit is {MAX_JSON_VALUES:,}", 413)
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error


def _top_k(value: Any, num_classes: int, default: int) -> int:
    if value is None:
        return min(default, num_classes)
    text = bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)
    try:
        wanted = int(text)
    except ValueError as error:
        raise RequestError(f"top_k is {text[:40]!r}, expected a whole number from 1 to {num_classes}") from error
    if wanted < 1:
        raise RequestError(f"top_k is {text[:40]}, expected a whole number from 1 to {num_classes}")
    return min(wanted, num_classes)


def _photo_in_json(value: Any) -> bytes:
    expected = 'expected {"image": "<base64>"} or {"instances": [{"image": "<base64>"}]}'
    if isinstance(value, dict) and "instances" in value:
        instances = value["instances"]
        if not isinstance(instances, list) or len(instances) != 1:
            found = len(instances) if isinstance(instances, list) else type(instances).__name__
            raise RequestError(f"instances must be a list of exactly one, found {found}: send a request for each photo")
        value = instances[0]
    image = value.get("image") if isinstance(value, dict) else None
    if not isinstance(image, str):
        raise RequestError(f"the JSON holds no photo: {expected}")
    # browsers' FileReader gives data:image/jpeg;base64,...
    text = image.partition(",")[2] if image.startswith("data:") else image
    text = "".join(text.split())
    if len(text) > MAX_BASE64:
        raise RequestError(f"the photo has {len(text):,} characters of base64, the limit is {MAX_BASE64:,}", 413)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"the image in the JSON is not base64: {error}") from error
