"""In which parts a batch is answered sooner: measured on this machine when a worker loads its program.

Parts are answered side by side. A small network answers single crops at least as fast as several, as what passes from layer to
layer stays in the caches. Then what is compiled for larger parts, with the memory of their layers, is not needed.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable

ROUNDS, MEASURE_S = 3, 0.5
GAIN = 0.1  # larger parts must be so much faster than single crops: they cost their memory, and less may be noise
CLEAR = 0.15  # so far from that, of the time of single crops, no more rounds are needed


def is_faster_in_parts(singly: Callable[[], object], larger: Callable[[], object]) -> bool:
    """Whether a batch takes less time in `larger` parts. Of both the fastest counts, as others may use the cores."""
    single_s = larger_s = float("inf")
    started, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or (time.perf_counter() - started < MEASURE_S and abs(larger_s / single_s - (1 - GAIN)) < CLEAR):
        single_s, larger_s = min(single_s, _seconds(singly)), min(larger_s, _seconds(larger))
        rounds += 1
    return larger_s < (1 - GAIN) * single_s


def _seconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def return_freed_memory() -> None:
    """Give what was freed back to the system. The C library keeps it otherwise; one without this function is left alone."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
