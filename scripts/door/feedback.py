"""POST /feedback: what a person says that a photo shows, kept beside the photo and its answer (handler/captured.py).

{"id": the answer's x-request-id, "label": one of the classes of the version that answered, or null for none of them}. A second
feedback for an id takes the place of the first. Where photos are kept on S3, serve keeps it: the door has no
credentials.
"""

import asyncio
import contextlib
import difflib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from handler.captured import FEEDBACK, PHOTO, answer_of
from scripts.atomic import aside
from scripts.door.errors import DoorError
from scripts.door.forms.body import FRAMING
from scripts.door.in_flight import RETRY_AFTER_S
from scripts.errors import is_full

PATH = "/feedback"
MAX_BYTES = 4096
MEMBERS = {"id", "label"}
# a disk may be slow: as many threads wait for it, and the event loop does not
AT_A_TIME, MOST_WAITING = 4, 4096
S3_AT_A_TIME = 16  # no threads here, and several calls of some 50 ms each
SERVE_S = 30.0  # for serve to keep feedback on S3: more than two attempts of a call
ANSWER_BYTES = 1024 * 1024
EXPECTED = 'expected {"id": "the answer\'s x-request-id", "label": "a class, or null for none of them"}'


class Feedback:
    """Keeps feedback in the folder of captured photos, which stay for at most `kept_s`; None: no photos are kept.

    `socket`: serve's, which keeps it on S3 instead, where photos stay for as long as serve tells (state.py).
    """

    def __init__(self, folder: Path | None, kept_s: float = 0.0, socket: Path | None = None) -> None:
        self.folder, self.kept_s, self.socket = folder, kept_s, socket
        self._threads, self._waiting = asyncio.Semaphore(S3_AT_A_TIME if socket else AT_A_TIME), 0

    def headers(self, captured: Mapping[int, bool], on_s3_s: float | None = None) -> list[tuple[bytes, bytes]]:
        """What an answer says of its photos, by number: 1 for each that was kept, else 0; and for how many seconds at most.

        `on_s3_s`: the seconds on S3, None where they are not known; then nothing is said of them.
        """
        if self.folder is None or not any(captured.values()):
            return []
        flags = ", ".join(str(int(captured[number])) for number in sorted(captured))
        kept_s = on_s3_s if self.socket else self.kept_s
        seconds = [] if kept_s is None else [(b"seefood-captured-s", b"%d" % kept_s)]
        return [(b"seefood-captured", flags.encode()), *seconds]

    async def take(self, request: Request) -> Response:
        """POST /feedback. DoorError, ClientDisconnect."""
        if self.folder is None:
            message = "no photos are kept here, so there are none to give feedback on: SEEFOOD_CAPTURE_SHARE=1 keeps them"
            raise DoorError(message, 404, "NotFoundError")
        request_id, label = _read(await _body(request))
        if self._waiting >= MOST_WAITING:
            raise DoorError("too much feedback waits to be written", 503, "BusyError", RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._threads:
                if self.socket is None:
                    kept = await asyncio.to_thread(keep, self.folder, request_id, label)
                else:
                    kept = await ask_serve(self.socket, request_id, label)
        finally:
            self._waiting -= 1
        request.state.version = kept["version"]  # for the log
        return JSONResponse(kept)


def keep(folder: Path, request_id: str, label: str | None) -> dict[str, Any]:
    """Write the feedback on the last answer with this id, and return what is kept: that of before, if it is the same. DoorError."""
    gone = gone_error(request_id)
    try:
        path = answer_of(folder, request_id)
        if path is None:
            raise gone
        kept = feedback_on(json.loads(path.read_bytes()), label)
        feedback = path.with_suffix(FEEDBACK)
        if before := _same(feedback, label):
            return before
        _write(feedback, json.dumps(kept).encode())
        if not path.with_suffix(PHOTO).exists():  # its time was over at this moment
            feedback.unlink(missing_ok=True)
            raise gone
    except (FileNotFoundError, ValueError) as error:  # so was it here; or the machine went down while the answer was written
        raise gone from error
    except OSError as error:
        why = "the disk is full" if is_full(error) else error.strerror
        raise DoorError(f"the feedback cannot be kept: {why}", 507, "StorageError") from error
    return kept


def _same(feedback: Path, label: str | None) -> dict[str, Any] | None:
    """What is kept already, if it names this label."""
    try:
        before: dict[str, Any] = json.loads(feedback.read_bytes())
        return before if before["label"] == label else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def gone_error(request_id: str) -> DoorError:
    """No photo is there that feedback with this id could belong to."""
    return DoorError(f"no photo is kept for the answer {request_id[:80]!r}: none was, or not any more", 404, "NotFoundError")


def feedback_on(answer: Mapping[str, Any], label: str | None) -> dict[str, Any]:
    """What is kept: {"id", "label", "at", "model", "version"}. DoorError unless the label is one of the answer's or None."""
    _check_label(label, answer)
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"id": answer["id"], "label": label, "at": at, "model": answer["model"], "version": answer["version"]}


