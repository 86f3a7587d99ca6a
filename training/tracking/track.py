"""Send a run's records that a store does not have yet: `python -m training.tracking.track runs/X`, or `make track RUN=runs/X`.

To another store, named by MLFLOW_TRACKING_URI, it sends the whole run.
"""

import sys
from pathlib import Path

from scripts.command import parser, run
from training.folder import check_exists
from training.tracking.sender import send
from training.tracking.store import public, tracking_uri


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path, help="folder of a run")
    folder = arguments.parse_args().run
    check_exists(folder)
    run_id = send(folder.resolve(), tracking_uri())
    print(f"{folder} is sent to {public(tracking_uri())} as run {run_id}")


if __name__ == "__main__":
    sys.exit(run(main, "the same command sends the rest"))
