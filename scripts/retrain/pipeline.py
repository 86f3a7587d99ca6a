"""dvc.yaml and dvc.lock as make retrain needs them: model, photos, version; the champion kept aside, and put back."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.atomic import copy, write_text
from scripts.errors import SeeFoodError

DVC_YAML, DVC_LOCK = Path("dvc.yaml"), Path("dvc.lock")
SPLIT, RUN = Path("build/split.json"), Path("runs/pipeline")
# of the photos that the last retraining saw, promoted or not; committed, so that the next one knows in any clone
RECORD = Path("data/retrained.json")
VERSION_LINE = re.compile(r"^(\s*- version: *)(\S+)", re.MULTILINE)
# what the challenger's training replaces, and what brings it back if it is no better
STAGES = ("prepare", "train", "evaluate")


class ChampionError(SeeFoodError):
    """The champion's files are not here."""


def values() -> dict[str, str]:
    """`name`, `data` and `version` of dvc.yaml. ValueError if one is missing."""
    content = yaml.safe_load(DVC_YAML.read_text(encoding="utf-8"))
    found = {name: str(value) for part in content["vars"] for name, value in part.items()}
    if missing := {"name", "data", "version"} - set(found):
        raise ValueError(f"{DVC_YAML} has no {sorted(missing)} in vars, expected name, data and version")
    return found


def next_version(version: str) -> str:
    """The minor version after: 1.5.0 after 1.4.2. ValueError for what is no version."""
    numbers = re.match(r"(\d+)\.(\d+)\.\d+", version)
    if not numbers:
        raise ValueError(f"version in {DVC_YAML} is {version!r}, expected e.g. 1.0.0; or give VERSION=1.1.0")
    return f"{numbers[1]}.{int(numbers[2]) + 1}.0"


def free_version(version: str) -> str:
    """The first minor version after that is not packed. ValueError as next_version."""
    version = next_version(version)
    return free_version(version) if archive_of(version).exists() else version


def set_version(version: str) -> None:
    """Write the version into dvc.yaml; its comments stay."""
    text, count = VERSION_LINE.subn(rf"\g<1>{version}", DVC_YAML.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{DVC_YAML} has {count} lines `- version: ...`, expected 1")
    write_text(DVC_YAML, text)


def archive_of(version: str) -> Path:
    """Where the pipeline packs a version."""
    return Path("model_store", f"{values()['name']}-{version}.mar")


def is_changed() -> bool:
    """Whether photos, parameters or code have changed since the champion's training."""
    dvc = str(Path(sys.executable).with_name("dvc"))
    done = subprocess.run([dvc, "status", "--json", "prepare", "train"], capture_output=True, text=True, check=False)
    return done.returncode != 0 or json.loads(done.stdout) != {}


def keep_champion(folder: Path) -> dict[str, Any]:
    """Copy what the challenger replaces into `folder`; returns its facts. ChampionError if dvc.lock names files that are gone."""
    lock = yaml.safe_load(DVC_LOCK.read_text(encoding="utf-8")) if DVC_LOCK.is_file() else None
    found = {"version": values()["version"], "champion": bool(lock and "train" in lock.get("stages", {}))}
    if not found["champion"]:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    for path in (DVC_LOCK, DVC_YAML, SPLIT, RUN / "checkpoint.pt"):
        if not path.is_file():
            raise ChampionError(f"{DVC_LOCK} names {path}, which is not here: make pull fetches it, or make pipeline makes it")
        copy(path, folder / path.name)
    return found


def restore_champion(folder: Path) -> tuple[str, ...]:
    """Put dvc.lock back. The words of the dvc command that then brings back its files; () where there was no champion."""
    if not (folder / DVC_LOCK.name).is_file():
        DVC_LOCK.unlink(missing_ok=True)
        return ()
    copy(folder / DVC_LOCK.name, DVC_LOCK)
    return ("dvc", "checkout", "--quiet", "--force", *STAGES)


def read_record() -> dict[str, Any] | None:
    """What the last retraining left; None before the first."""
    try:
        record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record
