"""Captured photos on their way to S3, and feedback on them: SEEFOOD_CAPTURE_DIR=s3://bucket/prefix.

The worker writes to a folder of this machine as ever, within its bounds, so that no request waits for S3 or fails without it. This
process, which has the credentials, copies what is new. The local copy stays until it is pruned: `make rollout SHADOW=N` reads it.
With S3 away the oldest are pruned before they were copied; those are counted, and logged once an outage. What is not copied when
the server ends stays here, and is copied after the next start.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from handler.captured import ANSWER, FEEDBACK, PHOTO
from scripts.backend.torchserve.sockets import make_short_folder, remove_short_folder
from scripts.release.store import DeniedError, StoreError
from scripts.serving.capture_socket import FeedbackSocket
from scripts.settings import Settings
from scripts.steps import Steps

if TYPE_CHECKING:
    from scripts.serving.capture_store import CaptureStore

LOOK_S = 1.0
AT_A_TIME = 4  # photos
WAIT_MAX_S = 60.0  # between two tries while S3 is away: it doubles up to this
LAST_S = 10.0  # at the end, for what is not copied yet
JOIN_S = 0.2  # between two looks whether a thread has ended
RULES_S = 3600.0  # between two looks at the bucket's lifecycle rules


class CaptureUploads(Collector):
    """Copies inside `with`. Without a store it does nothing, so that serve need not ask."""

    def __init__(self, store: "CaptureStore | None", folder: Path, run_dir: Path, steps: Steps) -> None:
        self.store, self.folder, self.steps = store, folder, steps
        self.copied = self.lost = 0
        self.kept_s: float | None = None  # for how many seconds S3 keeps photos, where that is known
        self.waiting: set[str] = set()  # places of photos that are not on S3 yet
        self._done: set[str] = set()
        self._of_before: set[str] | None = None  # places found at the start: an earlier one may have copied them
        self._counting = threading.Lock()
        self._problem, self._told_lost, self._look_at_rules = "", False, 0.0
        self._over, self._end = threading.Event(), 0.0
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
            self._server = FeedbackSocket(self.socket, self)
            self._server.start()
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        if not self.store:
            return
        self._server.stop()
        self._end = time.monotonic() + LAST_S
        self._over.set()
        self._thread.join(LAST_S + JOIN_S)
        if left := len(self.waiting):
            self.steps("captured photos are not on S3 yet: they wait on this machine for the next start", photos=left)
        remove_short_folder(self._sockets)

    def _run(self) -> None:
        assert self.store is not None
        try:
            self.store.check()
            self.steps("photos are kept on S3", address=self.store.address)
        except (StoreError, FileNotFoundError) as error:
            self._note(str(error))
        wait_s = 0.0
        while not self._over.wait(wait_s):
            self._read_rules()
            wait_s = LOOK_S if self.copy() else min(WAIT_MAX_S, 2 * max(wait_s, LOOK_S))
        while self._goes_on() and self.copy() and self.waiting:
            pass

    def _goes_on(self) -> bool:
        return not self._over.is_set() or time.monotonic() < self._end

    def _read_rules(self) -> None:
        assert self.store is not None
        if time.monotonic() < self._look_at_rules:
            return
        self._look_at_rules = time.monotonic() + RULES_S
        try:
            self.kept_s = self.store.kept_s()
        except DeniedError as error:
            self.steps("for how long S3 keeps photos is not known", why=error)
        except (StoreError, FileNotFoundError) as error:
            self._note(str(error))
            self._look_at_rules = 0.0

    def copy(self) -> bool:
        """Copy what is new, oldest first, until one fails. Whether none did."""
        found = {f"{path.parent.name}/{path.stem}": path for path in self.folder.glob(f"[0-9a-f][0-9a-f]/*{ANSWER}")}
        if self._of_before is None:
            self._of_before = set(found)
        self._count_lost(self.waiting - found.keys())
        self._done &= found.keys()
        self.waiting = found.keys() - self._done
        places = sorted(self.waiting, key=lambda place: place.partition("/")[2])
        failed = threading.Event()
        left = iter(places)

        def work() -> None:
            while self._goes_on() and not failed.is_set():
                with self._counting:
                    place = next(left, None)
                if place is None:
                    return
                if not self._copied(place, found[place]):
                    failed.set()

        # not a pool's threads: the interpreter would wait for those at its end, however long a call takes
        threads = [threading.Thread(target=work, name="captured to S3", daemon=True) for _ in places[:AT_A_TIME]]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and self._goes_on():
                thread.join(JOIN_S)
        if places and not failed.is_set() and self._problem and self._goes_on():
            self._problem, self._told_lost = "", False
            self.steps("photos are kept on S3 again", copied=self.copied, lost=self.lost)
        return not failed.is_set()

    def copy_now(self, answer: Path) -> bool:
        """Copy one photo out of turn, if S3 does not have it. False if it is pruned at this moment. StoreError."""
        place = f"{answer.parent.name}/{answer.stem}"
        if place in self._done:
            return True
        try:
            self._put(place, answer)
        except OSError:
            return False
        return True

    def _put(self, place: str, answer: Path) -> None:
        """A photo, then its answer: feedback finds a photo by its answer. StoreError, OSError."""
        assert self.store is not None
        new = False
        if place not in (self._of_before or ()) or not self.store.has(place + ANSWER):
            self.store.put(place + PHOTO, answer.with_suffix(PHOTO))
            new = self.store.put(place + ANSWER, answer)
            with contextlib.suppress(FileNotFoundError):  # of a time when photos were kept in this folder alone
                self.store.put(place + FEEDBACK, answer.with_suffix(FEEDBACK))
        with self._counting:
            self.copied += new
            self._done.add(place)
            self.waiting.discard(place)

    def _copied(self, place: str, answer: Path) -> bool:
        """Copy a photo. False, and noted, if S3 does not take it."""
        try:
            with contextlib.suppress(FileNotFoundError):  # pruned at this moment
                self._put(place, answer)
        except StoreError as error:
            self._note(str(error))
            return False
        except OSError as error:  # this photo alone: others may be read
            with self._counting:
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