async def ask_serve(socket: Path, request_id: str, label: str | None) -> dict[str, Any]:
    """Have serve keep it (scripts/serving/capture_socket.py). DoorError as `keep`; 503 if serve does not answer."""
    away = DoorError("feedback cannot be kept at this moment", 503, "StorageError", RETRY_AFTER_S)
    try:
        async with asyncio.timeout(SERVE_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=ANSWER_BYTES)
            with contextlib.closing(writer):
                writer.write(json.dumps({"id": request_id, "label": label}).encode() + b"\n")
                await writer.drain()
                answer: dict[str, Any] = json.loads(await reader.readline())
    except (OSError, TimeoutError, ValueError) as error:
        raise away from error
    if "error" in answer:
        raise DoorError(**answer["error"])
    return answer


def _write(path: Path, content: bytes) -> None:
    with aside(path) as part, os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _check_label(label: str | None, answer: Mapping[str, Any]) -> None:
    labels = answer["labels"]
    if label is None or label in labels:
        return
    # not the answer's: whoever guesses an id would learn what the photo shows
    close = difflib.get_close_matches(label[:80], labels, n=3) or labels[:3]
    of = f"one of the {len(labels)} classes of {answer['model']} {answer['version']}"
    examples = " or ".join(repr(one) for one in close)
    raise DoorError(f"the label is {label[:80]!r}, expected {of}, e.g. {examples}, or null for none of them", 422, "LabelError")


async def _body(request: Request) -> bytes:
    headers, times = request.headers, request.state.times
    if not any(name in FRAMING for name, _ in request.scope["headers"]):
        raise DoorError(f"the request has no body: {EXPECTED}", 411)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    # a page of another site may send text without being asked for its origin
    if kind != "application/json" or headers.get("content-encoding", "identity") != "identity":
        raise DoorError(f"the body is {kind[:80] or 'of no type'!r}, expected application/json, not compressed", 415)
    body = bytearray()
    if int(headers.get("content-length", 0)) <= MAX_BYTES:
        async for chunk in request.stream():
            body += chunk
            times.received += len(chunk)
            if len(body) > MAX_BYTES:
                break
        else:
            times.body_s = times.total_s
            return bytes(body)
    raise DoorError(f"the body has over {MAX_BYTES:,} bytes, the limit of feedback", 413)


def _read(body: bytes) -> tuple[str, str | None]:
    """(id, label). DoorError for anything else."""
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise DoorError(f"the body is not valid JSON in UTF-8: {EXPECTED}") from error
    if not isinstance(content, dict) or content.keys() != MEMBERS:
        raise DoorError(f"the body is no feedback: {EXPECTED}")
    request_id, label = content["id"], content["label"]
    if not isinstance(request_id, str) or not request_id:
        raise DoorError(f"the id is {json.dumps(request_id)[:80]}: {EXPECTED}")
    if label is not None and not isinstance(label, str):
        raise DoorError(f"the label is {json.dumps(label)[:80]}: {EXPECTED}")
    return request_id, label
