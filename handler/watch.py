"""What is watched of answers for drift (signals.py) is measured on a thread, and kept (recent.py): no answer waits for it."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from handler.program import Answers
from handler.recent import Recent
from handler.signals import Profile

MOST_WAITING = 4  # batches


class Watch:
    """The thread of one worker."""

    def __init__(self, profile: Profile, recent: Recent) -> None:
        self._profile, self._recent = profile, recent
        self._thread, self._room = ThreadPoolExecutor(1, thread_name_prefix="watch"), threading.BoundedSemaphore(MOST_WAITING)
        self._thread.submit(int).result()  # now: later the system may start no thread

    def add(self, crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], answers: Answers) -> None:
        """Measure a batch, and keep its signals, soon. Where MOST_WAITING batches wait for that, this one is left out."""
        if self._room.acquire(blocking=False):
            self._thread.submit(self._keep, crops, sizes, answers)  # which makes room again

    def _keep(self, crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], answers: Answers) -> None:
        try:
            self._recent.add(self._profile.measure(crops, sizes, answers))
        except Exception:  # a thread's error would be seen by nobody
            logging.getLogger(__name__).exception("the drift of a batch was not measured, photos: %d", len(crops))
        finally:
            self._room.release()

    def finish(self) -> None:
        """Return once all that was added is kept; nothing more may be added."""
        self._thread.shutdown()
