"""A small ASGI application for tests of the HTTP layer.

`python -m tests.door.http_app PORT_FILE [LIMIT=VALUE ...] [certfile=PATH keyfile=PATH]` serves it until SIGTERM.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from scripts.door.http.limits import Limits
from scripts.door.http.server import HttpServer, Listener

CONTENT_TYPE = (b"content-type", b"application/json")


class App:
    """Echoes a request as JSON; what else it does depends on the path."""

    def __init__(self) -> None:
        self.gone: list[str] = []  # paths of requests whose client went away
        self.asked: Counter[str] = Counter()  # by path
        self.release = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        path = scope["path"]
        self.asked[path] += 1
        if handle := getattr(self, path.strip("/").split("/")[0].replace("*", "") or "echo", None):
            await handle(scope, receive, send)
        else:
            await self.echo(scope, receive, send)

    async def echo(self, scope, receive, send, status=200, headers=()) -> None:
        length = 0
        while (message := await receive())["type"] == "http.request":
            length += len(message["body"])
            if not message["more_body"]:
                break
        else:
            self.gone.append(scope["path"])
            return
        seen = {key: scope[key] for key in ("method", "path", "http_version")} | {"length": length}
        seen["request_id"] = scope["state"]["request_id"]
        seen["query"] = scope["query_string"].decode()
        seen["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        await answer(send, status, json.dumps(seen).encode(), [CONTENT_TYPE, *headers])

    async def early(self, scope, receive, send) -> None:
        await answer(send, 413, b"too large")

    async def hold(self, scope, receive, send) -> None:
        """Answers when `/free` is asked."""
        await self.release.wait()
        self.release.clear()
        await self.echo(scope, receive, send)

    async def free(self, scope, receive, send) -> None:
        self.release.set()
        await self.echo(scope, receive, send)

    async def wait(self, scope, receive, send) -> None:
        """Reads the body, then waits for the client to go."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.append(scope["path"])

    async def queue(self, scope, receive, send) -> None:
        """Never reads the body; looks for the end of the client alone."""
        asked = asyncio.ensure_future(receive())
        while not (asked.done() and asked.result()["type"] == "http.disconnect"):
            if asked.done():
                asked = asyncio.ensure_future(receive())
            await asyncio.sleep(0.01)
        self.gone.append(scope["path"])

    async def big(self, scope, receive, send) -> None:
        await answer(send, 200, bytes(int(scope["query_string"])))

    async def parts(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async def status(self, scope, receive, send) -> None:
        await answer(send, int(scope["query_string"]), b"a body that this status may not have", [(b"X-Request-Id", b"of-the-app")])

    async def fault(self, scope, receive, send) -> None:
        raise ZeroDivisionError

    async def short(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"abc"})

    async def half(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ZeroDivisionError

    async def wrong(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]})


async def answer(send, status, body, headers=()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def serve_until_terminated(server: HttpServer) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


def main() -> None:
    given = dict(pair.split("=") for pair in sys.argv[2:])
    certfile, keyfile = (Path(given.pop(name)) if name in given else None for name in ("certfile", "keyfile"))
    limits: dict[str, Any] = {name: int(value) for name, value in given.items()}
    server = HttpServer([Listener(App(), "127.0.0.1", 0, Limits(**limits), certfile, keyfile)])
    Path(sys.argv[1]).write_text(str(server.ports[0]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_terminated(server))


if __name__ == "__main__":
    main()
