"""The CPU and memory of a server's parts; all else that an instance says of itself: test_metrics.py."""

import subprocess
import sys

import psutil
import pytest

from scripts.serving.instance_metrics import Processes

# a process that works for a moment, says so, and waits for its end
WORKS = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"


def works(*words):
    process = subprocess.Popen([sys.executable, "-c", WORKS, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "done\n"
    return process


def test_cpu_and_memory_are_counted_by_part_and_the_cpu_of_ended_processes_stays():
    processes = Processes(psutil.Process())
    others_s, others = processes.read()  # of servers that other tests have started
    with works("model_service_worker.py") as worker, works("scripts.door.door") as door:
        cpu_s, memory = processes.read()
        assert cpu_s["worker"] - others_s["worker"] >= 0.2
        assert cpu_s["door"] - others_s["door"] >= 0.2
        assert min(memory["worker"] - others["worker"], memory["serve"]) > 1e6
        again, _ = processes.read()
        assert again["worker"] == pytest.approx(cpu_s["worker"], abs=0.15)  # not counted twice
        worker.kill()
        worker.wait()
        after, left = processes.read()
        assert after["worker"] >= again["worker"]
        assert left["worker"] <= memory["worker"] - 1e6
        door.kill()


def test_process_that_is_no_part_counts_with_the_one_that_started_it():
    processes = Processes(psutil.Process())
    before, _ = processes.read()
    with works("something") as other:
        after, _ = processes.read()
        assert after["serve"] - before["serve"] >= 0.2
        assert after["torchserve"] == pytest.approx(before["torchserve"], abs=0.15)
        other.kill()
