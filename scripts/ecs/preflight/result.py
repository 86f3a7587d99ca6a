"""A row of preflight's table."""

from typing import NamedTuple

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


class Result(NamedTuple):
    """The outcome of a check. `message` is what was found and, where it failed, how to fix it."""

    check: str
    state: str
    message: str
