"""The answers of a server, several requests at a time.

A server that is busy (429, 503), starts anew or cannot be reached is asked again, with growing pauses; it is given up when it has
answered nothing at all for PATIENCE_S. A photo that alone is refused again and again gets that as its error: while others are
answered, or while the server is ready.
"""

import asyncio
import contextlib
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from handler.text import TEXT_HEADER, TextError, check_text, encode_text
from scripts.model_name import check_model_name
from scripts.predict.answer import (
    AGAIN,
    API_KEY,
    LONGEST_PAUSE_S,
    QUOTA,
    AgainError,
    answer_of,
    check_access,
    described,
    headers,
    is_final,
    json_of,
    verify,
)
from scripts.predict.offline import Read, Row, error_answer, read
from scripts.predict.photo import Photo, PredictError, UnreadError

AT_A_TIME = 16  # requests: what a worker takes at a time
AHEAD = 4 * AT_A_TIME  # photos that are begun or answered before the first row is written
TIMEOUT = httpx.Timeout(90.0, connect=10.0)  # a load balancer's 60 s, and some
PATIENCE_S = 120.0
LOOK_S = 1.0  # between two tries before the first photo
TRIES = 6  # of one photo, while others are answered
PAUSE_S = 0.5
GO_ON = "the same command goes on where it stopped"

Body = dict[str, Any]


