"""What is watched is measured when the worker waits for its decoders, or soon."""

import gc
import threading
import weakref

import numpy as np
import pytest

import handler.watch
from handler.program import Answers
from handler.watch import MOST_WAITING, Watch
from tests.conftest import LIMIT_S

BATCH = ([np.zeros((4, 4, 3), np.uint8)], [(4, 4)], Answers(np.ones((1, 1)), np.ones(1), np.ones((1, 2))))


class Kept:
    """Stands for a profile and the file of last answers."""

    def __init__(self):
        self.batches, self.free, self.begun, self.done = [], threading.Event(), threading.Event(), threading.Semaphore(0)
        self.free.set()

    def measure(self, crops, *_):
        self.begun.set()
        assert self.free.wait(LIMIT_S)
        return len(crops)

    def add(self, rows):
        self.batches.append(rows)
        self.done.release()


@pytest.fixture
def kept():
    return Kept()


def test_pause_wakes_the_thread_if_a_batch_waits_and_a_batch_that_comes_does_not(kept, monkeypatch):
    monkeypatch.setattr(handler.watch, "LATEST_S", 10 * LIMIT_S)
    watch, woken = Watch(kept, kept), []
    wake = watch._wake.set
    monkeypatch.setattr(watch._wake, "set", lambda: woken.append(len(watch._waiting)) or wake())
    watch.use_pause()
    watch.add(*BATCH)
    assert woken == []
    watch.use_pause()
    assert woken == [1]
    assert kept.done.acquire(timeout=LIMIT_S)
    assert kept.batches == [1]


def test_batch_that_no_other_follows_is_measured_all_the_same(kept, monkeypatch):
    monkeypatch.setattr(handler.watch, "LATEST_S", 0.01)
    watch = Watch(kept, kept)
    watch.add(*BATCH)
    assert kept.done.acquire(timeout=LIMIT_S)
    assert kept.batches == [1]


def test_batches_that_find_too_many_waiting_are_left_out(kept, monkeypatch):
    monkeypatch.setattr(handler.watch, "LATEST_S", 10 * LIMIT_S)
    watch = Watch(kept, kept)
    for _ in range(MOST_WAITING + 3):
        watch.add(*BATCH)
    watch.finish()
    assert len(kept.batches) == MOST_WAITING


def test_finishing_waits_for_what_is_being_measured(kept, monkeypatch):
    monkeypatch.setattr(handler.watch, "LATEST_S", 10 * LIMIT_S)
    watch = Watch(kept, kept)
    kept.free.clear()
    watch.add(*BATCH)
    watch.use_pause()
    assert kept.begun.wait(LIMIT_S)
    finishing = threading.Thread(target=watch.finish)
    finishing.start()
    assert finishing.is_alive()
    kept.free.set()
    finishing.join(LIMIT_S)
    assert kept.batches == [1]


def test_thread_ends_with_its_watch(kept, monkeypatch):
    monkeypatch.setattr(handler.watch, "LATEST_S", 0.01)
    before = set(threading.enumerate())
    watch = Watch(kept, kept)
    (thread,) = set(threading.enumerate()) - before
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert gone() is None
