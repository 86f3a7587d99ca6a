"""Captured photos on their way to S3, and feedback on them: SEEFOOD_CAPTURE_DIR=s3://bucket/prefix.

The worker writes to a folder of this machine as ever, within its bounds, so that no request waits for S3 or fails without it. This
process, which has the credentials, copies what is new. The local copy stays until it is pruned: `make rollout SHADOW=N` reads it.
With S3 away the oldest are pruned before they were copied; those are counted, and logged once an outage.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from handler.captured import ANSWER, PHOTO
from scripts.backend.torchserve.sockets import make_short_folder, remove_short_folder
from scripts.release.store import StoreError
from scripts.serving.capture_socket import FeedbackSocket
from scripts.settings import Settings
from scripts.steps import Steps

if TYPE_CHECKING:
    from scripts.serving.capture_store import CaptureStore

LOOK_S = 1.0
AT_A_TIME = 4  # photos
WAIT_MAX_S = 60.0  # between two tries while S3 is away: it doubles up to this
LAST_S = 10.0  # at the end, for what is not copied yet


class CaptureUploads(Collector):
    """Copies inside `with`. Without a store it does nothing, so that serve need not ask."""

    def __init__(self, store: "CaptureStore | None", folder: Path, run_dir: Path, steps: Steps) -> None:
        self.store, self.folder, self.steps = store, folder, steps
        self.copied = self.lost = 0
        self.waiting: set[str] = set()  # places of photos that are not on S3 yet
        self._done: set[str] = set()
        self._problem, self._told_lost = "", False
        self._over = threading.Event()
        self._sockets = run_dir / "feedback"
        self.socket = make_short_folder(self._sockets, "socket") / "socket" if store else None
        self._thread = threading.Thread(target=self._run, name="captured to S3", daemon=True)

    @classmethod
    def of(cls, settings: Settings, run_dir: Path, steps: Steps) -> Self:
        """As the settings say. ValueError for an address that names no bucket."""
        on_s3 = settings.capture_share > 0 and settings.capture_dir.startswith("s3://")
        if not on_s3:
            return cls(None, settings.captured(run_dir), run_dir, steps)
        from scripts.serving.capture_store import CaptureStore  # boto3 takes half a second to import

        return cls(CaptureStore(settings.capture_dir, settings), settings.captured(run_dir), run_dir, steps)

    def __enter__(self) -> Self:
        if self.store and self.socket:
            self._server = FeedbackSocket(self.socket, self.store, self.folder)
            self._server.start()
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self.store:
            self._server.stop()
            self._over.set()
            self._thread.join(LAST_S + 5)
            remove_short_folder(self._sockets)

    def _run(self) -> None:
        assert self.store is not None
        try:
            self.store.check()
            self.steps("photos are kept on S3", address=self.store.address)
        except (StoreError, FileNotFoundError) as error:
            self._note(str(error))
        wait_s = LOOK_S
        while not self._over.wait(wait_s):
            wait_s = LOOK_S if self.copy() else min(WAIT_MAX_S, 2 * wait_s)
        end = time.monotonic() + LAST_S
        while self.copy() and self.waiting and time.monotonic() < end:
            pass

    def copy(self) -> bool:
        """Copy what is new, oldest first, until one fails. Whether none did."""
        found = {f"{path.parent.name}/{path.stem}": path for path in self.folder.glob(f"[0-9a-f][0-9a-f]/*{ANSWER}")}
        self._count_lost(self.waiting - found.keys())
        self._done &= found.keys()
        self.waiting = found.keys() - self._done
        places = sorted(self.waiting, key=lambda place: place.partition("/")[2])
        failed = threading.Event()

        def one(place: str) -> None:
            if not failed.is_set() and not self._copied(place, found[place]):
                failed.set()

        with ThreadPoolExecutor(AT_A_TIME, "captured to S3") as threads:
            list(threads.map(one, places))
        if places and not failed.is_set() and self._problem:
            self._problem, self._told_lost = "", False
            self.steps("photos are kept on S3 again", copied=self.copied, lost=self.lost)
        return not failed.is_set()

    def _copied(self, place: str, answer: Path) -> bool:
        """Copy a photo, then its answer: feedback finds a photo by its answer. False, and noted, if S3 does not take it."""
        assert self.store is not None
        try:
            with contextlib.suppress(FileNotFoundError):  # pruned at this moment
                self.store.put(place + PHOTO, answer.with_suffix(PHOTO))
                self.store.put(place + ANSWER, answer)
                self.copied += 1
                self._done.add(place)
                self.waiting.discard(place)
        except StoreError as error:
            self._note(str(error))
            return False
        except OSError as error:  # this photo alone: others may be read
            self._done.add(place)
            self.waiting.discard(place)
            self.lost += 1
            self.steps("a captured photo cannot be read, so S3 does not get it", photo=place, why=error)
        return True

    def _note(self, why: str) -> None:
        if not self._problem:  # once an outage, not at every try
            self.steps("photos cannot be kept on S3 now: they wait on this machine", why=why)
        self._problem = why

    def _count_lost(self, places: set[str]) -> None:
        self.lost += len(places)
        if places and not self._told_lost:
            self._told_lost = True
            self.steps("captured photos are lost: they were removed before S3 took them", why=self._problem or "S3 is too slow")

    def collect(self) -> Iterable[Metric]:
        """How many photos were copied, lost, and wait; nothing without a store."""
        if self.store:
            yield CounterMetricFamily("seefood_captured_copied", "captured photos that S3 has taken", self.copied)
            yield CounterMetricFamily("seefood_captured_lost", "captured photos removed before S3 took them", self.lost)
            yield GaugeMetricFamily("seefood_captured_waiting", "captured photos that are not on S3 yet", len(self.waiting))