class Server:
    """A server that answers /predictions/MODEL, below a path if need be."""

    def __init__(self, url: str, model: str | None, version: str | None) -> None:
        """Ask what it serves, if no model is named. ValueError, PredictError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"URL is {url!r}, expected the server's address, e.g. https://food.example.com")
        if parts.username or parts.password:
            raise ValueError(f"URL holds a password, which would be seen by others: a key goes into {API_KEY}")
        self.url, self.headers = url.rstrip("/"), headers()
        self.model = check_model_name(model) if model else self._only_model()
        self.version = version
        self.path = "/".join(filter(None, (self.model, version)))
        self.last_answer = time.monotonic()
        self.refusal: PredictError | None = None
        self.given_up = 0  # photos, since the last answer
        self._texts: bool | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What makes its answers comparable with earlier ones: its address and the version that it serves now."""
        return {"url": self.url, "model": self.model, "version": self.version or self._default_version()}

    def _get(self, path: str, whole: Callable[[Body], bool] = bool) -> Body:
        """JSON of a path, {} if there is no such path. Waits for a server that starts, until `whole` is true of what it says.

        PredictError if it does not answer.
        """
        deadline = time.monotonic() + PATIENCE_S
        with httpx.Client(headers=self.headers, timeout=TIMEOUT, verify=verify(self.url)) as client:
            for number in range(1_000_000):
                try:
                    response = client.get(self.url + path)
                except httpx.HTTPError as error:
                    why = described(error)
                    if is_final(error):
                        raise PredictError(f"{self.url} does not answer: {why}") from error
                else:
                    check_access(response)
                    body, why = json_of(response), f"{response.status_code} {response.reason_phrase}"
                    if response.status_code not in AGAIN:
                        if not response.is_success or not body:
                            return {}
                        if whole(body):
                            return body
                        why = "it serves nothing yet"
                if time.monotonic() > deadline:
                    raise PredictError(f"{self.url} does not answer: {path}: {why}")
                if number == 0:
                    print(f"{self.url} does not answer ({why}): asking again for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
                time.sleep(LOOK_S)
        raise AssertionError("unreachable")

    def _only_model(self) -> str:
        try:
            # a server that starts has the parameter, and no values of it
            models = _model_schema(self._get("/openapi.json", lambda body: bool(_model_schema(body).get("enum"))))["enum"]
        except (LookupError, TypeError, ValueError):
            raise PredictError(f"{self.url} does not show its models: name one, MODEL=seefood") from None
        if len(models) != 1:
            raise PredictError(f"{self.url} serves the models {', '.join(models)}: choose one, e.g. MODEL={models[0]}")
        return str(models[0])

    def _default_version(self) -> str:
        """The version that answers now; of a model whose default no path shows, all that are served; "" if none is shown."""
        ready = self._get("/readyz", lambda body: "version" not in body or bool(body["version"]))
        of_several = ready.get("models")
        if isinstance(of_several, dict):
            return str((of_several.get(self.model) or {}).get("version") or "")
        models = self._get("/v1/models").get("models")
        if not isinstance(models, list) or models[:1] == [self.model]:  # else another server's, whose first model it is about
            return str(ready.get("version", ""))
        versions = self._get(f"/v2/models/{self.model}").get("versions")
        return ", ".join(map(str, versions)) if isinstance(versions, list) else ""

    def answers(self, photos: Iterator[Photo]) -> Iterator[Row]:
        """{"photo", "stamp", ...the answer} for each photo, in order. PredictError if the server answers none any more."""
        self.last_answer, self.refusal, self.given_up = time.monotonic(), None, 0
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_complain)
            begun: deque[asyncio.Task[Row]] = deque()
            client = httpx.AsyncClient(
                headers=self.headers, timeout=TIMEOUT, verify=verify(self.url), limits=httpx.Limits(max_connections=AT_A_TIME)
            )
            turns = asyncio.Semaphore(AT_A_TIME)

            async def next_row() -> Row | None:
                while len(begun) < AHEAD and (photo := next(photos, None)) is not None:
                    begun.append(asyncio.create_task(self._row(client, turns, photo)))
                return await begun.popleft() if begun else None

            try:
                while (row := runner.run(next_row())) is not None:
                    yield row
            finally:
                with contextlib.suppress(KeyboardInterrupt):  # which a task that waits for an interrupted one raises again
                    runner.run(_end(client, begun))

    async def _row(self, client: httpx.AsyncClient, turns: asyncio.Semaphore, photo: Photo) -> Row:
        async with turns:
            if self.refusal is not None:  # of another photo, and it is the same for all
                raise self.refusal
            found: Read = await asyncio.to_thread(read, photo)
            row = {"photo": photo.name, "stamp": found.stamp}
            if isinstance(found.content, UnreadError):
                return row | error_answer(found.content, found.content.status, found.content.kind)
            try:
                reads = bool(photo.text) and await asyncio.to_thread(self._reads_text)
                text = {TEXT_HEADER: encode_text(check_text(photo.text))} if reads else {}
            except TextError as error:
                return row | error_answer(error, error.status, "RequestError")
            try:
                return row | await self._asked(client, found.content, text)
            except PredictError as error:
                self.refusal = error
                raise

    def _reads_text(self) -> bool:
        """Whether the model reads texts; asked once, of the first photo that has one."""
        if self._texts is None:
            self._texts = self.model in self._get("/v1/models").get("texts", [])
        return self._texts

    async def _asked(self, client: httpx.AsyncClient, content: bytes, text: dict[str, str]) -> Row:
        first = refused_at = time.monotonic()
        tries = 0  # that are the photo's own: refused, while the server answers
        for number in range(1_000_000):
            try:
                answer = await self._ask(client, content, text)
            except AgainError as error:
                waited = time.monotonic() - max(self.last_answer, first) > PATIENCE_S
                if waited and (error.status == QUOTA or self.given_up >= AT_A_TIME or not await self._is_ready(client)):
                    raise PredictError(f"{self.url} has answered nothing for {PATIENCE_S:g} s: {error}; {GO_ON}") from error
                # an answer from before an outage says nothing about the photo
                tries += waited or (self.last_answer > refused_at and not error.busy)
                if tries >= TRIES:
                    self.given_up += 1
                    return error_answer(error, error.status, "UnansweredError")
                refused_at = time.monotonic()
                await asyncio.sleep(_pause(error, tries if waited else number))
            else:
                self.last_answer, self.given_up = time.monotonic(), 0
                return answer
        raise AssertionError("unreachable")

    async def _ask(self, client: httpx.AsyncClient, content: bytes, text: dict[str, str]) -> Row:
        """One try. AgainError, PredictError."""
        try:
            response = await client.post(f"{self.url}/predictions/{self.path}", content=content, headers=text)
        except httpx.HTTPError as error:
            if is_final(error):
                raise PredictError(f"{self.url} does not answer: {described(error)}") from error
            raise AgainError(described(error), 503) from error
        return answer_of(response)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        """Whether the server says that it answers photos: then it is the photo that it does not answer."""
        try:
            response = await client.get(f"{self.url}/readyz")
        except httpx.HTTPError:
            return False
        return response.is_success and json_of(response).get("ready") is True


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As the loop does by itself, but not of Ctrl-C while a task runs: that ends the command, which says so."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


async def _end(client: httpx.AsyncClient, begun: Iterable[asyncio.Task[Row]]) -> None:
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    await client.aclose()


def _model_schema(document: Body) -> Body:
    """What an OpenAPI document says of a model's name; {} if it says nothing of it. LookupError, TypeError, ValueError."""
    parameters = document["paths"]["/predictions/{model}"]["post"]["parameters"]
    (place,) = [one for one in parameters if one["name"] == "model"]
    return dict(place["schema"])


def _pause(error: AgainError, number: int) -> float:
    """Seconds until the next try: as long as the server says, else twice as long each time. Not all at the same moment."""
    pause_s = min(PAUSE_S * 2 ** min(number, 10), LONGEST_PAUSE_S) if error.pause_s is None else max(error.pause_s, PAUSE_S)
    return pause_s * random.uniform(1.0, 1.5)
