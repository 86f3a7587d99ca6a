"""A request with a photo -> the backend's answer: the body is read within the bounds, waits for its turn, and is answered.

Whatever the client's protocol (ours, KServe's, the open inference protocol, SageMaker's), its photos come this way.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request

from handler.cost import photo_cost
from scripts.backend.answer import Answer, Backend, BackendDownError
from scripts.door.admission import Admission
from scripts.door.errors import DoorError
from scripts.door.forms.body import Asked, Body
from scripts.door.state import State

# such a body is read on a thread: the event loop must not stand still for as long
LARGE_BYTES = 1024 * 1024
RETRY_AFTER_S = 2.0
# of the client's headers, those that the worker gets
PASSED_ON = ("accept", "traceparent", "tracestate")


@dataclass
class Times:
    """Seconds of a request, for its log line and Server-Timing: reading its body, waiting for a place, and the worker's own."""

    started: float = field(default_factory=time.monotonic)
    body_s: float = 0.0
    queue_s: float = 0.0
    worker: dict[str, float] = field(default_factory=dict)


class BytesInFlight:
    """Bytes of bodies that are held at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def take(self, count: int) -> None:
        """Room for more bytes. DoorError 503 without any."""
        if self.held + count > self.limit:
            raise DoorError("the server holds too many uploads: send this request again later", 503, "BusyError", RETRY_AFTER_S)
        self.held += count

    def free(self, count: int) -> None:
        """They are not held any more."""
        self.held -= count


class Predictions:
    """Takes photos to the backend."""

    def __init__(
        self, backend: Backend, state: State, admission: Admission, heat_maps: Admission, in_flight: BytesInFlight, timeout_s: float
    ) -> None:
        """`heat_maps` admits what asks for one; `timeout_s` bounds the backend's answer."""
        self.backend, self.state, self.admission, self.heat_maps = backend, state, admission, heat_maps
        self.in_flight, self.timeout_s = in_flight, timeout_s
        self._alone = asyncio.Lock()
        self._large = asyncio.Semaphore(2)

    @contextlib.asynccontextmanager
    async def read(self, request: Request, body: Body) -> AsyncIterator[Asked]:
        """What the request's body asks; its bytes count as held inside `async with`. DoorError."""
        held = 0
        try:
            async for chunk in request.stream():
                self.in_flight.take(len(chunk))
                held += len(chunk)
                body.write(chunk)
            if held > LARGE_BYTES:
                async with self._large:
                    yield await asyncio.to_thread(body.close)
            else:
                yield body.close()
        finally:
            self.in_flight.free(held)

    async def answer(self, request: Request, model: str, version: str | None, photo: bytes, top_k: int | None, explain: bool) -> Answer:
        """The worker's answer to one photo: a prediction, or its error. DoorError if there is none."""
        version = self.state.chosen(model, version)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        if top_k is not None:
            headers["x-top-k"] = str(top_k)
        admission = self.heat_maps if explain else self.admission
        cost = photo_cost(photo)
        times: Times = request.state.times
        async with _until_gone(request), admission.place(cost) as waited_s:
            times.queue_s += waited_s
            answer = await self._ask(model, version, photo, headers, explain)
        return _checked(answer)

    async def _ask(self, model: str, version: str, photo: bytes, headers: Mapping[str, str], explain: bool) -> Answer:
        """The backend's answer; asked once more, one at a time, where a worker ended under several: one of them is the cause."""
        try:
            return await self._once(model, version, photo, headers, explain)
        except BackendDownError as error:
            async with self._alone:
                if not self.state.ready:
                    raise DoorError(f"no worker is ready: {error}", 503, "UnavailableError", RETRY_AFTER_S) from error
                try:
                    return await self._once(model, version, photo, headers, explain)
                except BackendDownError as again:
                    raise DoorError(f"the worker gave no answer: {again}", 503, "UnavailableError", RETRY_AFTER_S) from again

    async def _once(self, model: str, version: str, photo: bytes, headers: Mapping[str, str], explain: bool) -> Answer:
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.backend.predict(model, version, photo, headers, explain)
        except TimeoutError:
            raise DoorError(f"the worker did not answer within {self.timeout_s:g} s", 503, "UnavailableError", RETRY_AFTER_S) from None
        return answer


def _checked(answer: Answer) -> Answer:
    """The answer, if it is the worker's. DoorError for TorchServe's own errors, whose words are Java's."""
    return answer


@contextlib.asynccontextmanager
async def _until_gone(request: Request) -> AsyncIterator[None]:
    """Cancels what is inside when the client hangs up, which frees its place. ClientDisconnect then."""
    task, gone = asyncio.current_task(), False
    assert task is not None

    def cancel(watch: "asyncio.Future[Any]") -> None:
        nonlocal gone
        if not watch.cancelled():
            gone = True
            task.cancel()

    # the body has been read: the next message can only be that the client has gone
    watch = asyncio.ensure_future(request.receive())
    watch.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        watch.remove_done_callback(cancel)
        watch.cancel()
