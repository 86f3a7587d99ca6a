"""Bodies that are held at a time: without room the largest that has not ended gives way, and nothing stays counted."""

import asyncio
import contextlib
import gc
import gzip
import weakref
from collections.abc import Callable, Coroutine
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

    def __init__(
        self,
        predictions: Predictions,
        headers: dict[str, str] | None = None,
        run: "Callable[[Sender], Coroutine[Any, Any, Any]] | None" = None,
    ) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.hang_up: Callable[[], None] | None = None
        state = {"times": Times(), "call_when_gone": lambda callback: setattr(self, "hang_up", callback)}
        self.scope = {
            "headers": Headers({"transfer-encoding": "chunked"} | (headers or {})).raw,
            "query_string": b"",
            "state": state,
        }
        self.predictions = predictions
        self.sent = asyncio.Event()  # the answer
        self.sent.set()
        self.task = asyncio.create_task(run(self) if run else self._run())

    async def receive(self) -> dict[str, Any]:
        piece = await self.pieces.get()
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _run(self) -> bytes:
        with self.predictions.begin(self.scope, self.receive) as request:
            asked = await self.predictions.read(request, Body(self.scope))
            photo = asked.only_photo()
        await self.sent.wait()
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
        assert sender.hang_up
        sender.hang_up()
        with pytest.raises(ClientDisconnect):
            await sender.task
        assert not sender.task.cancelled()

    run(story)


def test_client_that_hangs_up_after_its_answer_ends_nothing():
    async def story(predictions: Predictions) -> None:
        sender = Sender(predictions)
        sender.sent.clear()
        await sender.send(b"x" * 500)
        await sender.send(b"")
        assert predictions.bytes_in_flight.held == 0, "it is being answered"
        assert sender.hang_up is None
        sender.sent.set()
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


def test_requests_that_hold_nothing_are_not_ended_for_nothing():
    async def story(predictions: Predictions) -> None:
        whole = Sender(predictions)
        whole.sent.clear()
        predictions.bytes_in_flight._held[""] += 995  # of bodies that have come as a whole
        others = [Sender(predictions) for _ in range(5)]
        for other in others:
            await other.send(b"y")
        with pytest.raises(DoorError, match="too many uploads"):
            await send_all(whole, b"x" * 10)
        assert not any(other.task.done() for other in others)
        predictions.bytes_in_flight._held[""] -= 995
        for other in others:
            await other.send(b"")
            assert await other.task == b"y"

    run(story)


async def send_all(sender: Sender, body: bytes) -> bytes:
    await sender.send(body)
    await sender.send(b"")
    return await sender.task


@pytest.mark.parametrize("how", ["hangs up", "gives way", "answered"])
def test_nothing_of_a_request_stays_when_it_is_over(how):
    """Not until a garbage collection, which counts objects and no bytes."""

    async def story(predictions: Predictions) -> None:
        kept: list[weakref.ref[object]] = []

        async def one(sender: Sender) -> None:
            with contextlib.suppress(DoorError, ClientDisconnect), predictions.begin(sender.scope, sender.receive) as request:
                kept.append(weakref.ref(request))
                await predictions.read(request, Body(sender.scope))

        sender = Sender(predictions, run=one)
        await sender.send(b"x" * 900)
        if how == "hangs up":
            assert sender.hang_up
            sender.hang_up()
        elif how == "gives way":
            other = Sender(predictions)
            await other.send(b"y" * 200)
            assert await send_all(other, b"") == b"y" * 200
        else:
            await sender.send(b"")
        await sender.task
        del sender
        assert kept[0]() is None

    gc.disable()
    try:
        run(story)
    finally:
        gc.enable()


def test_one_models_uploads_leave_room_for_those_of_others_and_give_way_to_them():
    def of(predictions: Predictions, model: str) -> Sender:
        async def hold(sender: Sender) -> bytes:
            with predictions.begin(sender.scope, sender.receive, model) as request:
                return (await predictions.read(request, Body(sender.scope))).only_photo()

        return Sender(predictions, run=hold)

    async def story(predictions: Predictions) -> None:
        predictions.bytes_in_flight.models = lambda: 2
        flood = [of(predictions, "flood") for _ in range(4)]
        for one in flood[:3]:
            await one.send(b"x" * 240)  # 720 of 750, which is its own quarter and the half that is everybody's
        await flood[3].send(b"x" * 100)
        with pytest.raises(DoorError, match="too many uploads"):
            await one_of(flood)
        quiet = of(predictions, "quiet")
        await quiet.send(b"y" * 250)
        await quiet.send(b"")
        assert await quiet.task == b"y" * 250
        for one in flood:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in flood), return_exceptions=True)

    async def one_of(senders: list[Sender]) -> None:
        done = [sender.task for sender in senders if sender.task.done()]
        assert len(done) == 1
        await done[0]

    run(story)
