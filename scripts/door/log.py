"""The access log: a line of JSON for each request, without anything of its photo. Off unless it is asked for."""

import json
import sys
from datetime import UTC, datetime
from typing import TextIO

from starlette.types import Scope

from scripts.door.times import Times


class AccessLog:
    """Writes lines, or nothing."""

    def __init__(self, enabled: bool, out: TextIO = sys.stdout) -> None:
        self.enabled, self.out = enabled, out

    def __call__(self, scope: Scope, status: int, sent: int, times: Times) -> None:
        """One request that is over: `sent` bytes of body. All times in milliseconds."""
        if not self.enabled:
            return
        state = scope["state"]
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "received": times.received,
            "sent": sent,
            "ms": times.in_ms(),
            **{name: state[name] for name in ("version", "key", "error") if name in state},
        }
        try:
            self.out.write(json.dumps(line) + "\n")
            self.out.flush()
        except (OSError, ValueError):  # a full disk or a closed pipe must not end the server
            return
