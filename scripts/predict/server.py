"""The answers of a server, several requests at a time.

A server that is busy (429, 503), starts anew or cannot be reached is asked again, with growing pauses; it is given up when it has
answered nothing at all for PATIENCE_S. A photo that alone is refused again and again gets that as its error.
"""

import asyncio
import os
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from scripts.model_name import check_model_name
from scripts.predict.offline import Read, Row, error_answer, read
from scripts.predict.photo import Photo, PredictError, UnreadError

AT_A_TIME = 16  # requests: what a worker takes at a time
AHEAD = 4 * AT_A_TIME  # photos that are begun or answered before the first row is written
TIMEOUT = httpx.Timeout(90.0, connect=10.0)  # a load balancer's 60 s, and some
PATIENCE_S = 120.0
LOOK_S = 1.0  # between two tries before the first photo
TRIES = 6  # of one photo, while others are answered
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
OF_THE_PHOTO = (400, 413, 415, 422, 500)
AGAIN = (408, 429, 502, 503, 504)
GO_ON = "the same command goes on where it stopped"
API_KEY = "SEEFOOD_API_KEY"


class AgainError(PredictError):
    """The server may answer the same request later: after `pause_s` if it says so."""

    def __init__(self, message: str, status: int, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.pause_s = status, pause_s


class Server:
    """A server that answers /predictions/MODEL, below a path if need be."""

    def __init__(self, url: str, model: str | None, version: str | None) -> None:
        """Ask what it serves, if no model is named. ValueError, PredictError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"URL is {url!r}, expected the server's address, e.g. https://food.example.com")
        if parts.username or parts.password:
            raise ValueError(f"URL holds a password, which would be seen by others: a key goes into {API_KEY}")
        self.url, self.headers = url.rstrip("/"), _headers()
        self.model = check_model_name(model) if model else self._only_model()
        self.version = version
        self.path = "/".join(filter(None, (self.model, version)))
        self.last_answer = time.monotonic()
        self.refusal: PredictError | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What makes its answers comparable with earlier ones: its address and the version that it serves now."""
        return {"url": self.url, "model": self.model, "version": self.version or self._default_version()}

    def _get(self, path: str) -> dict[str, Any]:
        """JSON of a path, {} if there is none. Waits for a server that starts. PredictError if it does not answer."""
        deadline = time.monotonic() + PATIENCE_S
        with httpx.Client(headers=self.headers, timeout=TIMEOUT, verify=_verify(self.url)) as client:
            for number in range(1_000_000):
                try:
                    response = client.get(self.url + path)
                except httpx.HTTPError as error:
                    why = _described(error)
                    if _tls_error(error) or time.monotonic() > deadline:
                        raise PredictError(f"{self.url} does not answer: {why}") from error
                else:
                    _check_access(self.url, response)
                    body, why = _json(response), f"{response.status_code} {response.reason_phrase}"
                    if body or response.status_code not in AGAIN:
                        return body
                    if time.monotonic() > deadline:
                        raise PredictError(f"{self.url} does not answer: {why}")
                if number == 0:
                    print(f"{self.url} does not answer ({why}): asking again for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
                time.sleep(LOOK_S)
        raise AssertionError("unreachable")

    def _only_model(self) -> str:
        try:
            (place,) = [
                one
                for one in self._get("/openapi.json")["paths"]["/predictions/{model}"]["post"]["parameters"]
                if one["name"] == "model"
            ]
            models = place["schema"]["enum"]
        except (LookupError, TypeError, ValueError):
            raise PredictError(f"{self.url} does not show its models: name one, MODEL=seefood") from None
        if len(models) != 1:
            raise PredictError(f"{self.url} serves the models {', '.join(models)}: choose one, e.g. MODEL={models[0]}")
        return str(models[0])

    def _default_version(self) -> str:
        return str(self._get("/readyz").get("version") or "")

    def answers(self, photos: Iterator[Photo]) -> Iterator[Row]:
        """{"photo", "stamp", ...the answer} for each photo, in order. PredictError if the server answers none any more."""
        self.last_answer, self.refusal = time.monotonic(), None
        with asyncio.Runner() as runner:
            begun: deque[asyncio.Task[Row]] = deque()
            client = httpx.AsyncClient(
                headers=self.headers, timeout=TIMEOUT, verify=_verify(self.url), limits=httpx.Limits(max_connections=AT_A_TIME)
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
                return row | await self._asked(client, found.content)
            except PredictError as error:
                self.refusal = error
                raise

    async def _asked(self, client: httpx.AsyncClient, content: bytes) -> Row:
        first = time.monotonic()
        for number in range(1_000_000):
            try:
                answer = await self._ask(client, content)
            except AgainError as error:
                others = self.last_answer > first
                if others and number + 1 >= TRIES and error.status != 429:
                    return error_answer(error, error.status, "UnansweredError")
                if time.monotonic() - max(self.last_answer, first) > PATIENCE_S:
                    raise PredictError(f"{self.url} has answered nothing for {PATIENCE_S:g} s: {error}; {GO_ON}") from error
                await asyncio.sleep(_pause(error, number))
            else:
                self.last_answer = time.monotonic()
                return answer
        raise AssertionError("unreachable")

    async def _ask(self, client: httpx.AsyncClient, content: bytes) -> Row:
        """One try. AgainError, PredictError."""
        try:
            response = await client.post(f"{self.url}/predictions/{self.path}", content=content)
        except httpx.HTTPError as error:
            if _tls_error(error):
                raise PredictError(f"{self.url} does not answer: {_described(error)}") from error
            raise AgainError(_described(error), 503) from error
        _check_access(self.url, response)
        body = _json(response)
        message = str(body.get("message") or response.reason_phrase or response.status_code)
        if response.status_code in AGAIN:
            raise AgainError(f"{response.status_code} {message}", response.status_code, _retry_after(response))
        if response.status_code in OF_THE_PHOTO:
            return {"code": response.status_code, "type": str(body.get("type") or "HTTPError"), "message": message}
        if not response.is_success:
            to = f" to {response.headers['location']}" if response.is_redirect and "location" in response.headers else ""
            raise PredictError(f"{response.url} answers {response.status_code}{to}: {message}")
        if not isinstance(body.get("predictions"), list) or not body["predictions"]:
            raise PredictError(
                f"{response.url} answers no predictions but {response.text[:80]!r}: is URL the address of such a server?"
            )
        return body


async def _end(client: httpx.AsyncClient, begun: Iterable[asyncio.Task[Row]]) -> None:
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    await client.aclose()


def _headers() -> dict[str, str]:
    headers = {"content-type": "application/octet-stream"}
    if key := os.environ.get(API_KEY):
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"{API_KEY} holds characters that no key has: is there a line break in it?")
        headers["authorization"] = f"Bearer {key}"
    return headers


def _verify(url: str) -> ssl.SSLContext | bool:
    # httpx's own takes 20 ms to read certificates, and plain HTTP needs none; it follows SSL_CERT_FILE
    return httpx.create_ssl_context() if url.startswith("https:") else False


def _check_access(url: str, response: httpx.Response) -> None:
    if response.status_code in (401, 403):
        message = _json(response).get("message") or response.reason_phrase
        hint = "" if os.environ.get(API_KEY) else f"; {API_KEY}=... in the environment gives one"
        raise PredictError(f"{url} refuses to answer ({response.status_code}): {message}{hint}")


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:  # a load balancer's page
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; the header's other form, a date, is taken for none."""
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else None


def _pause(error: AgainError, number: int) -> float:
    """Seconds until the next try: as long as the server says, else twice as long each time. Not all at the same moment."""
    pause_s = min(PAUSE_S * 2 ** min(number, 10), LONGEST_PAUSE_S) if error.pause_s is None else error.pause_s
    return pause_s * random.uniform(1.0, 1.5)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _described(error: httpx.HTTPError) -> str:
    if isinstance(tls := _tls_error(error), ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({tls.verify_message}): SSL_CERT_FILE=ca.pem names a file of those that are"
    if tls is not None:
        return f"no TLS is spoken there ({tls.reason or tls}): is it http://, or another port?"
    return str(error) or type(error).__name__
