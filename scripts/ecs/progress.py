"""What a person sees while AWS works: lines with the time, questions, and a limit that does not count the time for answers."""

import sys
import time
from datetime import UTC, datetime

from tqdm import tqdm


class AnswerError(ValueError):
    """A question was answered with no, or there was nobody to ask."""


def say(line: str) -> None:
    """Print a line with the time, UTC, above a progress display."""
    tqdm.write(f"{datetime.now(UTC):%H:%M:%S} {line}")
    sys.stdout.flush()  # a workflow's log shows it now, and before what docker says next


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

    def ask(self, question: str, yes: bool, expected: str = "y") -> None:
        """Return if the answer is the one expected, or `yes` says that nobody is to be asked. AnswerError else."""
        if yes:
            return
        asked = time.monotonic()
        try:
            answer = input(f"{question} ").strip()
        except EOFError:
            raise AnswerError(f"nobody answers {question!r}: --yes goes on without asking") from None
        self._ends += time.monotonic() - asked
        if answer.lower() != expected.lower():
            raise AnswerError(f"the answer is {answer!r}, not {expected!r}: nothing more is changed")
