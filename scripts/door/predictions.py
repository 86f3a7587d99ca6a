"""A request with a photo -> the backend's answer: its body is read within the bounds, waits for its turn, and is answered.

Whatever the client's protocol, its photos come this way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from handler.cost import Cost, photo_cost
from scripts.backend.answer import Answer, Backend, BackendDownError, PredictionFailedError, Question
from scripts.door.admission import Admission
from scripts.door.errors import DoorError
from scripts.door.forms.asked import Asked
from scripts.door.forms.body import Body
from scripts.door.metrics import Metrics
from scripts.door.state import State
from scripts.door.times import Times

# such a body is read on a thread: the event loop must not stand still for as long
LARGE_BYTES = 1024 * 1024
LARGE_AT_A_TIME = 2
RETRY_AFTER_S = 2.0
UNKNOWN_CPU_S = 0.02  # of a network whose archive does not state it
# of the client's headers, those that the worker gets
PASSED_ON = ("accept", "traceparent", "tracestate")
PASSED_BYTES = range(1, 1025)  # TorchServe refuses heads of over 8 kB


class Upload:
    """A body that is being read: the bytes that are held of it, and the task that reads it."""

    def __init__(self) -> None:
        self.held, self.gives_way, self.task = 0, False, asyncio.current_task()

    def give_way(self) -> None:
        """End it, for the sake of others."""
        assert self.task is not None
        self.gives_way = True
        self.task.cancel()


class BytesInFlight:
    """Bytes of bodies that are held at a time. Without room, the largest body that has not ended gives way."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.reading: set[Upload] = set()

    def take(self, upload: Upload, count: int) -> None:
        """Hold so many more. DoorError 503 without room."""
        while self.held + count > self.limit:
            largest = max(self.reading, key=lambda one: one.held, default=upload)
            if largest is upload:
                raise no_room()
            largest.give_way()
            self.free(largest)
        self.held += count
        upload.held += count

    def free(self, upload: Upload) -> None:
        """Nothing of it is held any more."""
        self.reading.discard(upload)
        self.held -= upload.held
        upload.held = 0


def no_room() -> DoorError:
    """The answer to an upload for which there is no room."""
    return DoorError("the server holds too many uploads: send this request again later", 503, "BusyError", RETRY_AFTER_S)


@dataclass
class Predictions:
    """Takes photos to the backend. `heat_maps` admits requests for one, None: there are none; `timeout_s`: for turn and answer."""

    backend: Backend
    state: State
    admission: Admission
    heat_maps: Admission | None
    in_flight: BytesInFlight
    metrics: Metrics
    timeout_s: float

    def __post_init__(self) -> None:
        self._alone, self._large = asyncio.Lock(), asyncio.Semaphore(LARGE_AT_A_TIME)

    @contextlib.asynccontextmanager
    async def read(self, request: Request, body: Body) -> AsyncIterator[Asked]:
        """What the request's body asks; its bytes count as held inside `async with`. DoorError, ClientDisconnect."""
        upload = Upload()
        self.in_flight.reading.add(upload)
        try:
            yield await self._read(request, body, upload)
        except asyncio.CancelledError:
            if not upload.gives_way:
                raise
            assert upload.task is not None
            upload.task.uncancel()
            raise no_room() from None
        finally:
            self.in_flight.free(upload)

    async def _read(self, request: Request, body: Body, upload: Upload) -> Asked:
        times: Times = request.state.times
        async for chunk in request.stream():
            times.received += len(chunk)
            if body.is_packed:
                async with self._large:
                    await asyncio.to_thread(body.write, chunk)
            else:
                body.write(chunk)
            # what it unpacks to, if that is more
            self.in_flight.take(upload, max(times.received, body.size) - upload.held)
        # whole: it gives way no more, or the thread that reads it would go on uncounted
        self.in_flight.reading.discard(upload)
        if max(times.received, body.size) > LARGE_BYTES:
            async with self._large:
                asked = await asyncio.to_thread(body.close)
        else:
            asked = body.close()
        times.body_s = times.total_s
        return asked

    async def answer(
        self, request: Request, model: str, version: str | None, photo: bytes, top_k: int | None, explain: bool = False
    ) -> Answer:
        """The worker's answer to one photo, or its error. DoorError without one, ClientDisconnect if nobody waits for it."""
        times: Times = request.state.times
        headers = {name: request.headers[name] for name in PASSED_ON if len(request.headers.get(name, "")) in PASSED_BYTES}
        if top_k is not None:
            headers["x-top-k"] = str(top_k)

        def question() -> Question:
            # chosen as late as can be: the default may have changed, and the one before may be gone
            request.state.version = self.state.chosen(model, version)
            return Question(model, request.state.version, photo, headers, explain)

        admission = self.heat_maps if explain else self.admission
        if admission is None:
            raise DoorError("heat maps are switched off here", 403, "HeatMapError")
        cost = self._cost(model, version, photo, explain)
        async with _until_gone(request), self._in_time(), admission.place(cost) as waited_s:
            times.queue_s = max(times.queue_s, waited_s)
            answer = await self._ask(question)
        times.take_worker(answer.headers.get("server-timing", ""))
        return answer

    def _cost(self, model: str, version: str | None, photo: bytes, explain: bool) -> Cost:
        """The CPU that the worker takes for a photo, and its bytes."""
        described = self.state.described(model, self.state.chosen(model, version))
        network_s = described.get("heat_map_cpu_s" if explain else "inference_cpu_s", UNKNOWN_CPU_S)
        # the worker refuses what takes over half of a batch's budget, without decoding it
        decoding_s = min(photo_cost(photo).cpu_s, self.admission.limits.running_cpu_s / 2)
        return Cost(len(photo), decoding_s + network_s)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """DoorError 503 after `timeout_s`."""
        try:
            async with asyncio.timeout(self.timeout_s):
                yield
        except TimeoutError as error:
            raise DoorError(f"no worker answered within {self.timeout_s:g} s", 503, "UnavailableError", RETRY_AFTER_S) from error

    async def _ask(self, question: Callable[[], Question]) -> Answer:
        """The backend's answer. Of several requests that a worker ended under one may be the cause: each is asked again, alone."""
        try:
            return await self.backend.ask(question())
        except BackendDownError:
            self.metrics.retries.inc()
        async with self._alone:
            try:
                return await self.backend.ask(question())
            except PredictionFailedError as error:
                self.metrics.backend_errors.inc()
                raise DoorError(f"{error} on this photo", 500, "ModelError") from error
            except BackendDownError as error:
                self.metrics.backend_errors.inc()
                raise DoorError(f"no worker answers: {error}", 503, "UnavailableError", RETRY_AFTER_S) from error


@contextlib.asynccontextmanager
async def _until_gone(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the client hangs up, so that its place is free. ClientDisconnect then."""
    task, gone = asyncio.current_task(), False
    assert task is not None

    async def cancel() -> None:
        nonlocal gone
        # the body has been read: the next message can only be that the client has gone
        await request.receive()
        gone = True
        task.cancel()

    watch = asyncio.create_task(cancel())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watch.cancel()
