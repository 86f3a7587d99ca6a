"""Photos to TorchServe's inference API, for the door: asyncio, connections that are kept, no redirects, no cookies."""

import asyncio
import functools
import json
from collections import deque
from typing import cast
from urllib.parse import quote, urlsplit

import httptools

from handler.handed import PHOTO_HEADER
from scripts.backend.answer import Answer, BackendDownError, PredictionFailedError, Question
from scripts.backend.torchserve.handed import LEAST_BYTES, handed, photo_folder, remove_left

IDLE_CONNECTIONS = 64
CONTENT_TYPE = b"content-type"
# the "type" of the worker's errors, which are about the request; all others are TorchServe's
WORKER_ERRORS = ("RequestError", "PhotoError")
# of an answer's headers; TorchServe adds some that keep caches from keeping it
KEPT = frozenset((b"content-type", b"retry-after", b"seefood-captured", b"server-timing"))
# TorchServe's answer when `handle` raised, which fails the whole batch
FAILED = "Prediction failed"


class _Connection(asyncio.Protocol):
    """One connection to TorchServe, with one request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._done: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's classes are not asyncio's

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with the next bytes of the answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the backend's answer cannot be parsed: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when TorchServe has closed it, or is gone."""
        self._fail("the backend closed the connection before it answered")

    def _fail(self, why: str) -> None:
        self.close()
        if self._done is not None and not self._done.done():
            self._done.set_exception(BackendDownError(why))

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._headers, self._body = {}, bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() in KEPT:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.reusable = self.reusable and self._parser.should_keep_alive()
        if self._done is not None and not self._done.done():
            self._done.set_result(Answer(self._parser.get_status_code(), self._headers, bytes(self._body)))

    async def ask(self, head: bytes, body: bytes) -> Answer:
        """The answer to one request. BackendDownError without one. When cancelled it hangs up, and TorchServe drops the request."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        try:
            return await self._done
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close it."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()


class Inference:
    """TorchServe's inference API at `address`: http://host:port, or unix:PATH. A Backend."""

    def __init__(self, address: str) -> None:
        self.address, self._folder = address, photo_folder(address)
        if self._folder is not None:
            remove_left(self._folder)
        self._idle: deque[_Connection] = deque()

    async def ask(self, question: Question) -> Answer:
        """The worker's answer. BackendDownError without one."""
        if self._folder is None or not question.as_file or len(question.photo) < LEAST_BYTES:
            return await self._ask(question, question.photo)
        with handed(self._folder, question.photo) as name:
            if not name:
                return await self._ask(question, question.photo)
            headers = {**question.headers, PHOTO_HEADER.encode(): name.encode()}
            return await self._ask(question._replace(headers=headers), b"")

    async def _ask(self, question: Question, body: bytes) -> Answer:
        head = b"%b%d\r\n" % (_start_of_head(question.explain, question.model, question.version), len(body))
        is_ours = CONTENT_TYPE not in question.headers
        if is_ours:
            head += b"content-type: application/octet-stream\r\n"
        for header in question.headers.items():
            head += b"%b: %b\r\n" % header
        answer = await self._send(head + b"\r\n", body)
        if answer.status >= (400 if is_ours else 500):  # what another handler refuses is its client's own matter
            _check_origin(answer)
        return answer

    async def _send(self, head: bytes, body: bytes) -> Answer:
        connection = await self._connection()
        answer = await connection.ask(head, body)
        if connection.reusable and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            if self.address.startswith("unix:"):
                return (await loop.create_unix_connection(_Connection, self.address.removeprefix("unix:")))[1]
            url = urlsplit(self.address)
            return (await loop.create_connection(_Connection, url.hostname or "", url.port or 80))[1]
        except OSError as error:
            raise BackendDownError(f"the backend takes no connections: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()


@functools.lru_cache
def _start_of_head(explain: bool, model: str, version: str) -> bytes:
    """A request's head, up to the length of its body."""
    kind = "explanations" if explain else "predictions"
    path = f"/{kind}/{quote(model, safe='')}/{quote(version, safe='')}"
    return f"POST {path} HTTP/1.1\r\nhost: torchserve\r\ncontent-length: ".encode()


def _check_origin(answer: Answer) -> None:
    """BackendDownError for an error that is not the worker's: it died or is not loaded yet, or TorchServe's queue is full."""
    try:
        error = json.loads(answer.body)
        kind, message = str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        raise BackendDownError(f"the backend answered {answer.status}") from None
    if kind in WORKER_ERRORS:
        return
    if message == FAILED:
        raise PredictionFailedError("the model raised an exception")
    raise BackendDownError(f"the backend answered {answer.status}: {message[:200]}")
