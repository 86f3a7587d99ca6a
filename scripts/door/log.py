"""The access log: a line of JSON for each request, without anything of its photo. Off unless it is asked for.

A thread writes it: whoever reads it may be slow, or stop, and requests must not wait for that. Lines for which there is no room
any more are lost, and counted.
"""

import queue
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import Scope

from scripts.door.access.keys import HEALTH_PATHS
from scripts.door.times import Times
from scripts.steps import one_line

MOST_LINES = 10_000  # that wait to be written, about 1 kB each
MOST_PATH = 200  # characters of a path, which is a stranger's
CLOSE_S = 2.0  # for the last of them, when the server stops


class AccessLog:
    """Writes lines, or nothing. `lost` is called with the number of lines that are not written."""

    def __init__(self, enabled: bool, lost: Callable[[int], object] = lambda count: None, out: TextIO = sys.stdout) -> None:
        self.enabled, self.lost, self.out = enabled, lost, out
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_LINES)
        self._writer = threading.Thread(target=self._write, name="access log", daemon=True)
        if enabled:
            self._writer.start()

    def __call__(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        """One request that is over: `sent` bytes of body. All times in milliseconds. Nothing of health checks that went well."""
        if not self.enabled or (status == 200 and scope["path"] in HEALTH_PATHS):
            return
        state = scope["state"]
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"][:MOST_PATH],
            "status": status,
            "received": times.received,
            "sent": sent,
            "ms": times.in_ms(),
            **{name: state[name] for name in ("version", "key", "error", "trace_id") if name in state},
            **({"cause": state["error_kind"]} if "error_kind" in state else {}),
            **({"traceback": state["raised"][2]} if "raised" in state else {}),
        }
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.lost(1)

    def close(self) -> None:
        """Write what waits, for at most CLOSE_S."""
        if self.enabled:
            try:
                self._lines.put(None, timeout=CLOSE_S)
            except queue.Full:
                return
            self._writer.join(CLOSE_S)

    def _write(self) -> None:
        line: dict[str, Any] | None = {}
        while line is not None:
            line = self._lines.get()
            try:
                if line is not None:
                    self.out.write(one_line(line) + "\n")
                    self.out.flush()  # each by itself: a full buffer ends within a line, and serve writes to the same pipe
            except (OSError, ValueError):  # a full disk or a closed pipe must not end the server
                self.lost(1)
