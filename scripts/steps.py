"""One line on standard output for each step of serving or of a rollout: text, or a JSON object for CloudWatch."""

import contextlib
import copy
import json
import sys
import textwrap
import threading
from collections.abc import Callable
from datetime import UTC, datetime

# Of a line of JSON. The door writes to the same pipe, where what is longer may come apart: PIPE_BUF, pipe(7).
MOST_BYTES = 4096
LEAST_TEXT = 200  # what is shorter is not worth shortening
NEVER_SHORTER = ("at", "step", "_aws")


class Steps:
    """Prints steps: `steps("registered", version="1.1.0", took_s=3.2)`. Safe to call from several threads."""

    def __init__(self, as_json: bool) -> None:
        # reentrant: what fails in a destructor is a step, too, and may come within one
        self.as_json, self._lock = as_json, threading.RLock()
        self._about: Callable[[], dict[str, object]] = dict

    def about(self, details: Callable[[], dict[str, object]]) -> "Steps":
        """Steps that have these details, too, as they are at the time of each."""
        steps = copy.copy(self)
        steps._about = details
        return steps

    def __call__(self, step: str, **details: object) -> None:
        """Print the step with its time, UTC, and its details."""
        at, details = datetime.now(UTC), self._about() | details
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
        # a full disk, a closed pipe or a step within a step must not end the server
        with self._lock, contextlib.suppress(OSError, ValueError, RuntimeError):
            if sys.stdout is not None:
                sys.stdout.write(text + "\n")  # in one piece, or another process's line comes between: print() writes two
                sys.stdout.flush()


def one_line(line: dict[str, object]) -> str:
    """The line as JSON, of less than MOST_BYTES. Of texts the end is kept, a traceback's error, of lists the beginning."""
    line = {
        name: value if isinstance(value, str | int | float | list | dict | None) else str(value) for name, value in line.items()
    }
    while len(text := json.dumps(line, default=str)) >= MOST_BYTES:
        # what CloudWatch reads is bounded where it is made (scripts/serving/cloudwatch.py), and would mean nothing in part
        lengths = {name: len(json.dumps(value, default=str)) for name, value in line.items() if name not in NEVER_SHORTER}
        if not lengths:
            break
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] < LEAST_TEXT:  # many short ones
            for name in list(lengths)[len(lengths) // 2 :]:
                del line[name]
        else:
            line[longest] = _shorter(line[longest])
    return text


def _shorter(value: object) -> object:
    if isinstance(value, list) and len(value) > 1:
        return value[: len(value) // 2]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # what will not fit for certain at once: a character takes a byte or more
    return "..." + text[max(len(text) // 4, len(text) - MOST_BYTES) + 3 :]


def _quoted(value: object) -> str:
    text = str(value).strip()
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str | Exception) and (" " in text or '"' in text) else text
