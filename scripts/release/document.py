"""The release document: which versions of each model are served, and which is the default. Its schema is release.schema.json.

A document of one model is that model's release: {"model", "versions", "default", "stage", ...}. One of several models is
{"models": {name: its release, without "model"}}: what is rolled out of one model leaves the others' as they were, each with the
time and the reason of its own writing. Code reads both by `releases_of`.

It lies in a file or in a versioned S3 bucket, archives beside it (scripts/release/store.py). scripts/rollout/rollout.py writes it,
scripts/serving/serve.py reconciles TorchServe to it.
"""

import getpass
import hashlib
import json
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from handler.parts import sha256
from scripts.archive.name import archive_name, split_name
from scripts.errors import SeeFoodError

SCHEMA = Path(__file__).with_name("release.schema.json")


class ReleaseError(SeeFoodError, ValueError):
    """The release document cannot be read, written or followed; the message says why."""


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def parse(text: str) -> dict[str, Any]:
    """The document, checked. ReleaseError naming what is wrong and where."""
    try:
        # Python would read NaN and Infinity, which no comparison of the schema refuses
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"invalid release document, not JSON: {error}") from error
    problems = sorted(_validator().iter_errors(document), key=lambda problem: problem.json_path)
    if problems:
        raise ReleaseError("invalid release document: " + "; ".join(f"{one.json_path}: {one.message}" for one in problems))
    for release in releases_of(document).values():
        if problem := _contradiction(release):
            raise ReleaseError(f"invalid release document: {problem}")
    return dict(document)


def releases_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each model's release by the model's name, sorted: what a document of that model alone would be."""
    if "models" not in document:
        return {str(document["model"]): dict(document)}
    return {name: {"model": name, **release} for name, release in sorted(document["models"].items())}


def joined(releases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of these models' releases, at least one."""
    by_name = {str(release["model"]): dict(release) for release in releases}
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    parts = {name: {key: value for key, value in by_name[name].items() if key != "model"} for name in sorted(by_name)}
    return {"models": parts}


def only_model(document: Mapping[str, Any], address: str, model: str | None) -> str:
    """The model that is meant: the one that is named, else the only one. ValueError if there are several."""
    names = list(releases_of(document))
    if model is None and len(names) > 1:
        example = f"MODEL={names[0]} (--model {names[0]})"
        raise ValueError(f"{address} releases the models {', '.join(names)}: choose one, e.g. {example}")
    return model or names[0]


def _contradiction(release: Mapping[str, Any]) -> str:
    """What the schema cannot express: parts of a model's release that contradict each other, "" if none do."""
    versions = release["versions"]
    named = {"default": release["default"]}
    named |= {part: release[part]["version"] for part in ("canary", "shadow") if part in release}
    for part, version in named.items():
        if version not in versions:
            return f"the {part} version is {version}, its versions are {sorted(versions)}"
    for version, entry in versions.items():
        try:
            expected = archive_name(release["model"], version)
        except ValueError as error:  # the schema's pattern lets 01.0.0 pass
            return str(error)
        if entry["archive"] != expected:
            return f"the archive of {version} is {entry['archive']}, expected {expected} as the model is {release['model']}"
    if release.get("canary", {}).get("version") == release["default"]:
        return f"the canary is its default version, {release['default']}"
    return ""


def make(
    versions: Mapping[str, Mapping[str, Any]], default: str, stage: str, why: str, by: str | None = None, **parts: object
) -> dict[str, Any]:
    """A new release of the model that the archives are of, checked; `parts` are canary and shadow. ReleaseError."""
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    # the model is not a parameter of its own: it could only contradict the archives' names
    document = {"model": _model_of(versions), "versions": versions, "default": default, **parts, "stage": stage}
    return parse(write(stamped({**document, "by": who, "why": why})))


def _model_of(versions: Mapping[str, Mapping[str, Any]]) -> str:
    names = [entry["archive"] for entry in versions.values()]
    try:
        models = {split_name(Path(name))[0] for name in names}
    except ValueError as error:
        raise ReleaseError(str(error)) from error
    if len(models) != 1:
        raise ReleaseError(f"a release is of one model, its archives are {', '.join(names) or 'none'}")
    return models.pop()


def stamped(release: Mapping[str, Any]) -> dict[str, Any]:
    """The release with the present time as the time of its writing."""
    return {**release, "written": datetime.now(UTC).isoformat(timespec="microseconds")}


def entry_of(archive: Path, unverified: bool = False) -> dict[str, Any]:
    """An archive's entry in a document. `unverified`: it is not ours."""
    return {"archive": archive.name, "sha256": sha256(archive), **({"unverified": True} if unverified else {})}


def write(document: Mapping[str, Any]) -> str:
    """The document as text for people."""
    return json.dumps(document, indent=2) + "\n"


def fingerprint(document: Mapping[str, Any]) -> str:
    """A short hash, different for each release: an instance's status names by it the one that it follows."""
    # of the content, not the text: the same however it is formatted
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def canaries(instances: Iterable[str], percent: float) -> list[str]:
    """The canaries among the instances: `percent` of them, rounded down, the first in the order of their ids' hashes.

    The choice is the same wherever it is made, and changes little when instances come and go.
    """
    ordered = sorted(set(instances), key=lambda instance: hashlib.sha256(instance.encode()).digest())
    return ordered[: int(len(ordered) * percent / 100 + 1e-9)]  # 29 % of 100 is 28.999999999999996 in floats


def default_of(release: Mapping[str, Any], instance: str, instances: Iterable[str]) -> str:
    """The version that an instance makes a model's default; `instances` are all that run."""
    canary = release.get("canary")
    chosen = canary is not None and instance in canaries({*instances, instance}, canary["percent"])
    return str(canary["version"] if canary and chosen else release["default"])
