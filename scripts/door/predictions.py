"""A request with photos -> the backend's answers, whatever the client's protocol.

Its body is read within the bounds; each photo waits for its turn, and is answered.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from handler.cost import Cost, photo_cost
from handler.text import READS_NO_TEXT, TEXT_HEADER, encode_text
from scripts.backend.answer import Answer, Backend, BackendDownError, PredictionFailedError, Question
from scripts.door.admission import Admission
from scripts.door.errors import DoorError
from scripts.door.in_flight import RETRY_AFTER_S, BytesInFlight, InFlight
from scripts.door.metrics import Metrics
from scripts.door.state import State
from scripts.door.times import Times

# such a body is read on a thread: the event loop must not stand still for as long
LARGE_BYTES = 1024 * 1024
LARGE_AT_A_TIME = 2
UNKNOWN_CPU_S = 0.02  # of a network whose archive does not state it
UNVERIFIED_CPU_S = 0.1  # of a request to a model whose archive is not ours: a network that is larger than ours
# of the client's headers, those that the worker gets
PASSED_ON = frozenset((b"accept", b"traceparent", b"tracestate"))
PASSED_BYTES = 1024  # TorchServe refuses heads of over 8 kB


Result = TypeVar("Result")
Content = TypeVar("Content", covariant=True)


class Taking(Protocol[Content]):
    """Takes a body chunk by chunk. DoorError from each call."""

    @property
    def size(self) -> int:
        """How many bytes there are so far, unpacked."""

    @property
    def is_packed(self) -> bool:
        """Whether a small chunk may become a large one."""

    def write(self, chunk: bytes) -> None:
        """The next bytes of the body."""

    def close(self) -> Content:
        """What is in it, once it is whole."""


@dataclass
class Predictions:
    """Takes photos to the backend. `heat_maps` admits requests for one, None: there are none.

    `timeout_s`: from the moment when the body is whole to the answer, all waiting included.
    """

    backend: Backend
    state: State
    admission: Admission
    heat_maps: Admission | None
    bytes_in_flight: BytesInFlight
    metrics: Metrics
    timeout_s: float

    def __post_init__(self) -> None:
        self._alone: dict[str, asyncio.Lock] = {}
        self._large = asyncio.Semaphore(LARGE_AT_A_TIME)

    def begin(self, scope: Scope, receive: Receive, model: str = "") -> InFlight:
        """A request with photos for a model, for `with`: read it, then ask for answers. Until the end its bytes count as held."""
        return InFlight(scope, receive, self.bytes_in_flight, model)

    async def read(self, request: InFlight, body: Taking[Content]) -> Content:
        """What the request's body asks. DoorError, ClientDisconnect."""
        times, more = request.times, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            times.received += len(chunk)
            if body.is_packed:
                await self._on_thread(body.write, chunk)
            else:
                body.write(chunk)
            # what it unpacks to, if that is more
            request.hold(max(times.received, body.size))
        # it gives way no more, or the thread that reads it would go on uncounted, as that of a client that hangs up does
        request.keep()
        if request.held > LARGE_BYTES:
            asked = await self._on_thread(body.close)
        else:
            asked = body.close()
        times.body_s = times.total_s
        return asked

    async def _on_thread(self, work: Callable[..., Result], *arguments: bytes) -> Result:
        """The work's result. Few work at a time, also when a request ends while its thread goes on."""
        await self._large.acquire()
        done = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        done.add_done_callback(self._thread_ended)
        return await asyncio.shield(done)

    def _thread_ended(self, done: "asyncio.Future[Any]") -> None:
        self._large.release()
        if not done.cancelled():
            done.exception()  # it has been looked at: nobody waits for it if the request has ended

    async def answer(
        self,
        request: InFlight,
        model: str,
        version: str | None,
        photo: bytes,
        top_k: int | None,
        explain: bool = False,
        as_json: bool = False,
        number: int | None = None,
        content_type: bytes | None = None,
        text: str = "",
    ) -> Answer:
        """The worker's answer to one photo with its text, or its error. DoorError without one, and where no text is read.

        `as_json`: whatever picture the client takes. `number`: the photo's among several of the request, from 0. `content_type`: of
        what is sent to a model whose archive is not ours.
        """
        request.state["model"] = model
        is_ours = not self.state.described(model, self.state.chosen(model, version)).get("unverified")
        if is_ours == (content_type is not None):
            message = f"the archive of {model} is not ours: send what its handler takes to /predictions/{model}"
            raise DoorError(message, 404, "NotFoundError")
        headers = _passed_on(request.scope, as_json)
        # no id of a client holds a slash (http/request_id.py)
        headers[b"x-request-id"] = (request.state["request_id"] + ("" if number is None else f"/{number}")).encode()
        if content_type is not None:
            headers[b"content-type"] = content_type
        if top_k is not None:
            headers[b"x-top-k"] = b"%d" % top_k
        if text:
            headers[TEXT_HEADER.encode()] = encode_text(text).encode()

        def question() -> Question:
            # chosen as late as can be: the default may have changed, and the one before may be gone
            chosen = request.state["version"] = self.state.chosen(model, version)
            # here, too: an archive that is older than texts would leave one out, and say nothing
            if text and not self.state.reads_text(model, chosen):
                raise DoorError(READS_NO_TEXT)
            # an archive that is older than files takes bytes alone
            as_file = bool(self.state.described(model, chosen).get("photo_files"))
            return Question(model, chosen, photo, headers, explain, as_file)

        admission = self.heat_maps if explain else self.admission
        if admission is None:
            raise DoorError("heat maps are switched off here", 403, "HeatMapError")
        request.end_after(self.timeout_s)
        question()  # for the log, if its turn never comes; and for what is refused whatever its turn
        cost = self._cost(model, version, photo, explain)
        began = time.monotonic()
        try:
            await admission.enter(cost, model)
        finally:
            request.times.queued(began, number)
        try:
            answer = await self._ask(question, request.times, number)
        finally:
            admission.leave(cost, model)
        request.state.setdefault("captured", {})[number or 0] = "seefood-captured" in answer.headers
        return answer

    def _cost(self, model: str, version: str | None, photo: bytes, explain: bool) -> Cost:
        """The CPU that the worker takes for a photo, and its bytes."""
        described = self.state.described(model, self.state.chosen(model, version))
        if described.get("unverified"):
            return Cost(len(photo), UNVERIFIED_CPU_S)
        network_s = described.get("heat_map_cpu_s" if explain else "inference_cpu_s", UNKNOWN_CPU_S)
        # the worker refuses what takes over half of a batch's budget, without decoding it
        decoding_s = min(photo_cost(photo).cpu_s, self.admission.limits.running_cpu_s / 2) if photo else 0.0
        return Cost(len(photo), decoding_s + network_s)

    async def _ask(self, question: Callable[[], Question], times: Times, number: int | None) -> Answer:
        """The backend's answer. Of several requests that a worker ended under one may be the cause: each is asked again, alone."""
        try:
            return await self._ask_once(question(), times, number)
        except BackendDownError:
            self.metrics.retries.inc()
        again = question()._replace(as_file=False)  # bytes arrive also where the worker could not read the photo's file
        async with self._alone.setdefault(again.model, asyncio.Lock()):
            try:
                return await self._ask_once(again, times, number)
            except PredictionFailedError as error:
                self.metrics.backend_errors.inc()
                raise DoorError(f"{error} on this photo", 500, "ModelError") from error
            except BackendDownError as error:
                self.metrics.backend_errors.inc()
                raise DoorError(f"no worker answers: {error}", 503, "UnavailableError", RETRY_AFTER_S) from error

    async def _ask_once(self, question: Question, times: Times, number: int | None) -> Answer:
        began = time.monotonic()
        try:
            answer = await self.backend.ask(question)
        except BaseException as error:  # a client that hangs up, too
            times.failed(began, number, error, question.explain)
            raise
        times.asked(began, number, answer.status, answer.headers.get("server-timing", ""), question.explain)
        return answer


def _passed_on(scope: Scope, as_json: bool) -> dict[bytes, bytes]:
    """Of the client's headers, those that the worker gets."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in PASSED_ON and not (as_json and name == b"accept"):
            # RFC 9110, 5.3: lines of one name are one list
            found[name] = found[name] + b", " + value if name in found else value
    return {name: value for name, value in found.items() if 0 < len(value) <= PASSED_BYTES}
