"""A connection until TLS is agreed on: it has a place, a time, and gives way as any other that waits for its client."""

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.door.http.protocol import DoorProtocol

SHUTDOWN_S = 1.0  # for a client to agree on the end


class Handshake(asyncio.Protocol):
    """Hands the connection to `door` when it is done."""

    def __init__(self, door: "DoorProtocol", context: ssl.SSLContext) -> None:
        self.door, self.context = door, context
        self._early = b""  # arrived before TLS reads
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, and begin."""
        self.door.meet(transport)
        if not self.door.is_ending:
            self._task = self.door.loop.create_task(self._shake_hands(transport))  # not waited for when the server stops

    def data_received(self, data: bytes) -> None:
        """Keep the first bytes for TLS: uvloop reads as soon as the connection is made."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone before it began, or was turned away."""
        self.door.connection_lost(exc)

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        door = self.door
        transport.pause_reading()
        times: dict[str, Any] = {"ssl_handshake_timeout": door.limits.handshake_s, "ssl_shutdown_timeout": SHUTDOWN_S}
        start = door.loop.start_tls(transport, door, self.context, server_side=True, **times)
        task = door.loop.create_task(start)
        await asyncio.sleep(0)  # now TLS is about to be connected, and to read
        door.loop.call_soon(self._replay, transport)
        try:
            secured = await task
        except OSError:  # among them ssl.SSLError, ConnectionError and TimeoutError
            secured = None
        if secured is None:
            transport.abort()
            door.connection_lost(ConnectionAbortedError())
        elif not door.is_ending:
            door.connection_made(secured)

    def _replay(self, transport: asyncio.Transport) -> None:
        protocol: Any = transport.get_protocol()  # as asyncio.BufferedProtocol
        if self._early and protocol is not self:
            protocol.get_buffer(len(self._early))[: len(self._early)] = self._early
            protocol.buffer_updated(len(self._early))
