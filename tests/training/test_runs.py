"""The folder of a run: its own, locked while the run is at work; what runs/latest leads to; and the command that goes on."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from scripts.errors import FullDiskError
from tests.conftest import LIMIT_S, ROOT
from tests.waiting import ended_after_limit
from training import folder as run_folder
from training import train
from training.again import Again
from training.evaluation.report import write_report
from training.folder import BOTH, RANK_0, STARTER, at_work, check_exists, named_folder, new_folder, point_latest, process_at_work
from training.launch import number_of_processes
from training.model import Checkpoint
from training.params import read_params

# so that Ctrl-C reaches it wherever the tests run: a shell's background job would leave SIGINT ignored
AWAKE = "import signal, sys, os; signal.signal(signal.SIGINT, signal.default_int_handler); os.execvp(sys.argv[1], sys.argv[1:])"
HOLDER = """
import os, sys
from pathlib import Path
from training.folder import at_work, BOTH
with at_work(Path(sys.argv[1]), os.getpid(), BOTH):
    if os.fork() == 0:  # as a worker of the loader, which may outlive its parent
        print("locked", flush=True)
        sys.stdin.read()
        os._exit(0)
    os.wait()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def holder(here):
    """A process, with a child, that holds the lock of runs/held."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "runs/held"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def enter(out, part=BOTH):
    with at_work(Path(out), 1, part):
        pass


def test_new_folders_of_the_same_moment_differ(here, monkeypatch):
    monkeypatch.setattr(run_folder.time, "gmtime", lambda: time.struct_time((2026, 1, 2, 3, 4, 5, 0, 0, 0)))
    made = []
    threads = [threading.Thread(target=lambda: made.append(new_folder())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20
    assert Path("runs/20260102-030405") in made
    assert Path("runs/20260102-030405-2") in made


def test_run_at_work_is_refused_by_name_and_process_until_its_process_is_killed(here, holder):
    for part in (BOTH, STARTER, RANK_0):
        with pytest.raises(ValueError, match=f"the run in runs/held is at work, as process {holder.pid}: .* kill {holder.pid}"):
            enter("runs/held", part)
    assert process_at_work(Path("runs/held")) == str(holder.pid)
    with pytest.raises(ValueError, match=f"no checkpoint runs/held/checkpoint.pt yet: the run is at work, as process {holder.pid}"):
        Checkpoint.load(Path("runs/held/checkpoint.pt"))
    holder.kill()
    holder.wait()  # its child still lives: it waits for the end of its stdin
    enter("runs/held")
    assert process_at_work(Path("runs/held")) is None


def test_folder_into_which_nothing_was_written_is_removed_and_any_other_stays(here):
    with at_work(Path("runs/a/b"), 1):
        assert (here / "runs/a/b/lock").read_text() == "1\n"
    assert not (here / "runs/a/b").exists()
    with contextlib.suppress(KeyError), at_work(Path("runs/c"), 1):
        (here / "runs/c/last.pt").touch()
        raise KeyError
    assert (here / "runs/c/last.pt").exists()


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_folder_that_cannot_be_made_is_refused_with_what_to_do(here, place):
    (here / "file").touch()
    with pytest.raises(ValueError, match=rf"{place} cannot be written \(.*\): give a folder that can, with RUN=folder"):
        enter(place)
    (here / "runs").touch()
    with pytest.raises(ValueError, match="runs cannot be written"):
        new_folder()


def test_read_only_and_full_disks_are_named(here, mount_disk):
    full = mount_disk(here / "full", "16k")
    with contextlib.suppress(OSError):
        (full / "filler").write_bytes(bytes(20_000))
    with pytest.raises(FullDiskError, match="the disk is full: full/run cannot be written: make room there"):
        enter("full/run")
    subprocess.run(["mount", "-o", "remount,ro", str(full)], check=True)
    with pytest.raises(ValueError, match=r"full/other cannot be written \(Read-only file system\): give a folder that can"):
        enter("full/other")


@pytest.mark.parametrize("before", ["nothing", "a run", "a run that is gone", "a file"])
def test_latest_leads_to_the_run_that_was_started_last(here, before):
    (here / "runs/old").mkdir(parents=True)
    (here / "runs/new").mkdir()
    if before == "a file":
        (here / "runs/latest").write_text("old")
    elif before != "nothing":
        (here / "runs/latest").symlink_to({"a run": "old", "a run that is gone": "gone"}[before])
    for run in ("runs/new", "./runs/old/", str(here / "runs/new"), "runs/latest", "runs/../runs/old"):
        before_link = Path("runs/latest").resolve()
        point_latest(Path(run))
        expected = before_link if run == "runs/latest" else Path(run).resolve()
        assert (here / "runs/latest").is_symlink()
        assert Path("runs/latest").resolve() == expected
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["latest", "new", "old"]


def test_latest_stays_for_runs_elsewhere_and_a_folder_of_that_name_is_named(here, capsys):
    for run in ("runs/new", "runs/sweep/trial-000", "elsewhere/run"):
        (here / run).mkdir(parents=True)
    point_latest(Path("runs/new"))
    point_latest(Path("runs/sweep/trial-000"))
    point_latest(Path("elsewhere/run"))
    assert Path("runs/latest").readlink() == Path("new")
    Path("runs/latest").unlink()
    Path("runs/latest").mkdir()
    point_latest(Path("runs/new"))
    assert "warning: runs/latest does not lead to runs/new" in capsys.readouterr().err


def test_link_to_a_run_is_followed_at_once_and_one_to_nothing_is_refused(here):
    (here / "runs/a").mkdir(parents=True)
    (here / "runs/latest").symlink_to("a")
    assert named_folder(Path("runs/latest")) == Path("runs/a")
    assert named_folder(Path("runs/b")) == Path("runs/b")
    (here / "runs/a").rmdir()
    with pytest.raises(ValueError, match=r"runs/latest leads to .*/runs/a, which does not exist: no run is in runs"):
        named_folder(Path("runs/latest"))


READERS = {
    "evaluate": lambda run: Checkpoint.load(run / "checkpoint.pt"),  # export and compare, too
    "report": write_report,
    "resume": named_folder,
}


@pytest.mark.parametrize("reader", READERS)
def test_link_to_nothing_is_named_with_the_runs_that_are_there(here, reader):
    for number, name in enumerate(("a", "b", "no-run")):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / ("notes.txt" if name == "no-run" else "last.pt")).touch()
        os.utime(here / "runs" / name, (number, number))
    (here / "runs/latest").symlink_to("gone")
    with pytest.raises(ValueError, match=r"^runs/latest leads to .*/runs/gone, which does not exist: .*: runs/b, runs/a$"):
        READERS[reader](Path("runs/latest"))
    (here / "runs").rename(here / "old")
    (here / "runs").symlink_to("elsewhere")
    with pytest.raises(
        ValueError, match=r"^runs leads to .*/elsewhere, which does not exist: make that folder, or remove the link$"
    ):
        READERS[reader](Path("runs/latest"))
    with pytest.raises(ValueError, match=r"^runs leads to .*/elsewhere, which does not exist"):
        new_folder()


def test_run_that_is_not_there_is_named_with_those_that_are(here):
    (here / "runs/a").mkdir(parents=True)
    (here / "runs/a/last.pt").touch()
    with pytest.raises(ValueError, match=r"^there is no run runs/b: name one that is there .*: runs/a$"):
        check_exists(Path("runs/b"))


@pytest.mark.parametrize("held", ["1.jpg", "pizza/1.jpg", "notes.txt", "runs/a/last.pt"])
def test_folder_that_holds_anything_but_a_run_is_refused_before_a_file_is_written(here, held):
    (here / "photos" / held).parent.mkdir(parents=True)
    (here / "photos" / held).touch()
    before = sorted((here / "photos").rglob("*"))
    with pytest.raises(
        ValueError, match=f"photos is no run's folder, and holds {held.split('/')[0]}: give a new or an empty folder"
    ):
        enter("photos")
    assert sorted((here / "photos").rglob("*")) == before


@pytest.mark.parametrize("held", ["params.yaml", "train.log", ".DS_Store", "lock", "checkpoint.pt", "last.pt.12-ab.part"])
def test_folder_of_a_run_however_early_it_ended_is_taken(here, held):
    (here / "mine").mkdir()
    (here / "mine" / held).touch()
    enter("mine")


@pytest.mark.parametrize("out", ["photos", "photos/run", "photos/pizza/../run"])
def test_run_within_its_photos_is_refused_before_a_file_is_written(here, monkeypatch, out):
    (here / "photos/pizza").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["train", "--model", "food", "--data", "photos", "--out", out])
    with pytest.raises(ValueError, match="is within the photos photos: give one elsewhere"):
        train.main()
    assert [path.name for path in (here / "photos").rglob("*")] == ["pizza"]


def test_command_that_goes_on_is_the_one_that_started(here):
    out = here / "runs/a b"
    python = Again(out, [".venv/bin/python", "-m", "training.train", "--data", "my photos", "--out", str(out)], None)
    resumed = Again(out, ["python", "-m", "training.train", "--resume", "--out", str(out)], None)
    make = Again(out, [], ["DATA=my photos", "GPUS=2", "PARAMS=p.yaml"])
    assert make.advice() == "nothing is saved yet; to start again: make train 'DATA=my photos' GPUS=2 PARAMS=p.yaml"
    assert "nothing is saved yet" in python.advice()
    out.mkdir(parents=True)
    (out / "last.pt").touch()
    assert shlex.split(python.command()) == [*python.started]
    assert shlex.split(resumed.command(with_params=True)) == [*resumed.started, "--params", "params.yaml"]
    assert shlex.split(make.command()) == ["make", "train", f"RESUME={out}", "GPUS=2"]
    assert shlex.split(make.command(with_params=True)) == ["make", "train", f"RESUME={out}", "GPUS=2", "PARAMS=p.yaml"]
    recipe = Again(out, [], ["DATA=my photos", "RECIPE=cifar10"])
    assert shlex.split(recipe.command(with_params=True)) == ["make", "train", f"RESUME={out}", "RECIPE=cifar10"]
    resumed = Again(out, ["python", "-m", "training.train", "--resume", "--recipe=cifar10"], None)
    assert shlex.split(resumed.command(with_params=True)) == [*resumed.started]


class Project:
    """A copy of the project, as far as training needs it, in a folder of its own."""

    def __init__(self, folder: Path, params) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("Makefile", "handler", "scripts", "training", "pyproject.toml", "uv.lock"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").mkdir()
        for path in (ROOT / ".venv").iterdir():
            if path.name.startswith("installed-"):
                (folder / ".venv" / path.name).touch()
            else:
                (folder / ".venv" / path.name).symlink_to(path)
        (folder / "params.yaml").write_text(yaml.safe_dump(params.model_dump()))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        self.environment |= {"MLFLOW_TRACKING_URI": "none", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", AWAKE, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, process: subprocess.Popen[str], text: str) -> str:
        """What the process prints until a line, or the last part of one, matches."""
        printed = ""
        assert process.stdout
        with ended_after_limit(process):
            while not re.search(text, printed):
                character = process.stdout.read(1)
                assert character, printed
                printed += character
        return printed


@pytest.fixture
def project(tmp_path, tiny_params):
    return Project(tmp_path / "the project", tiny_params.model_copy(update={"epochs": 500, "checkpoint_minutes": 10.0}))


STARTS = {
    "make": ("make", "train", "DATA={data}", "MODEL=food"),
    "make, two processes": ("make", "train", "DATA={data}", "GPUS=2"),
    "make, a folder of its own": ("make", "train", "DATA={data}", "RUN=../elsewhere"),
    "python": (".venv/bin/python", "-m", "training.train", "--model", "food", "--data", "{data}", "--out", "runs/mine"),
    "python, a new folder": (".venv/bin/python", "-m", "training.train", "--model", "food", "--data", "{data}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("start", STARTS)
def test_printed_command_goes_on_with_the_run_when_it_is_copied_into_a_shell(project, generated, tmp_path, start, number):
    (tmp_path / "my photos").symlink_to(generated)
    command = [word.format(data="../my photos") for word in STARTS[start]]
    process = project.start(*command)
    printed = project.until(process, r"epoch 2/500: +\d+%.*img")
    os.killpg(process.pid, number)
    rest, _ = process.communicate(timeout=LIMIT_S)
    printed += rest
    step = int(re.search(rf"stopped by {number.name} after step (\d+); saved in", printed)[1])
    again = re.search(r"to go on from the last saved state: (.*)", printed)[1]
    process = project.start("sh", "-c", again)
    printed = project.until(process, r"epoch 2/500: +\d+%.*img")
    assert f"resuming after step {step}," in printed
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert len([path for path in (project.folder / "runs").glob("*") if not path.is_symlink()]) == ("elsewhere" not in str(command))


@pytest.mark.slow
def test_resuming_a_run_at_work_is_refused_and_an_older_one_becomes_the_latest(project, generated):
    first = project.start("make", "train", f"DATA={generated}")
    project.until(first, r"epoch 2/500: +\d+%.*img")
    (run,) = [path for path in (project.folder / "runs").iterdir() if not path.is_symlink()]
    refused = project.start("make", "train", f"RESUME=runs/{run.name}")
    printed, _ = refused.communicate(timeout=LIMIT_S)
    pid = re.search(rf"error: the run in runs/{run.name} is at work, as process (\d+)", printed)[1]
    twin = project.start("make", "train", f"RESUME=runs/{run.name}", "GPUS=2")
    assert f"as process {pid}" in twin.communicate(timeout=LIMIT_S)[0]
    second = project.start("make", "train", f"DATA={generated}")
    project.until(second, r"epoch 2/500: +\d+%.*img")
    assert (project.folder / "runs/latest").resolve() != run
    os.kill(int(pid), signal.SIGKILL)
    first.communicate(timeout=LIMIT_S)
    os.killpg(second.pid, signal.SIGTERM)
    second.communicate(timeout=LIMIT_S)
    resumed = project.start("make", "train", f"RESUME=runs/{run.name}")
    project.until(resumed, r"epoch \d+/500: +\d+%.*img")
    assert (project.folder / "runs/latest").resolve() == run
    os.killpg(resumed.pid, signal.SIGTERM)
    resumed.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"headlr": 0.1}, "headlr: Extra inputs are not permitted (got 0.1; did you mean head_lr?)"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted (got 'red')"),
        ({"lr": None}, "lr: Input should be a valid number (got None)"),
        ({"lr": "1e-3"}, "(got '1e-3'; YAML reads this as text: write 0.001 or 1.0e-3)"),
        ({"lr": float("inf")}, "lr: Input should be a finite number (got inf)"),
        ({"epochs": 1.5}, "epochs: Input should be a valid integer"),
        ({"workers": -1}, "workers: Input should be greater than or equal to 0 (got -1)"),
        ({"channels_last": "on"}, "channels_last: Input should be a valid boolean (got 'on')"),
        ({"augment": "heavy"}, "augment: Input should be 'none', 'trivial' or 'rand' (got 'heavy')"),
    ],
    ids=str,
)
def test_wrong_parameter_is_named_with_what_was_meant(tmp_path, tiny_params, change, message):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params.model_dump() | change))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_params(tmp_path / "params.yaml")


def test_missing_parameter_and_files_that_hold_none_are_named(tmp_path, tiny_params):
    values = tiny_params.model_dump()
    del values["lr"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("params.yaml", "lr: Field required"),
        ("", "is no parameter file"),
        ("binary.yaml", "is not valid YAML"),
    ):
        with pytest.raises(ValueError, match=message):
            read_params(tmp_path / name)


@pytest.mark.parametrize(("text", "gpus", "right"), [("1", 0, True), ("2", 2, True), ("3", 2, False), ("0", 1, False)])
def test_number_of_processes_is_checked_against_the_machine(monkeypatch, text, gpus, right):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    if right:
        assert number_of_processes(text) == int(text)
    else:
        with pytest.raises(ValueError, match=rf"GPUS={text}: expected a number from 1 to {gpus}, as PyTorch finds {gpus} GPU"):
            number_of_processes(text)


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "", "٣", "99999"])
def test_number_of_processes_that_is_none_is_refused_with_what_is_there(monkeypatch, text):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=f"GPUS={text}: expected a number from 1 to .* CPU cores .*CUDA_VISIBLE_DEVICES is ''"):
        number_of_processes(text)


@pytest.mark.slow
def test_files_may_lie_outside_the_checkout(project, generated, tmp_path):
    params = yaml.safe_load((project.folder / "params.yaml").read_text()) | {"epochs": 1}
    (tmp_path / "my params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "my photos").symlink_to(generated)
    process = project.start("make", "train", "DATA=../my photos", "PARAMS=../my params.yaml", "RUN=../my runs/one")
    printed, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, printed
    assert "Next: make evaluate RUN='../my runs/one'" in printed
    for command in re.findall(r"make evaluate RUN='[^']*'", printed):
        done = project.start("sh", "-c", command)
        shown, _ = done.communicate(timeout=LIMIT_S)
        assert done.returncode == 0, shown
    assert (tmp_path / "my runs/one/metrics.json").is_file()
