"""What became of photos, logged for CloudWatch: metric filters of scripts/ecs/templates/observability.yaml add these numbers up.

The alarm that undoes a deployment follows what failed by our fault. What was shed adds a task.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Self

from scripts.steps import Steps

# often beside the minutes that alarms count in
EVERY_S = 10.0


class Outcomes:
    """Logs a step now and then inside `with`: how many photos were answered, failed and shed since the step before.

    Nothing where there were none, or where the log is for people.
    """

    def __init__(self, counts: Callable[[], Mapping[str, int]], steps: Steps) -> None:
        """`counts()`: of each outcome, since the door started; empty if it does not answer."""
        self._counts, self.steps = counts, steps
        self._before: Mapping[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)

    def __enter__(self) -> Self:
        if self.steps.as_json:
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.log()

    def log(self) -> None:
        """Log what has come since the last time."""
        counts = self._counts()
        if not counts:
            return
        if any(counts.get(outcome, 0) < count for outcome, count in self._before.items()):
            self._before = {}  # the door was started again, and counts from 0
        rise = {outcome: count - self._before.get(outcome, 0) for outcome, count in counts.items()}
        self._before = counts
        if any(rise.values()):
            self.steps("photos", answered=rise.get("answered", 0), failed=rise.get("failed", 0), shed=rise.get("shed", 0))
