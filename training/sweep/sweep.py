"""Search hyper-parameters: `python -m training.sweep.sweep --model food --data photos --out runs/sweep --trials 20`.

Optuna chooses values from the ranges in sweep.yaml; the first trial is the parameter file as it is. Each trial is a run of
training/train.py in a folder of its own, pruned (ended early) if its metrics fall behind. After an interruption the same command
continues: the interrupted trial from its last saved state, and optuna.db keeps the trials that have ended. Writes best.yaml
(for make train PARAMS=...) and sweep.png; in MLflow the trials are children of the sweep's run.
"""

import fcntl
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import yaml
from optuna.trial import Trial, TrialState

from scripts.atomic import write_text
from scripts.command import parser, run
from scripts.model_name import check_model_name
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in
from training.sweep.processes import end_left_over, watch
from training.sweep.space import Settings, read_settings, suggest
from training.sweep.study import OtherSearchError, next_trial, open_study
from training.sweep.trials import best_epoch, plot, print_table, ranked, read_history, shown, trial_folder, write_best
from training.tracking.journal import Tracker
from training.tracking.store import CLOSE_S, say

STATE = "last.pt"  # of a run, by training/resume.py, whose import takes seconds
MAX_FAILURES = 3  # in a row: then the cause is not the parameters


def run_trial(study: optuna.Study, trial: Trial, settings: Settings, command: list[str], base: Params, folder: Path) -> None:
    """Train a trial in its folder, or resume it there, and tell Optuna how it ended."""
    out = trial_folder(folder, trial.number)
    values = {name: suggest(trial, name, parameter) for name, parameter in settings.space.items()}
    params = Params(**base.model_dump() | values)
    check_free(out, params)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "params.yaml", yaml.safe_dump(params.model_dump(), sort_keys=False))
    # a sweep that was killed could not end its training, which may still write here
    end_left_over(out)
    print(f"trial {trial.number}: " + ", ".join(f"{name} {shown(value)}" for name, value in values.items()), flush=True)
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def should_prune() -> bool:
        """Report new epochs to Optuna; whether to prune the trial."""
        history = read_history(out)
        for row in history:
            if (epoch := int(row["epoch"])) not in reported:
                trial.report(row[settings.metric], epoch)
                reported.add(epoch)
        # not after the last epoch: a trial that has ended by itself counts in full
        return 0 < len(history) < params.epochs and trial.should_prune()

    # at once, too: the sweep may have been interrupted just when this trial was to be pruned
    pruned, status = should_prune(), -1
    if not pruned:
        with (out / "output.txt").open("ab") as output:
            pruned, status = watch([*command, "--params", f"{out}/params.yaml", "--out", str(out)], output, should_prune)
        should_prune()  # to report the epochs since the last poll
    if status == 0 and read_history(out):  # even if it was to be pruned: it ended first
        best = best_epoch(study, read_history(out), settings.metric)
        study.tell(trial, best[settings.metric])
        print(f"  {settings.metric} {best[settings.metric]:.4f} at epoch {best['epoch']:.0f}", flush=True)
    elif pruned:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"  ended early after epoch {len(reported)}", flush=True)
    else:
        tell_failure(study, trial, out / "output.txt", status)


def check_free(out: Path, params: Params) -> None:
    """OtherSearchError if a trial with other parameters has trained in the folder."""
    try:
        other = (out / "params.yaml").exists() and read_params(out / "params.yaml") != params
    except ValueError:  # not one of a trial
        other = True
    if other:
        raise OtherSearchError(
            f"{out} holds a trial of another sweep, whose optuna.db is gone: move {out.parent} away, or choose another NAME="
        )


