"""Whatever ends a training, its process and its workers are gone soon, with a sentence that says what to do."""

import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml

from tests.conftest import LIMIT_S, ROOT
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


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("raise KeyError('a bug')", 1, "KeyError: see the lines above; nothing is saved yet; to start again: "),
        pytest.param("raise MemoryError", 1, "there is too little memory for these crops", marks=pytest.mark.slow),
        pytest.param(
            "raise RuntimeError('CUDA out of memory. Tried to allocate')",
            1,
            "a smaller global_batch_size, or accumulate: 2",
            marks=pytest.mark.slow,
        ),
        pytest.param("raise ValueError('a bad value')", 1, "error: a bad value", marks=pytest.mark.slow),
        pytest.param("raise OSError(28, 'No space left on device')", 1, "error: the disk is full", marks=pytest.mark.slow),
        pytest.param("raise KeyboardInterrupt", 130, "interrupted", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", 3, "", marks=pytest.mark.slow),
        pytest.param(
            "import psutil; psutil.Process().children()[0].kill()",
            1,
            "a worker of the loader was killed, most often for want of memory: fewer workers",
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
    deadline = time.monotonic() + LIMIT_S
    while any(str(tmp_path) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline


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
    ("error", "text", "changes_params"),
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
def test_errors_of_the_machine_have_a_remedy(error, text, changes_params):
    found = remedy(error)
    assert found
    assert text in found.text
    assert found.changes_params == changes_params


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), ValueError("lr is -1"), RuntimeError("shape mismatch"), FileNotFoundError(2, "no")]
)
def test_errors_that_say_themselves_what_is_wrong_have_none(error):
    assert remedy(error) is None
