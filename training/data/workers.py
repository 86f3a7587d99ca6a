"""Loaders whose worker processes begin and end with a `with` statement, whatever error or signal ends it."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from scripts.command import ending_signals

GRACE_S = 1.0  # for workers to end by themselves, and for the threads that feed them


@contextmanager
def signals_wait(again: bool = True) -> Iterator[None]:
    """Within this `with`, signals that end a process wait for its end, and then come, or are forgotten unless `again`.

    What their handlers raise would leave torch's workers half started or half ended; within a fork it would be lost.
    """
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if again:
        for late in came:
            signal.raise_signal(late)


class Loader(DataLoader[Any]):
    """A DataLoader whose workers start where a `with` begins, serve all passes within it, and are gone where it ends.

    torch alone ends them whenever its iterator is deleted, at the interpreter's exit as well: the threads that feed them then
    print tracebacks, and an exit waits for ever for workers that ignore a SIGTERM.
    """

    def __init__(self, dataset: Dataset[Any], workers: int, **options: Any) -> None:
        self._ready: _Workers | None = None
        options |= {"num_workers": workers, "worker_init_fn": _start_worker, "persistent_workers": workers > 0}
        if (
            workers and sys.platform == "linux"
        ):  # memory that was mapped before is theirs, too (kept.py); Python 3.14 would not fork
            options["multiprocessing_context"] = "fork"
        super().__init__(dataset, pin_memory=torch.cuda.is_available(), **options)

    def __enter__(self) -> Self:
        """Start the workers. OSError if the machine has no room for their processes."""
        if self.num_workers:
            try:
                with signals_wait():
                    self._ready = self._iterator = _Workers(self)
            except BaseException:
                self._end(again=False)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(again=error is None)

    def __iter__(self) -> _BaseDataLoaderIter:
        # the first pass is that for which the workers, as they start, read ahead already
        ready, self._ready = self._ready, None
        return super().__iter__() if ready is None else ready

    def _end(self, again: bool) -> None:
        workers, self._iterator = self._iterator, None
        if isinstance(workers, _Workers):
            workers.end(again)


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's iterator over workers, with an end of its own."""

    def __init__(self, loader: Loader) -> None:
        try:
            super().__init__(loader)
        except BaseException:
            self._shutdown = True  # torch could not end what it has not set up
            self._kill()
            raise

    def end(self, again: bool) -> None:
        """Wait until the workers and all threads that feed them have ended; whatever a worker does, for some seconds at most."""
        killer = threading.Timer(GRACE_S, self._kill)
        with signals_wait(again):
            # torch's handler raises when a worker dies
            handler = signal.signal(signal.SIGCHLD, lambda *_: None)
            killer.start()
            try:
                self._shutdown_workers()
            finally:
                killer.cancel()
                self._kill()
                signal.signal(signal.SIGCHLD, handler)
            # a thread that was still closing its pipe at the interpreter's exit would print a traceback
            for queue in (*self._index_queues, self._worker_result_queue):
                if thread := vars(queue)["_thread"]:
                    thread.join(GRACE_S)

    def _kill(self) -> None:
        for worker in getattr(self, "_workers", ()):
            worker.kill()
            worker.join()


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)  # there is a worker for each core: more threads would compete for the same ones
    # a first SIGTERM, Ctrl-C, or SIGHUP of a closed terminal, is for the training process: it needs this worker until it has
    # saved, and ends it itself
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
