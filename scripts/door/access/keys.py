"""API keys: a file with a line for each, NAME HASH [RATE], where HASH is the SHA-256 of the key in hexadecimal.

A key is 256 random bits, so its plain hash gives nothing away; the file may be read by others, and the keys are nowhere. RATE is
in requests a second. Lines that are empty or begin with # are passed over. The file is read again when it changes: a broken one
is reported, and the keys that were read last stay.
"""

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scripts.door.access.refusal import refuse
from scripts.door.errors import DoorError
from scripts.door.pages import page_files

# requests of load balancers and orchestrators, which have no key and come from a few addresses
HEALTH_PATHS = frozenset({"/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"})
# the pages ask for a key themselves, and tell nothing
OPEN_PATHS = HEALTH_PATHS | page_files().keys()
LINE = re.compile(r"(\S{1,64})\s+([0-9a-fA-F]{64})(?:\s+(\S+))?")
NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
PREFIX = "sf_"  # secret scanners find what begins alike
LOOK_S = 1.0  # between two looks at the file


@dataclass(frozen=True)
class Key:
    """A line of the file. `rate`: requests a second, None for the setting's."""

    name: str
    digest: bytes = field(repr=False)
    rate: float | None = None


def digest_of(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key(name: str, rate: str = "") -> tuple[str, str]:
    """(a new key, its line for the file). ValueError for a bad name or rate."""
    key = PREFIX + secrets.token_urlsafe(32)
    line = " ".join(filter(None, (name, digest_of(key).hex(), rate)))
    if not NAME.fullmatch(name):
        raise ValueError(f"the key's name is {name!r}, expected 1 to 64 letters, digits, dots, dashes, underscores or @")
    parse_keys(line)
    return key, line


def parse_keys(text: str) -> list[Key]:
    """The keys of a file's text. ValueError that names the line."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = LINE.fullmatch(stripped)
        # the line is not shown: someone may have written the key itself
        if match is None or not NAME.fullmatch(match[1]):
            raise ValueError(f"line {number} of the keys is not NAME HASH [RATE], with 64 hexadecimal digits as the hash")
        if match[1] in keys:
            raise ValueError(f"line {number} of the keys: {match[1]!r} is there twice")
        keys[match[1]] = Key(match[1], bytes.fromhex(match[2]), _rate(match[3], number))
    return list(keys.values())


def _rate(text: str | None, number: int) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"line {number} of the keys: the rate is {text[:20]!r}, expected requests a second, over 0")
    return rate


class KeyFile:
    """The keys of a file, as it is now."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """`warn` takes a sentence about a file that has become unreadable. ValueError or OSError if it is so at the start."""
        self.path, self.warn = path, warn
        self._stamp, self._looked = self._stat(), time.monotonic()
        self._keys = parse_keys(path.read_text(encoding="utf-8"))

    def _stat(self) -> tuple[int, ...]:
        """What changes when the file does; nothing if it is not there."""
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def keys(self) -> list[Key]:
        """The keys."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._refresh()
        return self._keys

    def _refresh(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = parse_keys(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.warn(f"{self.path} cannot be read, its last keys stay valid: {error}")

    def find(self, key: str) -> Key | None:
        """The line of a key. In constant time: all lines are compared, whichever fits."""
        found, digest = None, digest_of(key)
        for line in self.keys():
            if hmac.compare_digest(line.digest, digest):
                found = line
        return found


class Keys:
    """ASGI: passes requests that bear a key on, with its name and rate in the scope's state; 401 for the others."""

    def __init__(self, app: ASGIApp, file: KeyFile) -> None:
        self.app, self.file = app, file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = given_keys(Headers(scope=scope))
            key = next((found for text in given if (found := self.file.find(text))), None)
            if key is None:
                await refuse(_unauthorized(bool(given)), scope, send)
                return
            scope.setdefault("state", {}).update(key=key.name, key_rate=key.rate)
        await self.app(scope, receive, send)


def given_keys(headers: Headers) -> list[str]:
    """What a request bears as a key: Authorization: Bearer KEY, X-API-Key: KEY."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, headers.get("x-api-key", "").strip()) if key]


def _unauthorized(given: bool) -> DoorError:
    # RFC 6750, 3: without a key no error code
    challenge = 'Bearer realm="seefood"' + (', error="invalid_token"' if given else "")
    message = "this key is not valid" if given else "a key is needed: send it as Authorization: Bearer KEY, or as X-API-Key: KEY"
    return DoorError(message, 401, "UnauthorizedError", headers={"www-authenticate": challenge})
