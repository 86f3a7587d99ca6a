"""How often a client may ask: token buckets for each address and for each key, 429 with Retry-After over the rate.

A bucket fills at the rate and holds some seconds of it. Full buckets are forgotten, and beyond a number of clients those that
were used longest ago: an attack from millions of addresses takes no more memory, and locks nobody else out.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scripts.door.access.keys import OPEN_PATHS
from scripts.door.access.refusal import refuse
from scripts.door.addresses import Network, address_in, is_in, networks, owner_of
from scripts.door.errors import DoorError

MAX_FORWARDED = 32  # entries of X-Forwarded-For that are looked at


@dataclass(frozen=True)
class RateLimits:
    """Requests a second; 0: no limit."""

    per_address: float = 0.0  # off: behind a load balancer that is not trusted below, all clients have its address
    per_key: float = 0.0  # of a key whose line has no rate of its own
    burst_s: float = 10.0  # a bucket holds so many seconds of its rate: a page of photos at a time is no attack
    clients: int = 100_000  # buckets at a time, some 250 bytes each
    # addresses and networks whose X-Forwarded-For is believed; anyone else could write any address there
    trusted_proxies: tuple[str, ...] = ()


class Buckets:
    """Token buckets by client."""

    def __init__(self, burst_s: float, clients: int, now: Callable[[], float] = time.monotonic) -> None:
        self.burst_s, self.clients, self.now = burst_s, clients, now
        # by client: when its bucket is full again; those used last come last
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, rate: float) -> float:
        """Take a token from the client's bucket: 0, or the seconds until there is one."""
        now, token_s = self.now(), 1 / rate
        depth_s = max(self.burst_s, token_s)
        full_at = max(now, self._full_at.get(client, now)) + token_s
        wait_s = full_at - now - depth_s
        if wait_s > 1e-9:
            return wait_s
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        while self._full_at:
            client, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= self.clients:
                return
            del self._full_at[client]


class Rates:
    """ASGI: passes a request on if its client has a token left. `client_of` gives (client, rate), or None for no limit."""

    def __init__(self, app: ASGIApp, buckets: Buckets, client_of: Callable[[Scope], tuple[str, float] | None]) -> None:
        self.app, self.buckets, self.client_of = app, buckets, client_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and (limit := self.client_of(scope)):
            wait_s = self.buckets.take(*limit)
            if wait_s:
                message = f"over {limit[1]:g} requests a second: send this request again in {math.ceil(wait_s)} s"
                await refuse(DoorError(message, 429, "RateError", retry_after_s=math.ceil(wait_s)), scope, send)
                return
        await self.app(scope, receive, send)


def key_of(limits: RateLimits) -> Callable[[Scope], tuple[str, float] | None]:
    """For Rates: the request's key, at its own rate or the setting's."""

    def client_of(scope: Scope) -> tuple[str, float] | None:
        state = scope.get("state", {})
        rate = state.get("key_rate") or limits.per_key
        return (state["key"], rate) if "key" in state and rate else None

    return client_of


def address_of(limits: RateLimits) -> Callable[[Scope], tuple[str, float] | None]:
    """For Rates: the client's address, at the setting's rate. ValueError for trusted proxies that are no networks."""
    trusted = networks(limits.trusted_proxies)

    def client_of(scope: Scope) -> tuple[str, float] | None:
        return client_address(scope, trusted), limits.per_address

    return client_of


def client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """Whom a request comes from: the owner of the peer, or, behind trusted proxies, of the last address that none of them has."""
    address = address_in((scope.get("client") or ("",))[0])
    if is_in(address, trusted):
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        for entry in forwarded[: -MAX_FORWARDED - 1 : -1]:
            before = address_in(entry)
            if before is None:
                break
            address = before
            if not is_in(address, trusted):
                break
    return owner_of(address)
