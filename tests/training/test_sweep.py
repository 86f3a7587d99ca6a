"""A sweep: what it refuses, what a trial's end means, and that nothing is lost or counted twice when it is killed."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from optuna.trial import TrialState

from scripts.command import run as run_command
from tests.conftest import LIMIT_S, ROOT
from tests.waiting import until
from training.params import read_params
from training.sweep import processes
from training.sweep import sweep as sweep_module
from training.sweep.processes import end_left_over, trainings, watch
from training.sweep.space import read_settings, suggest
from training.sweep.study import next_trial, open_study
from training.sweep.sweep import locked, report, run_trial, sweep
from training.sweep.trials import print_table, read_history, trial_folder

pytestmark = pytest.mark.slow

SPACE = {
    "lr": {"low": 0.001, "high": 0.1, "log": True},
    "augment": {"choices": ["none", "trivial"]},
    "workers": {"low": 0, "high": 3},
}


def settings_file(path, **changes):
    values = {"metric": "top1", "pruner": "median", "startup_trials": 1, "min_epochs": 1, "space": SPACE} | changes
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def settings(tmp_path, tiny_params):
    return read_settings(settings_file(tmp_path / "sweep.yaml"), tiny_params)


@pytest.mark.parametrize("params", ["params.yaml", "model_store/starter/params.yaml"])
def test_committed_sweep_fits_the_committed_parameters(params):
    params = read_params(ROOT / params)
    settings = read_settings(ROOT / "training" / "sweep" / "sweep.yaml", params)
    assert settings.metric == "top1"
    assert "lr" in settings.space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"headlr": {"low": 0.1, "high": 0.2}}}, r"space.headlr is not a parameter of a run \(similar: head_lr"),
        ({"space": {"lr": {"low": 0.2, "high": 0.1}}}, "space.lr: .*expected low < high"),
        ({"space": {"lr": {"low": 0.0, "high": 0.1, "log": True}}}, "space.lr: .*log with low 0.0, expected more than 0"),
        ({"space": {"lr": {"low": -0.1, "high": 0.1}}}, r"space.lr: .*greater than 0 \(got -0.1\)"),
        ({"space": {"lr": {"low": 0.1, "high": float("inf")}}}, "space.lr: .*expected finite numbers"),
        ({"space": {"lr": {"low": float("nan"), "high": 0.1}}}, "space.lr: .*expected finite numbers"),
        ({"space": {"lr": {"low": 0.1}}}, "space.lr: .*expected low and high, or choices"),
        ({"space": {"lr": {"low": 0.1, "high": 0.2, "step": 0.1}}}, "space.lr.step: Extra inputs"),
        ({"space": {"epochs": {"low": 1.5, "high": 3}}}, r"space.epochs: .*valid integer \(got 1.5\)"),
        ({"space": {"augment": {"choices": ["none", "heavy"]}}}, "space.augment: .*got 'heavy'"),
        ({"space": {"augment": {"low": 1, "high": 2}}}, "space.augment: .*got 1"),
        ({"space": {}}, "space: .*at least 1"),
        (
            {"space": {"model": {"choices": ["resnet18", "resnet_18"]}}},
            "space.model: timm has no model 'resnet_18'; similar",
        ),
        ({"space": {"model": {"choices": ["resnet18.no_such"]}}}, "space.model: resnet18.no_such .* cannot be made: .*no_such"),
        ({"metric": "accuracy"}, "metric: .*'top1', 'top5', 'f1'"),
        ({"pruner": "asha"}, "pruner: .*got 'asha'"),
        ({"trials": 3}, "trials: Extra inputs"),
    ],
)
def test_wrong_search_is_refused_by_name(tmp_path, tiny_params, changes, message):
    with pytest.raises(ValueError, match=message):
        read_settings(settings_file(tmp_path / "sweep.yaml", **changes), tiny_params)


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a: [", b"\xff\xfe", b"1: 2"])
def test_file_that_is_no_search_is_refused_by_name(tmp_path, tiny_params, content):
    (tmp_path / "sweep.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/sweep.yaml cannot be read as keys and values"):
        read_settings(tmp_path / "sweep.yaml", tiny_params)


# stands in for train.py, whose import alone takes seconds: writes history.csv with top1 = 10 * lr, ends with 143 on SIGTERM
TRAINING = """
import pathlib, sys, time, yaml
params, out = (sys.argv[sys.argv.index(name) + 1] for name in ("--params", "--out"))
lr, epochs = (yaml.safe_load(open(params))[name] for name in ("lr", "epochs"))
print("going to train")
if lr > 0.09:
    sys.exit("error: the loss is nan")
