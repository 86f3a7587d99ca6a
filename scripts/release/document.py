"""The release document: which versions of a model are served, and which is the default. Its schema is release.schema.json.

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
    if problem := _contradiction(document):
        raise ReleaseError(f"invalid release document: {problem}")
    return dict(document)


def _contradiction(document: Mapping[str, Any]) -> str:
    """What the schema cannot express: parts of the document that contradict each other, "" if none do."""
    versions = document["versions"]
    named = {"default": document["default"]}
    named |= {part: document[part]["version"] for part in ("canary", "shadow") if part in document}
    for part, version in named.items():
        if version not in versions:
            return f"the {part} version is {version}, its versions are {sorted(versions)}"
    for version, entry in versions.items():
        try:
            expected = archive_name(document["model"], version)
        except ValueError as error:  # the schema's pattern lets 01.0.0 pass
            return str(error)
        if entry["archive"] != expected:
            return f"the archive of {version} is {entry['archive']}, expected {expected} as the model is {document['model']}"
    if document.get("canary", {}).get("version") == document["default"]:
        return f"the canary is its default version, {document['default']}"
    return ""


def make(
    versions: Mapping[str, Mapping[str, str]], default: str, stage: str, why: str, by: str | None = None, **parts: object
) -> dict[str, Any]:
    """A new document of the model that the archives are of, checked; `parts` are canary and shadow. ReleaseError."""
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    # the model is not a parameter of its own: it could only contradict the archives' names
    document = {"model": _model_of(versions), "versions": versions, "default": default, **parts, "stage": stage}
    return parse(write(stamped({**document, "by": who, "why": why})))


def _model_of(versions: Mapping[str, Mapping[str, str]]) -> str:
    names = [entry["archive"] for entry in versions.values()]
    try:
        models = {split_name(Path(name))[0] for name in names}
    except ValueError as error:
        raise ReleaseError(str(error)) from error
    if len(models) != 1:
        raise ReleaseError(f"a release is of one model, its archives are {', '.join(names) or 'none'}")
    return models.pop()


def stamped(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the present time as the time of its writing."""
    return {**document, "written": datetime.now(UTC).isoformat(timespec="microseconds")}


def entry_of(archive: Path) -> dict[str, str]:
    """An archive's entry in a document."""
    return {"archive": archive.name, "sha256": sha256(archive)}


def write(document: Mapping[str, Any]) -> str:
    """The document as text for people."""
    return json.dumps(document, indent=2) + "\n"


def fingerprint(document: Mapping[str, Any]) -> str:
    """A short hash, different for each document: an instance's status names by it the document that it follows."""
    # of the content, not the text: the same however it is formatted
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def canaries(instances: Iterable[str], percent: float) -> list[str]:
    """The canaries among the instances: `percent` of them, rounded down, the first in the order of their ids' hashes.

    The choice is the same wherever it is made, and changes little when instances come and go.
    """
    ordered = sorted(set(instances), key=lambda instance: hashlib.sha256(instance.encode()).digest())
    return ordered[: int(len(ordered) * percent / 100 + 1e-9)]  # 29 % of 100 is 28.999999999999996 in floats


def default_of(document: Mapping[str, Any], instance: str, instances: Iterable[str]) -> str:
    """The version that an instance makes its default; `instances` are all that run."""
    canary = document.get("canary")
    chosen = canary is not None and instance in canaries({*instances, instance}, canary["percent"])
    return str(canary["version"] if canary and chosen else document["default"])
