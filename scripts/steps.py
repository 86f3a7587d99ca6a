"""One line on standard output for each step that serving or a rollout takes: words, or a JSON object for CloudWatch."""

import contextlib
import json
import threading
from datetime import UTC, datetime


class Steps:
    """Prints steps: `steps("registered", version="1.1.0", took_s=3.2)`. Threads may call it at a time."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self._lock = as_json, threading.Lock()

    def __call__(self, step: str, **details: object) -> None:
        """Print the step with its time, UTC, and its details."""
        at = datetime.now(UTC)
        details = {name: round(value, 3) if isinstance(value, float) else value for name, value in details.items()}
        if self.as_json:
            line = json.dumps({"at": at.isoformat(timespec="milliseconds"), "step": step, **details}, default=str)
        else:
            words = " ".join(f"{name}={value}" for name, value in details.items())
            line = f"{at:%H:%M:%S} {step}" + (f": {words}" if words else "")
        # a full disk or a reader that has gone must not end what serves
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(line, flush=True)
