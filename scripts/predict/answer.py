"""What a server's response means: an answer, an error of the photo, one to ask again after, or one of all photos."""

import os
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from scripts.folders import shown
from scripts.predict.photo import PredictError

LONGEST_PAUSE_S = 30.0
OF_THE_PHOTO = (400, 413, 415, 422, 500)
AGAIN = (408, 429, 502, 503, 504)
QUOTA = 429
API_KEY = "SEEFOOD_API_KEY"
EXPECTED = '{"predictions": [{"label": "ramen", "probability": 0.9}, ...]}'


class AgainError(PredictError):
    """The server may answer the same request later: after `pause_s` if it says so."""

    def __init__(self, message: str, status: int, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.pause_s = status, pause_s

    @property
    def busy(self) -> bool:
        """Whether it is the server's load: a quota, or a time to come back is named."""
        return self.status == QUOTA or self.pause_s is not None


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """A photo's answer, or its error as {"code", "type", "message"}. AgainError; PredictError for what concerns all photos."""
    check_access(response)
    body = json_of(response)
    message = shown(str(body.get("message") or response.reason_phrase or response.status_code))
    if response.status_code in AGAIN:
        raise AgainError(f"{response.status_code} {message}", response.status_code, _retry_after(response))
    if response.status_code in OF_THE_PHOTO:
        return {"code": response.status_code, "type": shown(str(body.get("type") or "HTTPError")), "message": message}
    if not response.is_success:
        to = f" to {response.headers['location']}" if response.is_redirect and "location" in response.headers else ""
        raise PredictError(f"{response.url} answers {response.status_code}{to}: {message}")
    if not isinstance(body.get("predictions"), list) or not body["predictions"]:
        raise PredictError(
            f"{response.url} answers no predictions but {response.text[:80]!r}: is URL the address of such a server?"
        )
    if not _is_answer(body):
        raise PredictError(
            f"{response.url} answers {response.text[:80]!r}, expected {EXPECTED}: is URL the address of such a server?"
        )
    return body


def _is_answer(body: dict[str, Any]) -> bool:
    """Whether a table can be made of it."""
    return (
        all(
            isinstance(one, dict) and _is_text(one.get("label")) and _is_probability(one.get("probability"))
            for one in body["predictions"]
        )
        and isinstance(body.get("sure", True), bool)
        and all(_is_text(body.get(name, "")) for name in ("model", "version"))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value == shown(value)  # JSON may hold half a character, which no file can


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_access(response: httpx.Response) -> None:
    """PredictError for a server that wants a key, or another one."""
    if response.status_code in (401, 403):
        message = json_of(response).get("message") or response.reason_phrase
        hint = "" if os.environ.get(API_KEY) else f"; {API_KEY}=... in the environment gives one"
        raise PredictError(f"{response.url} refuses to answer ({response.status_code}): {message}{hint}")


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The object in its body; {} if it is anything else."""
    try:
        body = response.json()
    except (ValueError, RecursionError):  # a load balancer's page
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds until the server wants to be asked again; None if it says nothing of it."""
    text = response.headers.get("retry-after", "")
    try:
        pause_s = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(0.0, pause_s), LONGEST_PAUSE_S)


def headers() -> dict[str, str]:
    """Of each request. ValueError for a key that no header can hold."""
    found = {"content-type": "application/octet-stream"}
    if key := os.environ.get(API_KEY):
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"{API_KEY} holds characters that no key has: is there a line break in it?")
        found["authorization"] = f"Bearer {key}"
    return found


def verify(url: str) -> ssl.SSLContext | bool:
    """httpx's own takes 20 ms to read certificates, and plain HTTP needs none; it follows SSL_CERT_FILE."""
    return httpx.create_ssl_context() if url.startswith("https:") else False


def is_final(error: httpx.HTTPError) -> bool:
    """Whether asking again changes nothing. Other faults of TLS, as an end within the handshake, are a restart's."""
    tls = _tls_error(error)
    return isinstance(tls, ssl.SSLCertVerificationError) or (tls is not None and tls.reason == "WRONG_VERSION_NUMBER")


def described(error: httpx.HTTPError) -> str:
    """Why there is no response, for people."""
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({tls.verify_message}): SSL_CERT_FILE=ca.pem names a file of those that are"
    if is_final(error) and tls is not None:
        return f"no TLS is spoken there ({tls.reason}): is it http://, or another port?"
    return str(error) or type(error).__name__


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