def tell_failure(study: optuna.Study, trial: Trial, output: Path, status: int) -> None:
    """Tell Optuna that a trial failed, and why: the last error that its training printed, or else its last line."""
    text = output.read_text(encoding="utf-8", errors="replace")
    # a progress bar rewrites its line, with carriage returns
    lines = [last for line in text.split("\n") if (last := line.split("\r")[-1].strip())]
    errors = [line for line in lines if line.startswith("error: ")]
    reason = (errors or lines or ["no output"])[-1]
    if status < 0:
        why = ", most often for want of memory: a smaller global_batch_size" if status == -signal.SIGKILL else ""
        reason = f"ended by {signal.Signals(-status).name}{why}; its last line: {reason}"
    trial.set_user_attr("error", reason)
    study.tell(trial, state=TrialState.FAIL)
    print(f"  failed with status {status}: {reason} (full output: {output})", flush=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this `with`, no other sweep runs in the folder. ValueError if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another sweep runs in {folder}") from error
        yield


def report(study: optuna.Study, settings: Settings, folder: Path) -> None:
    """Write best.yaml and sweep.png of the trials so far."""
    write_best(study, folder, settings.metric)
    plot(study, folder, settings.metric, {name for name, parameter in settings.space.items() if parameter.log})


def check_failures(study: optuna.Study) -> None:
    """ValueError if the last MAX_FAILURES trials all failed."""
    last = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()][-MAX_FAILURES:]
    if len(last) == MAX_FAILURES and all(trial.state == TrialState.FAIL for trial in last):
        raise ValueError(f"{MAX_FAILURES} trials in a row failed, the last with: {last[-1].user_attrs['error']}")


def search(model: str, study: optuna.Study, settings: Settings, base: Params, data: Path | None, folder: Path, trials: int) -> None:
    """Run trials until there are `trials`, and record them in MLflow. ValueError if MAX_FAILURES in a row fail."""
    trial = next_trial(study, trials, base.seed)
    if trial is None and study.user_attrs.get("noted") == trials:
        return  # or each repetition of the command would register the best model again
    tracker, status = Tracker(folder), "FAILED"
    try:
        tracker.log_params({"data": str(data), "trials": trials, "sweep": settings.model_dump(exclude_none=True)})
        parent_run = None if tracker.uri == "none" else tracker.run_id(CLOSE_S)
        if parent_run is None and tracker.uri != "none":
            say("the sweep has no run in MLflow yet: its trials are recorded as runs of their own, not below it")
        # a process for each trial: its memory and its GPU are free when it ends, however it ends
        command = [sys.executable, "-m", "training.train", "--model", model]
        command += ["--data", str(data)] if data else []
        command += ["--parent-run", parent_run] if parent_run else []
        while trial is not None:
            run_trial(study, trial, settings, command, base, folder)
            report(study, settings, folder)
            for best in ranked(study)[:1]:
                tracker.log_metrics({f"best_{settings.metric}": best.value or 0.0}, trial.number + 1)
            check_failures(study)
            trial = next_trial(study, trials, base.seed)
        for best in ranked(study)[:1]:
            tracker.log_params({"best": best.params})
            for path in (folder / "best.yaml", folder / "sweep.png"):
                tracker.log_artifact(path)
            # each trial became the challenger when it ended; the best one is registered last, and stays it
            tracker.register(model, trial_folder(folder, best.number) / "checkpoint.pt")
        study.set_user_attr("noted", trials)
        status = "FINISHED"
    except KeyboardInterrupt:  # SIGTERM, too
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def sweep(model: str, data: Path | None, params: Params, settings: Settings, folder: Path, trials: int) -> None:
    """Search in `folder` until it holds `trials` trials of `model`. OtherSearchError if it holds another search."""
    check_model_name(model)
    if trials < 1:
        raise ValueError(f"TRIALS is {trials}, expected at least 1, such as TRIALS=20 (--trials)")
    if (folder / STATE).exists():
        raise OtherSearchError(f"{folder} holds a run and no sweep: give the sweep another name (NAME=...)")
    with locked(folder):
        study = open_study(folder, model, settings, params, data)
        search(model, study, settings, params, data, folder, trials)
        print_table(study, folder, settings.metric)
        if ranked(study):
            words = [*([f"DATA={data}"] if data else []), f"PARAMS={folder}/best.yaml"]
            print(f"written: {folder}/best.yaml, {folder}/sweep.png. Next: make train {shlex.join(words)}")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", help="name to register the trials' models under; default: the recipe's")
    arguments.add_argument("--data", type=Path, help="as of training.train; with build/split.json no trial reads all photos again")
    add_options(arguments, default="params.yaml; for all that is not searched")
    arguments.add_argument("--space", type=Path, default=Path(__file__).with_name("sweep.yaml"))
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--trials", type=int, default=20)
    args = arguments.parse_args()
    fill_in(args)
    if not args.model:
        arguments.error("--model is missing: a name such as food")
    params = read_params(args.params or DEFAULT)
    sweep(args.model, args.data, params, read_settings(args.space, params), args.out, args.trials)


if __name__ == "__main__":
    sys.exit(run(main, "all trials are kept, and the same command continues"))
