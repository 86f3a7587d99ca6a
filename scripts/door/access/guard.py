"""Keys, rates and CORS around an application, in the one order that is right."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp

from scripts.door.access.cors import Cors
from scripts.door.access.keys import KeyFile, Keys
from scripts.door.access.rates import Buckets, RateLimits, Rates, address_of, key_of


@dataclass(frozen=True)
class Access:
    """Who may use the door. The defaults are for a laptop: whoever reaches it, and no pages of other origins."""

    key_file: Path | None = None
    origins: tuple[str, ...] = ()
    rates: RateLimits = field(default_factory=RateLimits)


def guarded(app: ASGIApp, access: Access, warn: Callable[[str], None]) -> ASGIApp:
    """The application behind what `access` asks for. ValueError or OSError for settings that cannot be.

    `warn` takes a sentence about a file of keys that has become unreadable.
    """
    rates = access.rates
    if access.key_file is not None:
        app = Rates(app, Buckets(rates.burst_s, rates.clients), key_of(rates))
        app = Keys(app, KeyFile(access.key_file, warn))
    if rates.per_address:
        # before the keys: guesses count, too
        app = Rates(app, Buckets(rates.burst_s, rates.clients), address_of(rates))
    if access.origins:
        # first of all: a preflight request bears no key, and a page may read why it was refused
        app = Cors(app, access.origins)
    return app
