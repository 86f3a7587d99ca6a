"""The release document: which versions are served, and which is the default. scripts/release/release.schema.json is its form.

It lies in a file or in a versioned S3 bucket, archives beside it (scripts/release/store.py). scripts/serving/serve.py makes it so,
scripts/rollout/rollout.py writes it.
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
from scripts.archive.build import MODEL, archive_name

SCHEMA = Path(__file__).with_name("release.schema.json")


class ReleaseError(ValueError):
    """The release document cannot be read, written or obeyed; the message says why."""


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def parse(text: str) -> dict[str, Any]:
    """The document, checked. ReleaseError naming what is wrong and where."""
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"the release document is no JSON: {error}") from error
    problems = sorted(_validator().iter_errors(document), key=lambda problem: problem.json_path)
    if problems:
        said = "; ".join(f"{problem.json_path}: {problem.message}" for problem in problems)
        raise ReleaseError(f"the release document is not as it must be: {said}")
    there = sorted(document["versions"])
    named = {"default": document["default"]} | {
        part: document[part]["version"] for part in ("canary", "shadow") if part in document
    }
    for part, version in named.items():
        if version not in there:
            raise ReleaseError(f"the release document's {part} version is {version}, its versions are {there}")
    for version, entry in document["versions"].items():
        try:
            expected = archive_name(version)
        except ValueError as error:  # the schema's pattern lets 01.0.0 pass
            raise ReleaseError(f"the release document's {error}") from error
        if entry["archive"] != expected:
            raise ReleaseError(f"the release document's archive of {version} is {entry['archive']}, expected {expected}")
    if document.get("canary", {}).get("version") == document["default"]:
        raise ReleaseError(f"the release document's canary is its default version, {document['default']}")
    return dict(document)


def make(
    versions: Mapping[str, Mapping[str, str]], default: str, stage: str, why: str, by: str | None = None, **parts: object
) -> dict[str, Any]:
    """A new document, checked; `parts` are canary and shadow. ReleaseError if it is not as it must be."""
    written = datetime.now(UTC).isoformat(timespec="microseconds")
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    document = {"model": MODEL, "versions": versions, "default": default, **parts, "stage": stage}
    return parse(write({**document, "written": written, "by": who, "why": why}))


def entry_of(archive: Path) -> dict[str, str]:
    """What a document says of an archive."""
    return {"archive": archive.name, "sha256": sha256(archive)}


def write(document: Mapping[str, Any]) -> str:
    """The document as text for people."""
    return json.dumps(document, indent=2) + "\n"


def fingerprint(document: Mapping[str, Any]) -> str:
    """Short and another one for each document: by it an instance says which one it obeys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def canaries(instances: Iterable[str], percent: float) -> list[str]:
    """The instances of which `percent` is the share, rounded down: the first in the order of the hashes of their ids.

    So the choice is the same wherever it is made, and changes little when instances come and go.
    """
    ordered = sorted(set(instances), key=lambda instance: hashlib.sha256(instance.encode()).digest())
    return ordered[: int(len(ordered) * percent / 100 + 1e-9)]


def default_of(document: Mapping[str, Any], instance: str, instances: Iterable[str]) -> str:
    """The version that an instance makes its default, of these that live."""
    canary = document.get("canary")
    chosen = canary is not None and instance in canaries({*instances, instance}, canary["percent"])
    return str(canary["version"] if canary and chosen else document["default"])
