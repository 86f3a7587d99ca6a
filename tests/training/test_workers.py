"""However a `with` over loaders ends, and whenever: their workers are gone at once, and nothing but our sentence is printed."""

import subprocess
import sys

import pytest

from tests.conftest import LIMIT_S, ROOT

# forks a process for each round, as torch's import takes longer than all of them; prints what went wrong
ROUNDS = """
import itertools, multiprocessing, os, random, signal, sys, tempfile, time
import torch
from scripts.command import run
from training.data.workers import Loader

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 160
    def __getitem__(self, i):
        return torch.zeros(64), i

def work(way, n):
    if way.startswith("SIG"):
        pid = os.getpid()
        if os.fork() == 0:
            time.sleep(random.Random(n).random() * 0.3)
            os.kill(pid, getattr(signal, way))
            os._exit(0)
    train, held_out = (Loader(Items(), 2, batch_size=8) for _ in range(2))
    with train, held_out:
        batches = iter(train)
        for _ in range(n % 5):
            next(batches)
        if way == "an error beside both":
            raise ValueError("bad")
        while True:
            for i, _ in enumerate(held_out):
                if way == "an error in the second" and i == n % 20:
                    raise ValueError("bad")
            if way == "an error after a pass":
                raise ValueError("bad")

rounds, *ways = sys.argv[1:]
for n, way in itertools.product(range(int(rounds)), ways):
    said = tempfile.TemporaryFile()
    pid = os.fork()
    if pid == 0:
        os.dup2(said.fileno(), 2)
        os.setsid()
        status = run(lambda: work(way, n))
        if multiprocessing.active_children():
            os.write(2, b"workers are left")
        sys.exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said.seek(0)
    text = said.read().decode()
    expected = (128 + getattr(signal, way), "interrupted") if way.startswith("SIG") else (1, "error: bad")
    if (status, text.strip()) != expected:
        print("round", n, way, "ended with", status, "and", text)
"""
WAYS = ["an error beside both", "an error in the second", "an error after a pass", "SIGINT", "SIGTERM"]


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_is_printed_after_the_sentence_and_no_worker_is_left(tmp_path, rounds):
    (tmp_path / "rounds.py").write_text(ROUNDS)
    command = [sys.executable, str(tmp_path / "rounds.py"), str(rounds), *WAYS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_process_that_cannot_be_started_is_one_sentence(tmp_path):
    """As where a container allows no more of them: the second worker of two."""
    program = tmp_path / "program.py"
    program.write_text(
        ROUNDS.partition("def work")[0]
        + """
def no_more():
    if multiprocessing.active_children():
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

def work():
    with Loader(Items(), 2, batch_size=8):
        pass

fork, os.fork = os.fork, no_more
sys.exit(run(work))
"""
    )
    done = subprocess.run([sys.executable, str(program)], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: [Errno 11] Resource temporarily unavailable\n")
