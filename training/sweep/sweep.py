"""Search hyper-parameters: `python -m training.sweep.sweep --data photos --params params.yaml --out runs/sweep --trials 20`.

Optuna chooses what to try from the ranges in sweep.yaml, after a first trial of the parameter file as it stands. Each trial
is a run of training/train.py in a folder of its own, ended early if its figures are hopeless. The same command goes on
after any interruption: a trial that was under way continues from its last state, and what has ended is in optuna.db.
Writes best.yaml (for make train PARAMS=...) and sweep.png; in MLflow the trials are children of the sweep's run.
"""

import argparse
import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

import optuna
import psutil
import yaml
from optuna.trial import Trial, TrialState

from training.params import Params, read_params
from training.sweep.space import DIRECTIONS, Settings, read_settings, suggest
from training.sweep.trials import best_epoch, plot, print_table, ranked, read_history, shown, trial_folder, write_best
from training.tracking.journal import CLOSE_S, Tracker

POLL_S = 0.5
MAX_FAILURES = 3  # in a row; then it is not the parameters


def open_study(folder: Path, settings: Settings, params: Params, data: Path | None) -> optuna.Study:
    """The study in `folder`, begun with the parameters as they stand. ValueError if it was begun with other settings."""
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(settings.startup_trials, settings.min_epochs + 1),
        "hyperband": optuna.pruners.HyperbandPruner(settings.min_epochs, max(params.epochs, settings.min_epochs)),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}",
        study_name=folder.name,
        direction=DIRECTIONS[settings.metric],
        pruner=pruners[settings.pruner],
        load_if_exists=True,
    )
    asked = settings.model_dump(exclude={"space"}) | {"data": identity(data)}
    for kind, values in (("space", settings.model_dump(exclude_none=True)["space"]), ("params", params.model_dump())):
        asked |= {f"{kind}.{name}": value for name, value in values.items()}
    begun = study.user_attrs.get("asked", asked)
    names = [name for name in sorted(asked.keys() | begun.keys()) if asked.get(name) != begun.get(name)]
    if names:
        changed = ", ".join(f"{name} {begun.get(name)} -> {asked.get(name)}" for name in names)
        raise ValueError(f"{folder} was begun with other settings: {changed}; begin another one (NAME=...)")
    study.set_user_attr("asked", asked)
    stands = {name: getattr(params, name) for name in settings.space}
    if not study.get_trials(deepcopy=False) and all(parameter.holds(stands[name]) for name, parameter in settings.space.items()):
        study.enqueue_trial(stands)
    return study


def identity(data: Path | None) -> str:
    """What tells a data set from another: its path, and for prepared data what is in it. ValueError if it is not there."""
    if data is None:
        return "generated pictures"
    if not data.exists():
        raise ValueError(f"no data set at {data}")
    if data.suffix != ".json":
        return str(data)
    try:
        return f"{data} {json.loads(data.read_text(encoding='utf-8'))['fingerprint']}"
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{data} is not what training/data/prepare.py writes") from error


def next_trial(study: optuna.Study, trials: int, seed: int) -> Trial | None:
    """The trial that was under way, else a new one; None if there are enough."""
    known = study.get_trials(deepcopy=False)
    under_way = next((trial for trial in known if trial.state == TrialState.RUNNING), None)
    number = under_way.number if under_way else sum(trial.state != TrialState.WAITING for trial in known)
    # a sampler for each trial: what is tried does not depend on interruptions
    study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + number)
    if under_way:
        return Trial(study, under_way._trial_id)
    return study.ask() if number < trials else None


