"""Whatever ends a training, its process and its workers are gone soon, with a sentence that says what to do.

`pytest -s -k table tests/training/test_ends.py` measures and prints the table of training/README.md.
"""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from tests.conftest import LIMIT_S, ROOT
from tests.waiting import until
from training.data.loader import EvalPhotos
from training.data.split import Photo, check_unreadable
from training.loop import CHECK_STEPS, train
from training.model import build
from training.remedies import remedy
from training.run import check_sizes
from training.sweep import processes

# runs the command with a fault planted at its first step; the workers are real and at work
PLANTED = """
import sys
import training.loop
from scripts.command import run
from training import train as command

def plant(step):
    {fault}

real = training.loop.train
command.train = lambda *args, **named: real(*args, on_step=plant, **named)
sys.exit(run(command.main))
"""


def start(tmp_path, data, params, fault, **options):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump()))
    (tmp_path / "planted.py").write_text(PLANTED.format(fault=fault))
    command = [sys.executable, str(tmp_path / "planted.py"), "--model", "food", "--data", str(data)]
    command += ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def left_of(session):
    """The processes that a command started, and that are not zombies."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


@pytest.fixture
def with_workers(tiny_params):
    return tiny_params.model_copy(update={"workers": 2, "epochs": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("raise KeyError('a bug')", 1, "KeyError: see the lines above; nothing is saved yet; to start again: "),
        pytest.param("raise MemoryError", 1, "there is too little memory for these crops", marks=pytest.mark.slow),
        pytest.param(
            "raise RuntimeError('CUDA out of memory. Tried to allocate')",
            1,
            "or set accumulate: 2",
            marks=pytest.mark.slow,
        ),
        pytest.param("raise ValueError('a bad value')", 1, "error: a bad value", marks=pytest.mark.slow),
        pytest.param("raise OSError(28, 'No space left on device')", 1, "error: the disk is full", marks=pytest.mark.slow),
        pytest.param("raise KeyboardInterrupt", 130, "interrupted", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", 3, "", marks=pytest.mark.slow),
        pytest.param(
            # forked, a worker has its parent's command line; a sender of records has one of its own
            "import psutil; me = psutil.Process(); [c for c in me.children() if c.cmdline() == me.cmdline()][0].kill()",
            1,
            "most often for want of memory: free some; or set fewer workers in the parameter file",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_any_exception_ends_the_process_and_its_workers_with_what_to_do(tmp_path, generated, with_workers, fault, status, message):
    process = start(tmp_path, generated, with_workers, fault)
    _, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status, error
    assert message in error
    assert left_of(process.pid) == []


def test_loss_that_is_not_finite_ends_training_within_a_few_steps(tmp_path, generated, tiny_params):
    params = tiny_params.model_copy(update={"lr": 1e30, "warmup_epochs": 0, "epochs": 1000, "clip_norm": 0, "global_batch_size": 8})
    with pytest.raises(ValueError, match=r"after step (\d+) the loss is (nan|inf|-inf).*: try a smaller lr") as caught:
        train("food", generated, params, tmp_path / "run")
    assert int(str(caught.value).split()[2]) <= 2 * CHECK_STEPS <= 50
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_sweep_ends_a_training_that_ignores_its_signals_and_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SAVE_S", 1)
    # the folder's name tells these processes from those of other runs
    child = f"# {tmp_path}\nimport signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])\n{child}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        _, status = processes.watch([sys.executable, "-c", program], output, lambda: log.read_text().count("up") == 2)
    assert status == -9
    until(lambda: not any(str(tmp_path) in " ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "levit_128s", "train_size": 224}, None),
        ({"model": "levit_128s", "train_size": 96}, "cannot take 2 crops of 96 x 96 pixels"),
        ({"model": "vit_tiny_patch16_224", "train_size": 200}, "cannot take 2 crops of 200 x 200 pixels, on which it trains"),
        (
            {"model": "vit_tiny_patch16_224", "train_size": 224, "spec": {"input_size": [3, 256, 256]}},
            "cannot take 1 crop of 256 x 256 pixels, on which it is evaluated",
        ),
        ({"model": "resnet18", "train_size": 32, "global_batch_size": 2, "accumulate": 2}, "cannot take 1 crop of 32 x 32"),
    ],
    ids=str,
)
def test_sizes_that_a_network_cannot_take_are_refused_before_the_first_step(tiny_params, change, message):
    params = tiny_params.model_copy(update={"spec": {}} | change)
    classifier, spec = build(params, 4)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    if message:
        with pytest.raises(ValueError, match=message):
            check_sizes(classifier, spec, params, 1)
    else:
        check_sizes(classifier, spec, params, 1)
    assert all((value == before[name]).all() for name, value in classifier.state_dict().items())


@pytest.mark.slow
def test_held_out_photo_that_is_gone_is_left_out_and_many_are_refused(tmp_path, generated, tiny_params, capsys):
    data = shutil.copytree(generated, tmp_path / "data")
    removed = []

    def remove(step):
        """At the first step, as on a disk that loses files during training."""
        if step == 1:
            removed.extend(lost(data))

    def lost(folder):
        from training.data.sets import read_data

        photos = read_data(folder, tiny_params.val_fraction, tiny_params.seed).held_out
        for photo in photos[:1]:
            photo.path.unlink()
        return photos

    train("food", data, tiny_params.model_copy(update={"epochs": 1}), tmp_path / "run", on_step=remove)
    error = capsys.readouterr().err
    assert f"skipped held-out photos that cannot be read: {removed[0].path}" in error
    rows = (tmp_path / "run/history.csv").read_text().splitlines()
    assert len(rows) == 2


def test_a_few_unreadable_photos_are_no_refusal_and_more_are():
    for unreadable, photos in ((1, 60), (3, 60), (1, 2), (10, 1000)):
        check_unreadable(unreadable, photos, "photos")
    for unreadable, photos in ((4, 60), (11, 1000), (2, 2)):
        with pytest.raises(ValueError, match=f"{unreadable} of {photos} photos are unreadable"):
            check_unreadable(unreadable, photos, "photos")


def test_unreadable_evaluation_photo_is_black_and_has_no_class(tmp_path, spec):
    crop, target, position = EvalPhotos([Photo(tmp_path / "gone.jpg", 2)], spec)[0]
    assert (crop.shape, crop.max(), target, position) == ((224, 224, 3), 0, -1, 0)


@pytest.mark.parametrize(
    ("error", "text", "setting"),
    [
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. ... out of shared memory"), "--shm-size=1g", True),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "--shm-size=1g", True),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "--shm-size=1g", True),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. "), "a worker of the loader was killed", True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "accumulate: 2", True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "the GPU's memory is too small", True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "too little memory", True),
        (MemoryError(), "too little memory", True),
        (RuntimeError("[1]: Connection closed by peer [127.0.0.1]:1"), "another process of this run ended", False),
        (ConnectionResetError(104, "Connection reset by peer"), "another process of this run ended", False),
        (OSError(28, "No space left on device"), "the disk is full ([Errno 28] No space left on device): make room", False),
    ],
    ids=str,
)
def test_errors_of_the_machine_have_a_remedy(error, text, setting):
    found = remedy(error)
    assert found
    assert text in found.for_training
    assert bool(found.setting) == setting
    assert found.setting in found.for_training


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), ValueError("lr is -1"), RuntimeError("shape mismatch"), FileNotFoundError(2, "no")]
)
def test_errors_that_say_themselves_what_is_wrong_have_none(error):
    assert remedy(error) is None


@pytest.mark.slow
def test_small_shared_memory_is_named_with_what_to_do(tmp_path, generated, with_workers):
    """A container's /dev/shm, even smaller: a mount that only this training sees."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(with_workers.model_dump()))
    command = [sys.executable, "-m", "training.train", "--model", "food", "--data", str(generated)]
    command += ["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "run")]
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=128k tmpfs /dev/shm || exit 77; exec "$@"', "sh"]
    done = subprocess.run([*mount, *command], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode in (1, 77) and "error: the" not in done.stderr:
        pytest.skip("this machine does not let tests mount a disk")
    assert done.returncode == 1
    assert "ran out of shared memory (/dev/shm)" in done.stderr
    assert f"to start again: {shlex.join(command)}" in done.stderr
    assert "Traceback" not in done.stderr


# so that Ctrl-C reaches it wherever the tests run: a shell's background job would leave SIGINT ignored
AWAKE = "import signal, sys, os; signal.signal(signal.SIGINT, signal.default_int_handler); os.execv(sys.argv[1], sys.argv[1:])"
TRAINS = r"epoch 2/\d+: +\d+%"


class Ending:
    """A training that ends in some way, and how long that takes."""

    def __init__(self, folder, data, params, *options, module="training.train", out="run", plant=None):
        self.folder, self.printed, self.mark = folder, "", secrets.token_hex(8)
        (folder / "params.yaml").write_text(yaml.safe_dump(params.model_dump()))
        (folder / "planted.py").write_text(PLANTED.format(fault=plant))
        program = [str(folder / "planted.py")] if plant else ["-m", module]
        command = [sys.executable, "-u", *program, "--model", "food", "--data", str(data), "--params", str(folder / "params.yaml")]
        # by a word of their environment: ranks have sessions of their own
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SEEFOOD_TEST": self.mark}
        self.process = subprocess.Popen(
            [sys.executable, "-c", AWAKE, *command, "--out", str(folder / out), *options],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.watchdog = threading.Timer(LIMIT_S, self.process.kill)  # its output then ends, and so does until()
        self.watchdog.start()

    def until(self, text):
        """Wait until it has printed what matches."""
        while not re.search(text, self.printed):
            character = self.process.stdout.read(1)
            assert character, self.printed
            self.printed += character

    def left(self):
        """All processes that it started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("SEEFOOD_TEST") == self.mark:
                    found.append(process)
        return found

    def end(self):
        """(exit status, seconds from now until no process of it is left)."""
        began = time.monotonic()
        self.printed += self.process.communicate()[0]
        try:
            until(lambda: not self.left(), lambda: self.printed)
            return self.process.returncode, time.monotonic() - began
        finally:
            self.watchdog.cancel()
            for process in self.left():
                process.kill()

    def send(self, *numbers):
        """Wait until it trains, and send it signals."""
        self.until(TRAINS)
        for number in numbers:
            self.process.send_signal(number)


def rank_of(ending, number=-1):
    """One of the processes that the launcher has started."""
    ranks = [child for child in psutil.Process(ending.process.pid).children() if "training.train" in child.cmdline()]
    return sorted(ranks, key=lambda child: child.pid)[number]


INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
NAN = {"lr": 1e30, "warmup_epochs": 0, "clip_norm": 0, "global_batch_size": 8}
# way: (changes of the parameters, options, what is planted at its first step, what is done to it, exit status, what is printed)
WAYS = {
    "its last epoch": ({"epochs": 2}, (), None, lambda e: e.until("is written"), 0, "Next: make evaluate"),
    "a wrong parameter": ({"train_size": 1}, (), None, lambda e: e.until("error:"), 1, "train_size"),
    "a loss that is not finite": (NAN, (), None, lambda e: e.until("error:"), 1, "try a smaller lr"),
    "a fault of ours in the loop": ({}, (), "raise KeyError('a bug')", lambda e: e.until("KeyError"), 1, "see the lines above"),
    "a worker of the loader is killed": (
        {},
        (),
        # forked, a worker has its parent's command line; a sender of records has one of its own
        "import psutil; me = psutil.Process(); [c for c in me.children() if c.cmdline() == me.cmdline()][0].kill()",
        lambda e: e.until("epoch 1/"),
        1,
        "a worker of the loader was killed",
    ),
    "Ctrl-C": ({}, (), None, lambda e: e.send(INT), 130, "to go on from the last saved state: "),
    "Ctrl-C twice": ({}, (), None, lambda e: e.send(INT, INT), 130, "to go on from the last saved state: "),
    "SIGTERM": ({}, (), None, lambda e: e.send(TERM), 143, "to go on from the last saved state: "),
    "SIGHUP, as of a closed terminal": ({}, (), None, lambda e: e.send(HUP), 129, "to go on from the last saved state: "),
    "SIGKILL": ({}, (), None, lambda e: e.send(KILL), -9, ""),
    "2 processes: its last epoch": (
        {"epochs": 2},
        ("--processes=2",),
        None,
        lambda e: e.until("is written"),
        0,
        "Next: make evaluate",
    ),
    "2 processes: a loss that is not finite": (NAN, ("--processes=2",), None, lambda e: e.until("error:"), 1, "try a smaller lr"),
    "2 processes: Ctrl-C": ({}, ("--processes=2",), None, lambda e: e.send(INT), 130, "to go on from the last saved state: "),
    "2 processes: Ctrl-C twice": ({}, ("--processes=2",), None, lambda e: e.send(INT, INT), 130, "to "),
    "2 processes: SIGTERM": ({}, ("--processes=2",), None, lambda e: e.send(TERM), 143, "to go on from the last saved state: "),
    "2 processes: SIGKILL of the launcher": ({}, ("--processes=2",), None, lambda e: e.send(KILL), -9, "stopped by SIGTERM"),
    "2 processes: SIGKILL of one, which is started again": (
        {"epochs": 8},
        ("--processes=2",),
        None,
        lambda e: (e.until(TRAINS), rank_of(e).kill(), e.until("resuming after step"), e.until("is written")),
        0,
        "Next: make evaluate",
    ),
}


@pytest.fixture(scope="module")
def rows():
    """The table's rows, printed when all are measured."""
    measured = []
    yield measured
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    print(f"\n\nOn {os.cpu_count()} cores of {cpu}:\n")
    print("| a training ends by | exit status | seconds until no process is left |\n|---|---|---|")
    for way, status, seconds in measured:
        print(f"| {way} | {status} | {seconds:.1f} |")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_table_of_ends(tmp_path, generated, with_workers, rows, way):
    changes, options, plant, act, status, message = WAYS[way]
    params = with_workers.model_copy(update={"epochs": 500} | changes)
    ending = Ending(tmp_path, generated, params, *options, plant=plant)
    act(ending)
    code, seconds = ending.end()
    assert message in ending.printed
    assert code == status, ending.printed
    rows.append((way, code if code >= 0 else f"{128 - code} (killed)", seconds))


@pytest.mark.slow
def test_table_of_ends_on_a_full_disk(tmp_path, generated, with_workers, rows, mount_disk):
    mount_disk(tmp_path / "disk", "1m")
    ending = Ending(tmp_path, generated, with_workers, out="disk/run")
    ending.until("error:")
    code, seconds = ending.end()
    assert code == 1
    assert "the disk is full" in ending.printed
    assert "make room" in ending.printed
    rows.append(("a full disk", code, seconds))


@pytest.mark.slow
def test_table_of_ends_of_a_sweep_whose_trials_fail(tmp_path, generated, with_workers, rows):
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump(
            {
                "metric": "top1",
                "pruner": "none",
                "startup_trials": 1,
                "min_epochs": 1,
                "space": {"lr": {"choices": [1e30, 0.003]}},
            }
        )
    )
    params = with_workers.model_copy(update={"epochs": 1} | NAN)
    options = ("--space", str(tmp_path / "space.yaml"), "--trials", "1")
    ending = Ending(tmp_path, generated, params, *options, module="training.sweep.sweep")
    ending.until("1 trial: ")
    code, seconds = ending.end()
    assert "failed with status 1: error: after step" in ending.printed
    rows.append(("a sweep whose trial fails", code, seconds))
