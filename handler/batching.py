"""Whether a batch is answered sooner as one, or a crop at a time: measured on this machine when a worker loads its program.

On few cores a small network answers crops one by one at least as fast, as what passes from layer to layer stays in the caches. Then
one compiled program is enough, a third of the memory of those for whole batches.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable

ROUNDS, MEASURE_S = 3, 0.5
GAIN = 0.1  # a batch must be so much faster than its crops alone: it costs its memory, and less may be noise
CLEAR = 0.15  # so far from that, of the time of its crops alone, no more rounds are needed


def is_faster_whole(size: int, alone: Callable[[], object], whole: Callable[[], object]) -> bool:
    """Whether `whole` takes less time than `size` times `alone`. Of both the fastest counts, as others may use the cores."""
    alone_s = whole_s = float("inf")
    started, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or (time.perf_counter() - started < MEASURE_S and abs(whole_s / (size * alone_s) - (1 - GAIN)) < CLEAR):
        for _ in range(size):
            alone_s = min(alone_s, _seconds(alone))
        whole_s = min(whole_s, _seconds(whole))
        rounds += 1
    return whole_s < (1 - GAIN) * size * alone_s


def _seconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def return_freed_memory() -> None:
    """Give what was freed back to the system. The C library keeps it otherwise; one without this function is left alone."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