text = "epoch,top1\\n"
for epoch in range(1, epochs + 1):
    text += f"{epoch},{10 * lr - 0.01 * abs(epoch - 2)}\\n"
    path = pathlib.Path(out, "history.csv")
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").replace(path)
    time.sleep(0 if lr > 0.05 else 0.2)
"""
COMMAND = [sys.executable, "-c", "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(143))" + TRAINING]


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(processes, "POLL_S", 0.05)


def run(study, settings, params, folder, **values):
    """One trial with these values; its frozen state."""
    study.enqueue_trial({"augment": "none", "workers": 0} | values)
    run_trial(study, next_trial(study, 100, 0), settings, COMMAND, params, folder)
    return study.get_trials()[-1]


def test_each_end_of_a_trial_is_told_as_what_it_is(tmp_path, settings, tiny_params, fast, capsys):
    params = tiny_params.model_copy(update={"lr": 0.5})  # outside: no first trial of the parameters as they stand
    study = open_study(tmp_path, "food", settings, params, None)
    good = run(study, settings, params, tmp_path, lr=0.06)
    assert (good.state, good.value) == (TrialState.COMPLETE, pytest.approx(0.6))  # the second epoch's, the best
    assert good.intermediate_values.keys() == {1, 2, 3, 4, 5, 6}
    weak = run(study, settings, params, tmp_path, lr=0.002)
    assert weak.state == TrialState.PRUNED
    assert len(read_history(trial_folder(tmp_path, 1))) < 6
    failed = run(study, settings, params, tmp_path, lr=0.095)
    assert (failed.state, failed.user_attrs) == (TrialState.FAIL, {"error": "error: the loss is nan"})
    assert run(study, settings, params, tmp_path, lr=0.08).value > good.value
    report(study, settings, tmp_path)
    print_table(study, tmp_path, "top1")
    printed = capsys.readouterr().out
    assert "ended early after epoch" in printed
    assert "failed with status 1: error: the loss is nan" in printed
    assert printed.splitlines()[-4].split() == ["trial", "top1", "epoch", "lr", "augment", "workers"]
    assert printed.splitlines()[-3].split() == ["3", "0.8000", "2", "0.08", "none", "0"]
    assert printed.splitlines()[-1] == "4 trials: 2 complete, 1 ended early, 1 failed"
    assert read_params(tmp_path / "best.yaml") == params.model_copy(update={"lr": 0.08, "workers": 0})
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "ended by SIGKILL, most often for want of memory: .*going to train",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV; its last line: going to train"),
        ("raise MemoryError", "MemoryError"),
        ("sys.exit(0)", "going to train"),  # without one epoch's metrics
    ],
)
def test_trial_that_crashes_is_failed_with_the_reason_and_the_sweep_goes_on(
    tmp_path, settings, tiny_params, fast, monkeypatch, end, reason
):
    study = open_study(tmp_path, "food", settings, tiny_params.model_copy(update={"lr": 0.5}), None)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "COMMAND", [*COMMAND[:2], COMMAND[2].replace("if lr > 0.09:", f"if lr > 0.09:\n    {end}", 1)])
        failed = run(study, settings, tiny_params, tmp_path, lr=0.095)
    assert failed.state == TrialState.FAIL
    assert re.search(reason, failed.user_attrs["error"]), failed.user_attrs
    assert run(study, settings, tiny_params, tmp_path, lr=0.06).state == TrialState.COMPLETE


def test_folder_of_another_sweeps_trial_or_of_a_run_is_not_taken(tmp_path, settings, tiny_params, fast):
    study = open_study(tmp_path, "food", settings, tiny_params.model_copy(update={"lr": 0.5}), None)
    run(study, settings, tiny_params, tmp_path, lr=0.06)
    (tmp_path / "optuna.db").unlink()
    study = open_study(tmp_path, "food", settings, tiny_params.model_copy(update={"lr": 0.5}), None)
    with pytest.raises(ValueError, match=r"trial-000 holds a trial of another sweep, whose optuna.db is gone: move .* NAME="):
        run(study, settings, tiny_params, tmp_path, lr=0.07)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(ValueError, match=r"run holds a run and no sweep: .*NAME="):
        sweep("food", None, tiny_params, settings, tmp_path / "run", 1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.pt"]
    with pytest.raises(ValueError, match="TRIALS is 0, expected at least 1"):
        sweep("food", None, tiny_params, settings, tmp_path / "sweep", 0)


def test_trial_under_way_goes_on_with_its_own_values(tmp_path, settings, tiny_params, fast):
    study = open_study(tmp_path, "food", settings, tiny_params, None)
    begun = next_trial(study, 3, 0)
    study = open_study(tmp_path, "food", settings, tiny_params, None)
    taken_up = next_trial(study, 3, 0)
    assert taken_up.number == begun.number == 0
    run_trial(study, taken_up, settings, COMMAND, tiny_params, tmp_path)
    second = next_trial(study, 3, 0)
    values = {name: second.suggest_float(name, 0.001, 0.1, log=True) for name in ("lr",)}
    study = open_study(tmp_path, "food", settings, tiny_params, None)
    run_trial(study, next_trial(study, 3, 0), settings, COMMAND, tiny_params, tmp_path)
    frozen = study.get_trials()
    assert [trial.number for trial in frozen] == [0, 1]
    assert frozen[0].params == {"lr": tiny_params.lr, "augment": "none", "workers": 0}  # as they stand
    assert frozen[1].params["lr"] == values["lr"]
    assert all(trial.state.is_finished() for trial in frozen)


def test_what_is_tried_does_not_depend_on_interruptions(tmp_path, settings, tiny_params):
    asked = []
    for reopen in (False, True):
        folder = tmp_path / str(reopen)
        folder.mkdir()
        study = open_study(folder, "food", settings, tiny_params, None)
        for number in range(14):
            study = open_study(folder, "food", settings, tiny_params, None) if reopen else study
            trial = next_trial(study, 14, 0)
            for name, parameter in settings.space.items():
                suggest(trial, name, parameter)
            study.tell(trial, 0.1 * (number % 5))
        asked.append([trial.params for trial in study.get_trials()])
        assert next_trial(study, 14, 0) is None
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("space", "was started with other settings: metric top1 -> f1; start"),
        ("params", "other settings: params.epochs 6 -> 7;"),
        ("data", "other settings: data generated pictures -> /"),
        ("model", "other settings: model_name food -> flowers;"),
        ("gone", "no data set at"),
    ],
)
def test_sweep_goes_on_with_the_settings_that_it_was_begun_with_only(tmp_path, settings, tiny_params, change, message):
    open_study(tmp_path, "food", settings, tiny_params, None)
    if change == "space":
        settings = read_settings(settings_file(tmp_path / "other.yaml", metric="f1"), tiny_params)
    if change == "params":
        tiny_params = tiny_params.model_copy(update={"epochs": 7})
    model = "flowers" if change == "model" else "food"
    with pytest.raises(ValueError, match=message):
        open_study(tmp_path, model, settings, tiny_params, {"data": tmp_path, "gone": tmp_path / "no"}.get(change))


def test_second_sweep_in_the_same_folder_is_refused(tmp_path, settings, tiny_params):
    with locked(tmp_path), pytest.raises(ValueError, match="another sweep runs in"):
        sweep("food", None, tiny_params, settings, tmp_path, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_training_with_the_sweep(tmp_path, number):
    output = tmp_path / "output.txt"
    command = [sys.executable, "-c", f"import time; print(1, flush=True); time.sleep({LIMIT_S})"]

    def signal_once_it_runs():
        if output.stat().st_size:
            os.kill(os.getpid(), number)

    with output.open("wb") as file:
        assert run_command(lambda: watch(command, file, signal_once_it_runs)) == 128 + number
    assert not [p for p in psutil.Process().children() if p.cmdline() == command]


def test_training_that_outlived_its_sweep_is_ended_and_no_other(tmp_path):
    script = tmp_path / "training" / "train.py"
    script.parent.mkdir()
    (script.parent / "__init__.py").touch()  # or the project's own package, if it is on the path, would be imported instead
    script.write_text(f"import time; print(1, flush=True); time.sleep({LIMIT_S})")
    started = []
    try:
        for out in ("runs/s/trial-001", "runs/s/trial-002"):
            command = [sys.executable, "-m", "training.train", "--out", out]
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE))
            started[-1].stdout.read(1)
        end_left_over(tmp_path / "runs" / "s" / "trial-001")
        still = [psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert still == [False, True]


@pytest.mark.slow
def test_sweep_of_failing_trials_ends_and_says_why(tmp_path, settings, tiny_params, monkeypatch, capsys):
    monkeypatch.setattr(sweep_module, "MAX_FAILURES", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="1 trials in a row failed, the last with: error: .*0 class folders"):
        sweep("food", tmp_path / "empty", tiny_params, settings, tmp_path / "runs", 3)
    assert "output.txt" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_sweep_goes_on_and_no_trial_is_lost_or_counted_twice(tmp_path, generated, tiny_params, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for so small a network, more threads wait for each other
    params, folder = tiny_params.model_copy(update={"epochs": 6}), Path("runs/sweep")
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump()))
    space = settings_file(Path("sweep.yaml"), pruner="none", space={"lr": {"low": 0.001, "high": 0.01, "log": True}})
    command = [sys.executable, "-m", "training.sweep.sweep", "--model", "food", "--data", str(generated), "--params", "params.yaml"]
    command += ["--space", str(space), "--out", str(folder), "--trials", "2"]
    with Path("first.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        until(lambda: read_history(trial_folder(folder, 1)), Path("first.txt").read_text, process, pause_s=0.02)
    finally:
        process.kill()
    request.addfinalizer(lambda: [left.kill() for number in (0, 1) for left in trainings(tmp_path / trial_folder(folder, number))])
    assert process.wait(LIMIT_S) == -signal.SIGKILL, Path("first.txt").read_text()

    sweep("food", generated, params, read_settings(space, params), folder, trials=2)
    study = optuna.load_study(study_name="sweep", storage="sqlite:///runs/sweep/optuna.db")
    assert [(trial.number, trial.state) for trial in study.trials] == [(0, TrialState.COMPLETE), (1, TrialState.COMPLETE)]
    for number in (0, 1):
        history = read_history(trial_folder(folder, number))
        assert [row["epoch"] for row in history] == list(range(1, 7))
        assert study.trials[number].value == max(row["top1"] for row in history)
    assert not any(trainings(trial_folder(folder, number)) for number in (0, 1))
    printed = capsys.readouterr().out
    assert "2 trials: 2 complete, 0 ended early, 0 failed" in printed
    assert "trial 0" not in printed  # it had ended before
    best = study.best_trial
    assert read_params(folder / "best.yaml").lr == best.params["lr"]

    with sqlite3.connect("mlflow.db") as store:
        runs = dict(store.execute("select name, status from runs"))
        assert runs == {"sweep": "FINISHED", "trial-000": "FINISHED", "trial-001": "FINISHED"}
        parents = store.execute(
            "select runs.name, parent.name from runs join tags using (run_uuid) join runs as parent"
            " on parent.run_uuid = tags.value where tags.key = 'mlflow.parentRunId'"
        )
        assert sorted(parents) == [("trial-000", "sweep"), ("trial-001", "sweep")]
        noted = dict(store.execute("select key, value from params join runs using (run_uuid) where name = 'sweep'"))
        assert float(noted["best.lr"]) == best.params["lr"]
        holder = store.execute(
            "select runs.name from registered_model_aliases as alias join model_versions as version"
            " on version.version = alias.version join runs on runs.run_uuid = version.run_id where alias.alias = 'challenger'"
        )
        assert list(holder) == [("sweep",)]
    store.close()
    assert {path.name for path in Path("runs/mlflow-artifacts").rglob("*.*")} >= {"sweep.png", "best.yaml"}
    sweep("food", generated, params, read_settings(space, params), folder, trials=2)
    assert len(study.trials) == 2
    assert "2 trials: 2 complete" in capsys.readouterr().out
