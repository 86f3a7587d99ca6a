"""The door's process: `python -m scripts.door.door`, started and watched by serve (scripts/serving/supervisor.py).

Reads a line of JSON a second on standard input (state.py); at its end, or at SIGTERM, it takes no more connections, answers what it
has, and ends.
"""

import asyncio
import json
import sys

from scripts.door.state import State


async def follow(state: State, ended: asyncio.Event) -> None:
    """Take serve's lines until it has gone."""
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        state.take(json.loads(line))
    ended.set()
