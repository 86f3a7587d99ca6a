"""Check an archive's parts and show where it comes from: `python -m scripts.archive.inspect model_store/seefood-1.0.0.mar`.

One JSON object on standard output: the archive's checksum and size, and its provenance.json.
"""

import json
import sys
from pathlib import Path

from scripts.archive.read import inspect
from scripts.command import parser, run


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("archive", type=Path)
    print(json.dumps(inspect(arguments.parse_args().archive), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
