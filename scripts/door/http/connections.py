"""All connections of a listener: how many there may be, which gives way to a new one, and what has taken too long."""

import resource
import select
from collections import Counter
from typing import TYPE_CHECKING

from scripts.door.http.limits import Limits
from scripts.door.http.refusal import Refusal

if TYPE_CHECKING:
    from scripts.door.http.lifetime import Lifetime

MOST_LINGERING = 32  # refused connections that are given the time to read why


def room(limits: Limits, tls: bool) -> int:
    """How many connections fit: the setting, what the limit on open files leaves, or over TLS what their memory does."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(limits.connections, limits.tls_connections) if tls else limits.connections
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - limits.reserved_files))


class Connections:
    """Each connection is in `idle`, in `heads` or busy. The first in `idle` has been so for the longest."""

    def __init__(self, limits: Limits, tls: bool = False) -> None:
        self.limits = limits
        self.most = room(limits, tls)
        self.open: set[Lifetime] = set()
        self.idle: dict[Lifetime, None] = {}  # between requests, or before the first
        self.heads: dict[Lifetime, None] = {}  # a request has begun, and its head is not complete
        self.lingering: dict[Lifetime, None] = {}  # answered for the last time, and read past
        self.paused: set[Lifetime] = set()  # not read from, so that their end shows only here
        self.per_address: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # by cause: evicted, 503, 408, slow body, slow reader, ...
        self._lingering = 0

    def add(self, connection: "Lifetime") -> Refusal | None:
        """Count it; why it gets no place, or None. Over a limit one that waits for its client gives way."""
        address = connection.address
        self.open.add(connection)
        self.per_address[address] += 1
        refusal = None
        if address and self.per_address[address] > self.limits.connections_per_address and not self._evict(address):
            refusal = self._refusal(429, "too many connections of this address")
        elif len(self.open) - self._lingering > self.most and not self._evict():
            refusal = self._refusal(503, "too many connections")
        if refusal is None:
            self.idle[connection] = None
        return refusal

    def remove(self, connection: "Lifetime") -> None:
        """Its place is free."""
        if connection not in self.open:
            return
        self.open.discard(connection)
        self.leave(connection)
        self.paused.discard(connection)
        self.per_address[connection.address] -= 1
        if self.per_address[connection.address] <= 0:
            del self.per_address[connection.address]
        if connection.is_refused:
            self._lingering -= 1

    def leave(self, connection: "Lifetime") -> None:
        """It no longer waits for its client."""
        self.idle.pop(connection, None)
        self.heads.pop(connection, None)
        self.lingering.pop(connection, None)

    def may_linger(self) -> bool:
        """Whether one that was refused may stay for a moment. It counts from now on, until it is removed."""
        self._lingering += 1
        return self._lingering <= MOST_LINGERING

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        for connection in list(self.open):
            connection.check_time(now)

    def find_gone(self) -> None:
        """End those whose client has gone while they were not read from."""
        if not self.paused:
            return
        poll = select.poll()
        by_file = {connection.file(): connection for connection in self.paused}
        for file in by_file:
            if file >= 0:
                poll.register(file, select.POLLRDHUP)
        for file, _ in poll.poll(0):
            by_file[file].client_gone()

    def _evict(self, address: str | None = None) -> bool:
        for waiting in (self.lingering, self.idle, self.heads):
            for connection in waiting:
                if address is None or connection.address == address:
                    self.leave(connection)
                    connection.end("evicted", at_once=waiting is self.lingering)
                    return True
        return False

    def _refusal(self, status: int, message: str) -> Refusal:
        return Refusal(status, f"{message}: try again later", self.limits.retry_after_s)
