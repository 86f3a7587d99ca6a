"""The archive's parts and their checksums: provenance.json lists each, and an unpacked archive must equal the packed one."""

import hashlib
import json
from pathlib import Path
from typing import Any

PROVENANCE = "provenance.json"


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of each file below the folder by its path in it, provenance.json itself and Python's caches excepted."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {name: sha256(file) for file in files if (name := file.relative_to(folder).as_posix()) != PROVENANCE}


def check_parts(folder: Path) -> dict[str, Any]:
    """The provenance of an unpacked archive. ValueError naming the parts that were changed, are missing or are unexpected."""
    try:
        provenance: dict[str, Any] = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        expected, found = dict(provenance["parts"].items()), checksums(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{PROVENANCE} cannot be read: {error!r}; the archive was not made by make archive, or is damaged"
        ) from error
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is unexpected" for name in sorted(found.keys() - expected.keys())]
    problems += [f"{name} was changed" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]
    if problems:
        raise ValueError("the archive differs from what was packed: " + ", ".join(problems))
    return provenance
