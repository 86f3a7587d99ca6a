"""One line on standard output for each step that serving or a rollout takes: words, or a JSON object for CloudWatch."""

import contextlib
import json
import textwrap
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
            # words that hold spaces are quoted; what is several lines long follows the line, indented
            words = [f"{name}={_quoted(value)}" for name, value in details.items() if "\n" not in str(value).strip()]
            blocks = [textwrap.indent(str(value).strip(), "    ") for value in details.values() if "\n" in str(value).strip()]
            line = "\n".join([f"{at:%H:%M:%S} {step}" + (f": {' '.join(words)}" if words else ""), *blocks])
        # a full disk or a reader that has gone must not end what serves
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(line, flush=True)


def _quoted(value: object) -> str:
    text = str(value).strip()
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str | Exception) and (" " in text or '"' in text) else text