def trainings(out: Path) -> list[psutil.Process]:
    """The processes that train into this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()  # raises for a zombie, of which a container without an init keeps some
            if "training.train" in command and "--out" in command:
                given = Path(process.cwd(), command[command.index("--out") + 1])
                found += [process] if given.resolve() == out.resolve() else []
    return found


def end_left_over(out: Path) -> None:
    """End a training into this folder that outlived its sweep, as two must not write there; it saves its state first."""
    for end, limit_s in (("terminate", 2 * CLOSE_S), ("kill", CLOSE_S)):
        for process in (left := trainings(out)):
            with suppress(psutil.Error):
                getattr(process, end)()
        ends_at = time.monotonic() + limit_s
        while left and trainings(out) and time.monotonic() < ends_at:
            time.sleep(POLL_S)


def run_trial(study: optuna.Study, trial: Trial, settings: Settings, command: list[str], base: Params, folder: Path) -> None:
    """Train a trial in its folder, or let it go on there, and tell Optuna how it ended."""
    out = trial_folder(folder, trial.number)
    values = {name: suggest(trial, name, parameter) for name, parameter in settings.space.items()}
    params = Params(**base.model_dump() | values)
    out.mkdir(parents=True, exist_ok=True)
    part = out / "params.yaml.part"
    part.write_text(yaml.safe_dump(params.model_dump(), sort_keys=False), encoding="utf-8")
    part.replace(out / "params.yaml")
    end_left_over(out)
    print(f"trial {trial.number}: " + ", ".join(f"{name} {shown(value)}" for name, value in values.items()), flush=True)
    reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def hopeless() -> bool:
        history = read_history(out)
        for row in history:
            if (epoch := int(row["epoch"])) not in reported:
                trial.report(row[settings.metric], epoch)
                reported.add(epoch)
        return 0 < len(history) < params.epochs and trial.should_prune()

    pruned, status = hopeless(), -1
    if not pruned:
        with (out / "output.txt").open("ab") as output:
            pruned, status = watch([*command, "--params", f"{out}/params.yaml", "--out", str(out)], output, hopeless)
        hopeless()  # for what it reports
    if pruned and status != 0:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"  ended early after epoch {len(reported)}", flush=True)
    elif status == 0:
        best = best_epoch(study, read_history(out), settings.metric)
        study.tell(trial, best[settings.metric])
        print(f"  {settings.metric} {best[settings.metric]:.4f} at epoch {best['epoch']:.0f}", flush=True)
    else:
        lines = (out / "output.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), "no output").split("\r")[-1]
        trial.set_user_attr("error", reason)
        study.tell(trial, state=TrialState.FAIL)
        print(f"  failed with status {status}: {reason} (all of it: {out}/output.txt)", flush=True)


def watch(command: list[str], output: IO[bytes], hopeless: Callable[[], bool]) -> tuple[bool, int]:
    """Run a training until it ends; (whether it was ended for being hopeless, its exit status). It never outlives this call."""
    # in a session of its own: Ctrl-C is for the sweep, which then ends it
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        pruned = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return pruned, process.wait(POLL_S)
            if not pruned and hopeless():
                pruned = True
                process.terminate()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


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
    """Write best.yaml and sweep.png of what there is."""
    write_best(study, folder, settings.metric)
    plot(study, folder, settings.metric, {name for name, parameter in settings.space.items() if parameter.log})


def search(study: optuna.Study, settings: Settings, base: Params, data: Path | None, folder: Path, trials: int) -> None:
    """Run what is left of so many trials, and note them in MLflow. ValueError if one after the other fails."""
    trial = next_trial(study, trials, base.seed)
    if trial is None and study.user_attrs.get("noted") == trials:
        return
    tracker, status = Tracker(folder), "FAILED"
    try:
        tracker.log_params({"data": str(data), "trials": trials, "sweep": settings.model_dump(exclude_none=True)})
        run_id = None if tracker.uri == "none" else tracker.run_id(CLOSE_S)
        command = [sys.executable, "-m", "training.train"]
        command += [*(["--data", str(data)] if data else []), *(["--parent-run", run_id] if run_id else [])]
        while trial is not None:
            run_trial(study, trial, settings, command, base, folder)
            report(study, settings, folder)
            for best in ranked(study)[:1]:
                tracker.log_metrics({f"best_{settings.metric}": best.value or 0.0}, trial.number + 1)
            ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()][-MAX_FAILURES:]
            if len(ended) == MAX_FAILURES and all(t.state == TrialState.FAIL for t in ended):
                raise ValueError(f"{MAX_FAILURES} trials in a row failed, the last with: {ended[-1].user_attrs['error']}")
            trial = next_trial(study, trials, base.seed)
        for best in ranked(study)[:1]:
            tracker.log_params({"best": best.params})
            for path in (folder / "best.yaml", folder / "sweep.png"):
                tracker.log_artifact(path)
            # each trial became challenger when it ended; the best one is
            tracker.register(trial_folder(folder, best.number) / "checkpoint.pt")
        study.set_user_attr("noted", trials)
        status = "FINISHED"
    except SystemExit:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def sweep(data: Path | None, params: Params, settings: Settings, folder: Path, trials: int) -> None:
    """Search in `folder` until it holds so many trials. ValueError for settings that differ from those it was begun with."""
    with locked(folder):
        study = open_study(folder, settings, params, data)
        search(study, settings, params, data, folder, trials)
        print_table(study, folder, settings.metric)
        if ranked(study):
            print(f"written: {folder}/best.yaml, {folder}/sweep.png. Next: make train PARAMS={folder}/best.yaml")


def stop(number: int, _frame: FrameType | None) -> None:
    """End for a signal, through every `finally`."""
    raise SystemExit(128 + number)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="as for train.py; build/split.json spares each trial the reading of all photos")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="for all that is not searched")
    parser.add_argument("--space", type=Path, default=Path(__file__).with_name("sweep.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        params = read_params(args.params)
        sweep(args.data, params, read_settings(args.space, params), args.out, args.trials)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        print(f"stopped; the same command goes on, {args.out} keeps all trials", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
