"""The hyper-parameters of a run, read from params.yaml and checked: a wrong key or value is refused by name."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

# what params.yaml says; also of parameter files and checkpoints that are older than these parameters
NEAR_DUPLICATES = 0.3
Positive = Annotated[float, Field(gt=0)]
TEACHER_WEIGHT, TEACHER_TEMPERATURE = 0.5, 2.0
TEXT_BUCKETS, TEXT_WIDTH, TEXT_LR, SIDE_DROPOUT = 65_536, 32, 0.01, 0.4


class Params(BaseModel):
    """One run's hyper-parameters; params.yaml explains each one. Sizes are pixels, rates are per step."""

    # strict: a value of another type is refused, not converted (PyYAML reads 1e-3 as text and yes as true)
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # params.yaml is the only place that holds values, so a checkpoint's params are complete; defaults are those of parameters
    # that older files and checkpoints lack, and change nothing there
    seed: int = Field(ge=0)
    deterministic: bool
    model: str
    model_args: dict[str, Any]
    weights: str
    spec: dict[str, Any]
    freeze: list[str]
    freeze_epochs: int = Field(ge=0)
    channels_last: bool
    compile: bool
    precision: Literal["float32", "bfloat16"]
    val_fraction: float = Field(gt=0, lt=1)
    near_duplicates: float = Field(NEAR_DUPLICATES, ge=0, le=1)
    class_balance: float = Field(0.0, ge=0, le=1)
    logit_adjustment: float = Field(0.0, ge=0, le=1)
    class_weights: dict[str, Positive] = Field(default_factory=dict)
    text_encoder: str | None = None
    text_buckets: int = Field(TEXT_BUCKETS, ge=2)
    text_width: int = Field(TEXT_WIDTH, ge=1)
    text_lr: float = Field(TEXT_LR, gt=0)
    side_dropout: float = Field(SIDE_DROPOUT, ge=0, lt=1)
    train_size: int = Field(ge=16)
    crop_scale_min: float = Field(gt=0, le=1)
    augment: Literal["none", "trivial", "rand"]
    mixup: float = Field(ge=0)
    cutmix: float = Field(ge=0)
    mix_off_epoch: int = Field(ge=0)
    epochs: int = Field(ge=1)
    global_batch_size: int = Field(ge=2)
    accumulate: int = Field(ge=1)
    workers: int = Field(ge=0)
    cache: Literal["none", "ram", "disk"] = "none"
    lr: float = Field(gt=0)
    head_lr: float = Field(gt=0)
    layer_decay: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0)
    warmup_epochs: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    teacher: str | list[str] | None = None
    teacher_weight: float = Field(TEACHER_WEIGHT, ge=0, le=1)
    teacher_temperature: float = Field(TEACHER_TEMPERATURE, gt=0)
    clip_norm: float = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    best_metric: Literal["top1", "top5", "f1", "loss"]
    patience: int = Field(ge=0)
    checkpoint_minutes: float = Field(ge=0)


def defaults() -> dict[str, Any]:
    """The values of parameters that older files and checkpoints lack."""
    fields = Params.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}


def read_params(path: Path) -> Params:
    """The parameters in a YAML file. ValueError names each key that is missing, unknown or has a wrong value."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"no parameter file {path}") from error
    except OSError as error:
        raise ValueError(f"{path} is no parameter file ({error.strerror}): give one such as params.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected keys and values")
    try:
        return Params(**values)
    except ValidationError as error:
        raise ValueError(
            f"{path}: " + "; ".join(problem(e["type"], e["loc"], e["msg"], e["input"]) for e in error.errors())
        ) from error


def problem(kind: str, where: tuple[int | str, ...], message: str, value: object) -> str:
    """What is wrong with a key, in pydantic's words, and what was probably meant."""
    name = ".".join(map(str, where))
    if kind == "missing":
        return f"{name}: {message}"
    hint = ""
    if kind == "extra_forbidden" and (close := difflib.get_close_matches(name, Params.model_fields, n=1)):
        hint = f"; did you mean {close[0]}?"
    elif isinstance(value, str) and is_number(value):
        hint = "; YAML reads this as text: write 0.001 or 1.0e-3"
    return f"{name}: {message} (got {value!r}{hint})"


def is_number(text: str) -> bool:
    """Whether Python would read the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
