"""Requests to an ASGI application, without a server."""

import asyncio

import httpx
from starlette.responses import JSONResponse


def ask(app, method, path, peer="192.0.2.1", base="http://door", **options):
    """The application's answer to one request from the address `peer`."""

    async def once():
        transport = httpx.ASGITransport(app=app, client=(peer, 50000))
        async with httpx.AsyncClient(transport=transport, base_url=base, trust_env=False) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


async def echo(scope, receive, send):
    """Answers 200 with what the layers around it have found out."""
    state = {name: value for name, value in scope.get("state", {}).items() if name in ("key", "key_rate")}
    await JSONResponse({"path": scope["path"], **state})(scope, receive, send)
