"""What a person sees while AWS works: lines with the time, questions, and a limit on AWS's time alone."""

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from tqdm import tqdm

from scripts.errors import SeeFoodError


class AnswerError(SeeFoodError):
    """A question was answered with no, or there was nobody to ask."""


def log(line: str) -> None:
    """Print a line with the time, UTC, above a progress display."""
    tqdm.write(f"{datetime.now(UTC):%H:%M:%S} {line}")
    sys.stdout.flush()  # a workflow's log shows it now, and before the next lines of docker


class Limit:
    """How long AWS may take in all, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._ends = seconds, time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Negative when it is over."""
        return self._ends - time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait so long, but not beyond the limit."""
        time.sleep(max(0.0, min(seconds, self.left_s)))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not AWS's time: a person thinks, or this machine builds."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._ends += time.monotonic() - began

    def confirm(self, question: str, yes: bool, expected: str = "y") -> None:
        """Return if the answer is the expected one, or without asking if `yes`. AnswerError otherwise."""
        if yes:
            return
        with self.paused():  # a person may take an hour
            try:
                answer = input(f"{question} ").strip()
            except EOFError:
                raise AnswerError(f"no terminal to answer {question!r}: YES=1 (--yes) skips the question") from None
        if answer.lower() != expected.lower():
            raise AnswerError(f"the answer is {answer!r}, not {expected!r}: stopped, nothing more was changed")
