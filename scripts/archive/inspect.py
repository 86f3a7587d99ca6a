"""Check an archive's parts and show where it comes from: `python -m scripts.archive.inspect model_store/seefood-1.0.0.mar`.

One JSON object on standard output: the archive's checksum and size, its provenance.json, and, by folder, which of its programs the
servers of this checkout took, with the times that they measured.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from scripts.archive.read import inspect
from scripts.command import parser, run
from scripts.paths import ROOT


def chosen_here(sha256: str, build: Path) -> dict[str, Any]:
    """What the servers that write below `build` have chosen of an archive (handler/remembered.py), by the server's folder."""
    found: dict[str, tuple[int, dict[str, Any]]] = {}  # with the time at which it was written: of several the newest counts
    for path in sorted(build.glob(f"serve-*/programs/*-{sha256[:12]}/choice-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            content, written = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime_ns
            choice, server = content["choice"], path.parents[2].name
            if isinstance(choice, dict) and written >= found.get(server, (0, {}))[0]:
                found[server] = written, choice | {"cpu": content["key"]["cpu"]}
    return {server: choice for server, (_, choice) in found.items()}


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("archive", type=Path)
    found = inspect(arguments.parse_args().archive)
    if chosen := chosen_here(found["sha256"], ROOT / "build"):
        found["chosen_here"] = chosen
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
