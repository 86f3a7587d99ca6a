"""The files in which DVC records what it tracks, dvc.lock and .dvc files: the versions in the remote that they name."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from scripts.atomic import write_text

REMOTE = "storage"  # DVC's name for the remote


def tracking_files() -> list[Path]:
    """dvc.lock and all .dvc files of the project."""
    found = [path for path in Path().rglob("*.dvc") if not path.parts[0].startswith(".")]
    return sorted(path for path in [Path("dvc.lock"), *found] if path.is_file())


def read(file: Path) -> dict[str, Any]:
    """The content of one of DVC's files. ValueError if it is not as DVC writes it, as after a merge with conflicts."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        assert isinstance(content["stages" if file.name == "dvc.lock" else "outs"], dict | list)
    except (yaml.YAMLError, UnicodeDecodeError, AssertionError, KeyError) as error:
        remedy = f"resolve its conflicts, or take the commit's own: git checkout HEAD -- {file}"
        raise ValueError(
            f"{file} is not as DVC writes it ({str(error).partition(chr(10))[0] or 'no outputs'}): {remedy}"
        ) from error
    return content


def recorded_versions(file: Path) -> dict[str, list[tuple[str, str | None]]]:
    """For each path that a file tracks, (path, version in the remote) of its files; an empty list if it names no file."""
    recorded = {}
    for out in _outs(file, read(file)):
        path, versions = file.parent / out["path"], []
        for entry in out.get("files", [out]):
            version = entry.get("cloud", {}).get(REMOTE, {}).get("version_id")
            versions.append(((path / entry.get("relpath", "")).as_posix(), version))
        recorded[path.as_posix()] = versions
    return recorded


def unversioned(files: list[Path]) -> list[str]:
    """Tracked paths without a version in the remote for each of their files, or, of a folder, without any file."""
    recorded = {path: versions for file in files for path, versions in recorded_versions(file).items()}
    return [path for path, versions in recorded.items() if not versions or not all(version for _, version in versions)]


def sample_versions(url: str, files: list[Path]) -> list[tuple[str, str]]:
    """(key, version) in the remote `url` of one file of each tracked path that has a version there."""
    prefix = urlsplit(url).path.strip("/")
    found = []
    for file in files:
        for versions in recorded_versions(file).values():
            # one a path: a request for each of 100,000 photos would take longer than the push
            found += [(f"{prefix}/{path}".lstrip("/"), version) for path, version in versions if version][:1]
    return found


def forget_versions(files: list[Path]) -> None:
    """Remove the versions in the remote from DVC's files, as if nothing had been pushed."""
    for file in files:
        content = read(file)
        for out in _outs(file, content):
            for entry in [out, *out.get("files", [])]:
                entry.pop("cloud", None)
        write_text(file, yaml.safe_dump(content, sort_keys=False))


def keep_inputs(lock: Path, before: str) -> None:
    """Of what a push changed in dvc.lock, keep the outputs alone; commands and inputs are those of `before`, its old text.

    When DVC pushes, it drops the md5 of folders that are inputs only, so that their stages would run again; and it takes
    commands and inputs from dvc.yaml, so that stages which were changed and not run would count as run.
    """
    content, pushed = yaml.safe_load(before), yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    for name, stage in content["stages"].items():
        if "outs" in stage:
            stage["outs"] = pushed[name]["outs"]
    write_text(lock, yaml.safe_dump(content, sort_keys=False))


def _outs(file: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs in the content of one of DVC's files."""
    # a .dvc file has the shape of a single stage
    stages = content["stages"].values() if file.name == "dvc.lock" else [content]
    return [out for stage in stages for out in stage.get("outs", [])]
