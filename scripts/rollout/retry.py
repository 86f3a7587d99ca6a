"""Readings of the store that wait while it cannot be reached."""

import time
from collections.abc import Callable
from typing import TypeVar

from scripts.release.store import DeniedError, StoreError

POLL_S = 0.5  # between two readings of all statuses: small beside any time that is waited for in a rollout
Result = TypeVar("Result")


def until_read(read: Callable[[], Result], deadline: float) -> Result:
    """What `read` returns. StoreError if it raises one after `deadline`, by the monotonic clock; DeniedError at once."""
    while True:
        try:
            return read()
        except StoreError as error:
            if isinstance(error, DeniedError) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)
