"""One line on standard output for each step of serving or of a rollout: text, or a JSON object for CloudWatch."""

import contextlib
import json
import sys
import textwrap
import threading
from datetime import UTC, datetime

# Of a line of JSON. The door writes to the same pipe, where what is longer may come apart: PIPE_BUF, pipe(7).
MOST_BYTES = 4096
LEAST_TEXT = 200  # what is shorter is not worth shortening


class Steps:
    """Prints steps: `steps("registered", version="1.1.0", took_s=3.2)`. Safe to call from several threads."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self._lock = as_json, threading.Lock()

    def __call__(self, step: str, **details: object) -> None:
        """Print the step with its time, UTC, and its details."""
        at = datetime.now(UTC)
        details = {name: round(value, 3) if isinstance(value, float) else value for name, value in details.items()}
        if self.as_json:
            self._print(one_line({"at": at.isoformat(timespec="milliseconds"), "step": step, **details}))
            return
        # values with spaces are quoted; values of several lines follow the line, indented
        pairs = [f"{name}={_quoted(value)}" for name, value in details.items() if "\n" not in str(value).strip()]
        blocks = [textwrap.indent(str(value).strip(), "    ") for value in details.values() if "\n" in str(value).strip()]
        self._print("\n".join([f"{at:%H:%M:%S} {step}" + (f": {' '.join(pairs)}" if pairs else ""), *blocks]))

    def say(self, message: str, step: str, **details: object) -> None:
        """Print a message for the person at the terminal; with JSON logs the step and its details instead."""
        if self.as_json:
            self(step, **details)
        else:
            self._print(message)

    def _print(self, text: str) -> None:
        # a full disk or a closed pipe must not end the server
        with self._lock, contextlib.suppress(OSError, ValueError):
            if sys.stdout is not None:
                sys.stdout.write(text + "\n")  # in one piece, or another process's line comes between: print() writes two
                sys.stdout.flush()


def one_line(line: dict[str, object]) -> str:
    """The line as JSON, under MOST_BYTES. Of texts that are too long the beginning is left out: a traceback's end is the error."""
    line = {
        name: value if isinstance(value, str | int | float | list | dict | None) else str(value) for name, value in line.items()
    }
    while len(text := json.dumps(line, default=str)) >= MOST_BYTES:
        lengths = {name: len(json.dumps(value)) for name, value in line.items() if isinstance(value, str)}
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] < LEAST_TEXT:
            break
        shorter = str(line[longest])
        line[longest] = "..." + shorter[len(shorter) // 4 + 3 :]
    return text


def _quoted(value: object) -> str:
    text = str(value).strip()
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str | Exception) and (" " in text or '"' in text) else text
