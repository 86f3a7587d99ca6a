"""Memory that a training step frees is there for the next step, without asking the system for it."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for step in range(9):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers = [torch.ones(16, 2**20) for _ in range(4)]  # 64 MB each, more than glibc's largest threshold
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_a_step_takes_the_memory_that_the_one_before_has_freed():
    assert faults("kept") * 20 < faults("as it comes")
