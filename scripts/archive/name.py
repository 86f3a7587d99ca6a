"""Archives by name: flowers-1.0.0.mar is version 1.0.0 of the model flowers. Which of them is the newest, and which is meant."""

import re
from pathlib import Path
from typing import Any

from scripts.model_name import MODEL_NAME, check_model_name

# semver.org, 2.0.0, without build metadata: a "+" in a path means a space to some clients
VERSION = (
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
)


def check_version(version: str) -> str:
    """The version. ValueError unless it is a semantic one."""
    if not re.fullmatch(VERSION, version):
        raise ValueError(f"version is {version!r}, expected a semantic version such as 1.0.0 or 1.1.0-rc.1")
    return version


def archive_name(model: str, version: str) -> str:
    """File name of a version's archive. ValueError for a name or a version that cannot be."""
    return f"{check_model_name(model)}-{check_version(version)}.mar"


def split_name(path: Path) -> tuple[str, str]:
    """("flowers", "1.0.0") of flowers-1.0.0.mar. ValueError for a file of any other kind of name."""
    # both parts may hold a "-", but a name has no dot: there is one way to split at most
    match = re.fullmatch(rf"(?P<model>{MODEL_NAME})-(?P<version>{VERSION})\.mar", path.name)
    if match is None:
        raise ValueError(f"{path.name} is not an archive's name, expected MODEL-VERSION.mar such as flowers-1.0.0.mar")
    return match["model"], match["version"]


def precedence(version: str) -> tuple[Any, ...]:
    """What semantic versions sort by: 1.1.0-rc.2 comes before 1.1.0-rc.10, and that before 1.1.0 (semver.org, 11)."""
    core, _, pre = version.partition("-")
    fields = [(0, int(field), "") if field.isdigit() else (1, 0, field) for field in pre.split(".") if pre]
    return tuple(int(number) for number in core.split(".")), not pre, fields


def find_archives(model_store: Path, model: str | None = None) -> list[Path]:
    """The archives of a model, oldest version first; of all models, one after the other, if none is named."""
    found = []
    for path in model_store.glob("*.mar"):
        try:
            name, version = split_name(path)
        except ValueError:  # somebody's copy or backup: only what make archive names can be served
            continue
        if model in (None, name):
            found.append((name, precedence(version), path))
    return [path for _, _, path in sorted(found)]


def choose_archive(model_store: Path, version: str | None, model: str | None = None) -> Path:
    """The archive of that version, else the newest, of that model, else of the only one there is. ValueError if there is none."""
    archives = find_archives(model_store, model if model is None else check_model_name(model))
    models = sorted({split_name(path)[0] for path in archives})
    if len(models) > 1:  # never the newest of all: versions of different models do not compare
        raise ValueError(
            f"{model_store} holds the models {', '.join(models)}: choose one, e.g. MODEL={models[0]} (--model {models[0]})"
        )
    chosen = archives if version is None else [path for path in archives if split_name(path)[1] == check_version(version)]
    if not chosen:
        wanted = " ".join(part for part in ("no archive", model and f"of {model}", version) if part)
        there = [path.name for path in find_archives(model_store)]
        command = f"make archive {f'MODEL={model} ' if model else ''}VERSION={version or '1.0.0'}"
        raise ValueError(f"{wanted} in {model_store}, there are {there}; {command} builds one")
    return chosen[-1]
