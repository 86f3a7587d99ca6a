"""The Optuna study of a sweep: opened, checked against its settings, and asked for the next trial."""

import json
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from scripts.errors import SeeFoodError
from training.params import Params
from training.sweep.space import DIRECTIONS, Settings


class OtherSearchError(SeeFoodError, ValueError):
    """The folder holds a sweep with another search, other parameters or other data."""


def open_study(folder: Path, model: str, settings: Settings, params: Params, data: Path | None) -> optuna.Study:
    """The study in `folder`; a new one tries the parameter file as it is first. OtherSearchError if it has other settings."""
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(settings.startup_trials, settings.min_epochs + 1),
        "hyperband": optuna.pruners.HyperbandPruner(settings.min_epochs, max(params.epochs, settings.min_epochs)),
    }
    # a line of ours tells how each trial ended
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}",
        study_name=folder.name,
        direction=DIRECTIONS[settings.metric],
        pruner=pruners[settings.pruner],
        load_if_exists=True,
    )
    check_same_search(study, model, settings, params, data, folder)
    baseline = {name: getattr(params, name) for name in settings.space}
    if not study.get_trials(deepcopy=False) and all(parameter.holds(baseline[name]) for name, parameter in settings.space.items()):
        study.enqueue_trial(baseline)
    return study


def check_same_search(study: optuna.Study, model: str, settings: Settings, params: Params, data: Path | None, folder: Path) -> None:
    """Note the settings of a new study. OtherSearchError, naming what differs, if the study has noted others."""
    asked = settings.model_dump(exclude={"space"}) | {"data": identity(data), "model_name": model}
    for kind, values in (("space", settings.model_dump(exclude_none=True)["space"]), ("params", params.model_dump())):
        asked |= {f"{kind}.{name}": value for name, value in values.items()}
    noted = {"model_name": model} | study.user_attrs.get("asked", asked)  # older sweeps noted no name
    names = [name for name in sorted(asked.keys() | noted.keys()) if asked.get(name) != noted.get(name)]
    if names:
        changes = ", ".join(f"{name} {noted.get(name)} -> {asked.get(name)}" for name in names)
        # trials of two searches cannot be compared, and Optuna would draw conclusions from both
        raise OtherSearchError(f"{folder} was started with other settings: {changes}; start another sweep (NAME=...)")
    study.set_user_attr("asked", asked)


def identity(data: Path | None) -> str:
    """What tells one data set from another: its path, and the fingerprint of prepared data. ValueError if it is not there."""
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
    """The trial that was interrupted, else a new one; None if there are enough."""
    known = study.get_trials(deepcopy=False)
    interrupted = next((trial for trial in known if trial.state == TrialState.RUNNING), None)
    number = interrupted.number if interrupted else sum(trial.state != TrialState.WAITING for trial in known)
    # a new sampler for each trial, seeded by its number: what is tried does not depend on interruptions
    study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + number)
    if interrupted:
        # Optuna has no public way to continue a trial that is still marked as running
        return Trial(study, interrupted._trial_id)
    return study.ask() if number < trials else None
