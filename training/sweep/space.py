"""What a sweep searches: sweep.yaml, checked against the parameters that a run has."""

import difflib
import math
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.params import Params

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "top1": "maximize",
    "top5": "maximize",
    "f1": "maximize",
    "val_loss": "minimize",
    "calibration_error": "minimize",
}


class Parameter(BaseModel):
    """The range of one hyper-parameter: from `low` to `high`, on a linear or a logarithmic scale, or one of `choices`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[str | int | float | bool] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) == (self.choices is None):
            raise ValueError("expected low and high, or choices")
        if not all(math.isfinite(end) for end in (self.low, self.high) if end is not None):
            raise ValueError(f"low is {self.low} and high {self.high}, expected finite numbers")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low is {self.low} and high {self.high}, expected low < high")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError(f"log with low {self.low}, expected more than 0")
        return self

    @property
    def ends(self) -> list[Any]:
        """Every choice, or the ends of the range."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether the value can be tried."""
        low, high = self.ends[0], self.ends[-1]
        return value in self.ends if self.choices is not None else bool(low <= value <= high)


class Settings(BaseModel):
    """A search; sweep.yaml explains each value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: Literal["top1", "top5", "f1", "val_loss", "calibration_error"]
    pruner: Literal["median", "hyperband", "none"]
    startup_trials: int = Field(ge=0)
    min_epochs: int = Field(ge=1)
    space: dict[str, Parameter] = Field(min_length=1)


def problems(error: ValidationError) -> str:
    """Each wrong key, the reason and the given value, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())


def read_settings(path: Path, params: Params) -> Settings:
    """The search in a file. ValueError names each key, parameter or value that is wrong for these parameters."""
    try:
        settings = Settings(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as keys and values: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {problems(error)}") from error
    for name, parameter in settings.space.items():
        if name not in Params.model_fields:
            close = ", ".join(difflib.get_close_matches(name, Params.model_fields)) or "none"
            raise ValueError(f"{path}: space.{name} is not a parameter of a run (similar: {close})")
        # both ends, so that a sweep of days does not fail at the first trial beyond what a run accepts
        for value in parameter.ends:
            try:
                Params(**params.model_dump() | {name: value})
            except ValidationError as error:
                raise ValueError(f"{path}: space.{problems(error)}") from error
    if networks := settings.space.get("model"):
        _check_networks(networks.ends, params, path)
    return settings


def _check_networks(names: list[str], params: Params, path: Path) -> None:
    """ValueError unless timm makes each network, so that a sweep of days does not fail at its first trial of a misspelt one."""
    from training.model import check_network, create  # torch and timm take seconds, and most sweeps search no networks

    for name in names:
        try:
            check_network(name)
            create(params.model_copy(update={"model": name}), num_classes=2, from_hub=False)
        except ValueError as error:
            raise ValueError(f"{path}: space.model: {error}") from error


def suggest(trial: Trial, name: str, parameter: Parameter) -> Any:
    """Optuna's value of a parameter in a trial, the same at each call."""
    if parameter.choices is not None:
        return trial.suggest_categorical(name, parameter.choices)
    low, high = parameter.ends
    if Params.model_fields[name].annotation is int:
        return trial.suggest_int(name, low, high, log=parameter.log)
    return trial.suggest_float(name, low, high, log=parameter.log)
