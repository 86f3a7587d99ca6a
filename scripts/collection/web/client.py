"""Asks for photos politely: a request a second for each host, what robots.txt allows, and later where a host is busy.

robots.txt is read as RFC 9309 has it (robots.py): a host whose file cannot be had for an error of its own is not asked.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from handler.limits import MAX_BYTES
from scripts.collection.web.addresses import Url, parse, resolve
from scripts.collection.web.connection import OK, Answer, Check, ask
from scripts.collection.web.robots import Robots
from scripts.predict.photo import UnreadError, unusable
from scripts.settings import Settings

AGENT = "SeeFood-collect"
MAX_REDIRECTS = 5
MOVED, BUSY = (301, 302, 303, 307, 308), (429, 503)
TRIES = 3  # of a host that is busy
MOST_WAIT_S = 120.0  # a host that asks for more is not asked again in this run until then
MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for 500 KiB at least
TYPES = ("image/", "application/octet-stream", "binary/octet-stream")


@dataclass
class _Host:
    """When it may be asked again, by time.monotonic(); `is_closed`: nobody waits for that."""

    free_at: float = 0.0
    is_closed: bool = False


class Web:
    """Remembers hosts and their robots.txt for a run. Not for two threads at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hosts: dict[str, _Host] = {}
        self._robots: dict[str, Robots | None] = {}  # by origin; None: it cannot be had

    def photo(self, address: str) -> bytes:
        """The bytes of a photo. UnreadError."""
        answer = self._follow(address, is_for_robots=False, check=_check_photo, most_bytes=MAX_BYTES)
        if answer.status != OK:
            raise UnreadError(f"HTTP status {answer.status}", answer.status)
        if error := unusable(len(answer.body)):
            raise error
        return answer.body

    def api(self, address: str, headers: Mapping[str, str], most_bytes: int, form: str | None = None) -> Answer:
        """The answer of an API that an account is for: robots.txt is not for it, and it moves nowhere. UnreadError."""
        return self._ask(parse(address, self._settings.collect_private), headers, lambda _: None, most_bytes, form)

    def pause(self, address: str, seconds: float) -> None:
        """Let a host be for a while."""
        host = self._host(parse(address, self._settings.collect_private))
        host.free_at = max(host.free_at, time.monotonic() + seconds)

    def _host(self, url: Url) -> _Host:
        return self._hosts.setdefault(url.host, _Host())

    def _follow(self, address: str, is_for_robots: bool, check: Check, most_bytes: int) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            url = parse(address, self._settings.collect_private)
            if not is_for_robots:
                self._check_robots(url)
            answer = self._ask(url, {}, check, most_bytes)
            location = answer.headers.get("location")
            if answer.status not in MOVED or not location:
                return answer
            # http.client reads headers as Latin-1; servers write UTF-8
            address = urljoin(str(url), location.encode("latin-1", "replace").decode("utf-8", "replace"))
        raise UnreadError(f"it was redirected over {MAX_REDIRECTS} times", 400)

    def _ask(self, url: Url, headers: Mapping[str, str], check: Check, most_bytes: int, form: str | None = None) -> Answer:
        host, settings = self._host(url), self._settings
        for attempt in range(1, TRIES + 1):
            self._wait(url.host, host)
            # looked up for each request, and never again for its connection
            addresses = resolve(url, settings.collect_private)
            try:
                named = {"User-Agent": AGENT, "Connection": "close", **headers}
                answer = ask(url, addresses, named, check, most_bytes, settings.collect_timeout_s, form)
            finally:
                host.free_at = time.monotonic() + settings.collect_interval_s
            if answer.status not in BUSY:
                return answer
            pause_s = max(_retry_after_s(answer.headers) or 2.0**attempt, settings.collect_interval_s)
            host.free_at, host.is_closed = time.monotonic() + pause_s, pause_s > MOST_WAIT_S or attempt == TRIES
            if host.is_closed:
                break
        raise UnreadError(f"{url.host} is busy (HTTP status {answer.status})", answer.status)

    def _wait(self, name: str, host: _Host) -> None:
        left_s = host.free_at - time.monotonic()
        if left_s > 0 and host.is_closed:
            raise UnreadError(f"{name} is busy, and wants to be asked later", 503)
        host.is_closed = False
        time.sleep(max(0.0, left_s))

    def _check_robots(self, url: Url) -> None:
        """UnreadError if the host's robots.txt forbids it. Its crawl delay counts, too."""
        if url.origin not in self._robots:
            self._robots[url.origin] = self._read_robots(url.origin)
        robots = self._robots[url.origin]
        if robots is None:
            raise UnreadError(f"the robots.txt of {url.host} cannot be had: it is not asked in this run", 503)
        if not robots.allows(AGENT, str(url)):
            raise UnreadError(f"robots.txt of {url.host} does not allow it", 403)
        delay_s = robots.delay_s(AGENT)
        if delay_s > MOST_WAIT_S:
            raise UnreadError(f"robots.txt of {url.host} asks for {delay_s:g} s between two requests", 403)
        host = self._host(url)
        host.free_at = max(host.free_at, host.free_at + delay_s - self._settings.collect_interval_s)

    def _read_robots(self, origin: str) -> Robots | None:
        try:
            answer = self._follow(f"{origin}/robots.txt", is_for_robots=True, check=lambda _: None, most_bytes=MAX_ROBOTS_BYTES)
        except UnreadError as error:
            if error.status == 403:  # the address, not the file: the photo's own check says so
                raise
            return None
        if answer.status >= 500:
            return None
        return Robots(answer.body if answer.status == OK else b"")


def _check_photo(headers: Message) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith(TYPES):
        raise UnreadError(f"the answer is {kind[:80]!r}, expected a photo", 415)


def _retry_after_s(headers: Message) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3); None if there is none."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
