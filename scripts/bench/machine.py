"""The machine that made a figure."""

import os
import platform
import re
from pathlib import Path

from scripts.phrases import counted


def cpu() -> str:
    """The CPU's name and the cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8")):
            name = found[1]
    except OSError:  # not Linux
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{name}, {counted(cores, 'core')}"
