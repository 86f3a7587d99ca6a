"""Bodies that are held at a time: without room the largest that has not ended gives way, and nothing stays counted."""

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from scripts.door.admission import Admission, Limits
from scripts.door.errors import DoorError
from scripts.door.forms.body import Body
from scripts.door.in_flight import BytesInFlight
from scripts.door.metrics import Metrics
from scripts.door.predictions import Predictions
from scripts.door.times import Times


class Sender:
    """A request whose body comes piece by piece, an empty one last."""

    def __init__(self, predictions: Predictions, headers: dict[str, str] | None = None) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.hang_up: Callable[[], None]
        state = {"times": Times(), "call_when_gone": lambda callback: setattr(self, "hang_up", callback)}
        self.scope = {
            "headers": Headers({"transfer-encoding": "chunked"} | (headers or {})).raw,
            "query_string": b"",
            "state": state,
        }
        self.predictions = predictions
        self.task = asyncio.create_task(self._run())

    async def receive(self) -> dict[str, Any]:
        piece = await self.pieces.get()
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _run(self) -> bytes:
        with self.predictions.begin(self.scope, self.receive) as request:
            asked = await self.predictions.read(request, Body(self.scope))
            photo = asked.only_photo()
        await asyncio.sleep(0)  # the answer is sent
        return photo

    async def send(self, piece: bytes) -> None:
        await self.pieces.put(piece)
        for _ in range(5):
            await asyncio.sleep(0)


def run(story, limit: int = 1000) -> None:
    async def whole() -> None:
        in_flight = BytesInFlight(limit)
        admission = Admission(Limits())
        predictions = Predictions(None, None, admission, None, in_flight, Metrics(), 1.0)  # type: ignore[arg-type]
        await story(predictions)
        assert (in_flight.held, in_flight.reading) == (0, set())

    asyncio.run(whole())


def test_largest_upload_gives_way_to_others():
    async def story(predictions: Predictions) -> None:
        large, small = Sender(predictions), Sender(predictions)
        await large.send(b"x" * 900)
        await small.send(b"y" * 200)
        with pytest.raises(DoorError, match="too many uploads") as caught:
            await large.task
        assert caught.value.status == 503
        await small.send(b"")
        assert await small.task == b"y" * 200

    run(story)


def test_upload_that_is_the_largest_itself_is_refused():
    async def story(predictions: Predictions) -> None:
        small, large = Sender(predictions), Sender(predictions)
        await small.send(b"y" * 200)
        await large.send(b"x" * 700)
        await large.send(b"x" * 700)
        with pytest.raises(DoorError, match="too many uploads"):
            await large.task
        await small.send(b"")
        assert await small.task == b"y" * 200

    run(story)


def test_what_a_body_unpacks_to_counts():
    async def story(predictions: Predictions) -> None:
        sender = Sender(predictions, {"content-encoding": "gzip"})
        await sender.send(gzip.compress(bytes(5000)))
        with pytest.raises(DoorError, match="too many uploads"):
            await sender.task

    run(story)


def test_client_that_hangs_up_frees_its_bytes():
    async def story(predictions: Predictions) -> None:
        sender = Sender(predictions)
        await sender.send(b"x" * 500)
        sender.hang_up()
        with pytest.raises(ClientDisconnect):
            await sender.task
        assert not sender.task.cancelled()

    run(story)


def test_client_that_hangs_up_after_its_answer_ends_nothing():
    async def story(predictions: Predictions) -> None:
        sender = Sender(predictions)
        await sender.send(b"x" * 500)
        await sender.send(b"")
        sender.hang_up()
        assert await sender.task == b"x" * 500

    run(story)


def test_server_that_stops_is_no_error_of_the_request():
    async def story(predictions: Predictions) -> None:
        sender = Sender(predictions)
        await sender.send(b"x" * 500)
        sender.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender.task

    run(story)
