"""Requests with photos that are being answered: what may end one early, and the bytes of their bodies."""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from scripts.door.errors import DoorError
from scripts.door.shares import Shares
from scripts.door.times import Times

RETRY_AFTER_S = 2.0


class InFlight:
    """One request with photos, from its head to its answer. Inside `with`, others may end it with an error of theirs.

    Its client hangs up, its time is over, or its body gives way to others. It holds `held` bytes of its body.
    """

    def __init__(self, scope: Scope, receive: Receive, all_bytes: "BytesInFlight", model: str = "") -> None:
        self.scope, self.receive, self.model = scope, receive, model
        self.state: dict[str, Any] = scope["state"]
        self.times: Times = self.state["times"]
        self.held = 0
        self._bytes, self._task = all_bytes, asyncio.current_task()
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._bytes.reading.add(self)
        self._watch(self._gone)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._bytes.free(self)
        self._watch(None)
        # no error in this object: by its traceback it holds the frames that hold the body, and this object
        error, self._error = self._error, None
        if error and kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            try:
                raise error from None
            finally:
                del error

    def _watch(self, callback: Callable[[], None] | None) -> None:
        if watch := self.state.get("call_when_gone"):  # the HTTP layer's
            watch(callback)

    def end(self, error: Exception) -> None:
        """Raise this error where the request waits."""
        if self._error is None:
            assert self._task is not None
            self._error = error
            self._task.cancel()

    def end_after(self, seconds: float) -> None:
        """The backend has so long to answer from the first call on, all waiting included."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._too_late, seconds)

    def hold(self, count: int) -> None:
        """So many bytes of its body are held from now on. DoorError 503 without room for more."""
        if count > self.held:
            self._bytes.take(self, count - self.held)

    def keep(self) -> None:
        """Its body has come as a whole: it gives way no more."""
        self._bytes.reading.discard(self)

    def _too_late(self, seconds: float) -> None:
        self.end(DoorError(f"no worker answered within {seconds:g} s", 503, "UnavailableError", RETRY_AFTER_S))

    def _gone(self) -> None:
        self.end(ClientDisconnect())


class BytesInFlight:
    """Bytes of bodies that are held at a time, shared by models. Without room, the largest body that has not ended gives way."""

    def __init__(self, limit: int, models: Callable[[], int] = lambda: 1) -> None:
        """`models()` is how many share the limit now."""
        self.limit, self.models = limit, models
        self.reading: set[InFlight] = set()
        self._held: Counter[str] = Counter()  # by model

    @property
    def held(self) -> int:
        """All of them."""
        return self._held.total()

    def take(self, request: InFlight, count: int) -> None:
        """Hold so many more of a request. DoorError 503 without room."""
        shares, held = Shares(self.limit, self.models()), self._held.copy()
        held[request.model] += count
        give_way: list[InFlight] = []
        while not shares.has_room(held[request.model], [bytes_ for model, bytes_ in held.items() if model != request.model]):
            # of the same model, or of one that holds more than its part
            larger = [
                one
                for one in self.reading - set(give_way)
                if one.held > request.held and (one.model == request.model or held[one.model] > shares.own)
            ]
            if not larger:
                raise no_room()  # nobody is ended for nothing
            give_way.append(max(larger, key=lambda one: one.held))
            held[give_way[-1].model] -= give_way[-1].held
        for one in give_way:
            one.end(no_room())
            self.free(one)
        self._held[request.model] += count
        request.held += count

    def free(self, request: InFlight) -> None:
        """Nothing of it is held any more."""
        self.reading.discard(request)
        self._held[request.model] -= request.held
        request.held = 0


def no_room() -> DoorError:
    """The answer to a body for which there is no room."""
    return DoorError("the server holds too many uploads: send this request again later", 503, "BusyError", RETRY_AFTER_S)
