"""What is watched of answers for drift (signals.py) is measured on a thread, and kept (recent.py): no answer waits for it.

Not at once, either: a thread that starts while an answer is sent takes the interpreter, and a core, from those who send it.
"""

import logging
import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np

from handler.program import Answers
from handler.recent import Recent
from handler.signals import Profile

MOST_WAITING = 4  # batches
LATEST_S = 0.25  # so long a batch may wait, if no other follows


class Watch:
    """The thread of one worker, which ends with this object."""

    def __init__(self, profile: Profile, recent: Recent) -> None:
        self._profile, self._recent = profile, recent
        self._waiting: deque[tuple[Sequence[np.ndarray], Sequence[tuple[int, int]], Answers]] = deque()
        self._one_at_a_time, self._wake = threading.Lock(), threading.Event()
        # now: later the system may start no thread. A daemon: whoever ends the worker does not wait for it
        threading.Thread(target=_run, args=(weakref.ref(self), self._wake), name="watch", daemon=True).start()

    def add(self, crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], answers: Answers) -> None:
        """Have a batch measured, and its signals kept, soon. Where MOST_WAITING batches wait for that, this one is left out."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((crops, sizes, answers))

    def use_pause(self) -> None:
        """Measure now, as the worker waits for its decoders. Returns at once."""
        if self._waiting:
            self._wake.set()

    def finish(self) -> None:
        """Return once all that was added is kept."""
        with self._one_at_a_time:
            while self._waiting:
                self._keep(*self._waiting.popleft())

    def _keep(self, crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], answers: Answers) -> None:
        try:
            self._recent.add(self._profile.measure(crops, sizes, answers))
        except Exception:  # a thread's error would be seen by nobody
            logging.getLogger(__name__).exception("the drift of a batch was not measured, photos: %d", len(crops))


def _run(watch: "weakref.ref[Watch]", wake: threading.Event) -> None:
    """The thread. It waits without holding the Watch."""
    while True:
        wake.wait(LATEST_S)
        wake.clear()
        if (one := watch()) is None:
            return
        one.finish()
        del one
