"""Listeners of one process, each an address with an application and limits of its own, on uvicorn's server and uvloop.

`asyncio.Runner(loop_factory=uvloop.new_event_loop)` runs `HttpServer.serve`. Signals are the caller's: it calls `stop`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import uvicorn
from uvicorn.config import Config

from scripts.door.http.connections import Connections
from scripts.door.http.handshake import Handshake
from scripts.door.http.limits import Limits
from scripts.door.http.protocol import DoorProtocol
from scripts.door.http.tls import make_context

BACKLOG = 512  # connections that the system holds until they are taken in
TICKS_OF_SWEEP = 5  # uvicorn ticks ten times a second


@dataclass(frozen=True)
class Listener:
    """Where an application is reached; with certificate and key it is over TLS alone. `lifespan`: as ASGI defines it."""

    app: Any
    host: str
    port: int
    limits: Limits = field(default_factory=Limits)
    certfile: Path | None = None
    keyfile: Path | None = None
    lifespan: Literal["on", "off"] = "off"

    def bind(self) -> socket.socket:
        """A listening socket. OSError if the address is taken."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        both = self.host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server((self.host, self.port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.limits.unsent_bytes)
        return listening

    def context(self) -> ssl.SSLContext | None:
        """Its TLS, if it has any. ValueError if only one file is given, or they are no pair."""
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("TLS needs a certificate and its key, one of them is missing")
        return make_context(self.certfile, self.keyfile) if self.certfile and self.keyfile else None


class HttpServer:
    """Binds at once, so that a taken port is found before anything else starts. OSError, ValueError: as `Listener`."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._servers: list[_Server] = []
        try:
            for listener in listeners:
                self._servers.append(_Server(listener))
        except BaseException:
            self.close()
            raise

    @property
    def ports(self) -> list[int]:
        """One for each listener, in order; where 0 was asked, the one that the system chose."""
        return [server.port for server in self._servers]

    @property
    def connections(self) -> list[Connections]:
        """Of each listener, for metrics."""
        return [server.connections for server in self._servers]

    @property
    def is_started(self) -> bool:
        """Whether all listeners answer."""
        return all(server.started for server in self._servers)

    async def serve(self) -> None:
        """Answer until `stop`, then for as long as answers in flight take, or `Limits.stop_s`."""
        await asyncio.gather(*(server.serve(sockets=[server.socket]) for server in self._servers))

    def stop(self) -> None:
        """Take no new requests, and let `serve` return when those in flight are answered. From any thread or signal handler."""
        for server in self._servers:
            server.should_exit = True

    def close(self) -> None:
        """Free the addresses of a server that is not served."""
        for server in self._servers:
            server.socket.close()


class _Server(uvicorn.Server):
    """uvicorn's server for one listener, with our protocol, connections and sweep."""

    def __init__(self, listener: Listener) -> None:
        context = listener.context()
        limits = listener.limits
        super().__init__(
            Config(
                listener.app,
                interface="asgi3",
                http=DoorProtocol,
                ws="none",
                lifespan=listener.lifespan,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=max(1, round(limits.stop_s)),
            )
        )
        self.tls, self.limits = context, limits
        self.connections = Connections(limits, tls=context is not None)
        self.socket = listener.bind()
        self.port: int = self.socket.getsockname()[1]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: signals are the caller's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a protocol that has our connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application failed to start: its log says why")
        loop = asyncio.get_running_loop()
        await super().on_tick(0)  # the date, before the first answer
        self.servers = [await loop.create_server(self._protocol, sock=sock, backlog=BACKLOG) for sock in sockets or []]
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        door = DoorProtocol(self.config, self.server_state, self.lifespan.state, self.connections)
        return Handshake(door, self.tls) if self.tls else door

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's; connections are looked after, too."""
        self.connections.find_gone()
        if counter % TICKS_OF_SWEEP == 0:
            self.connections.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, while what takes too long is still ended; then what is left is closed."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()
        for connection in list(self.connections.open):
            connection.end("stopped", at_once=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.connections.find_gone()
            self.connections.sweep(asyncio.get_running_loop().time())
