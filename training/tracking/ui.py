"""MLflow's pages of all runs and models until Ctrl-C: `python -m training.tracking.ui`, or `make mlflow`."""

import os
import sys
from pathlib import Path

from scripts.command import parser, run
from training.tracking.store import artifact_root, public, tracking_uri

UI_PORT = 5000


def open_ui() -> None:
    """Serve MLflow's UI over the embedded store until Ctrl-C; where a server runs, print its address."""
    uri = tracking_uri()
    if uri.startswith("http"):
        print(f"MLFLOW_TRACKING_URI is a server; its UI: {public(uri)}")
        return
    Path("runs").mkdir(exist_ok=True)
    # no telemetry, and no six processes for jobs that nobody submits here
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    stores = ["--backend-store-uri", uri, "--default-artifact-root", str(artifact_root(uri))]
    page = f"http://127.0.0.1:{UI_PORT}/#/experiments?workflowType=machine_learning"
    print(f"MLflow's UI over {public(uri)} starts at {page} (Ctrl-C stops it)", flush=True)
    address = ["--host", "127.0.0.1", "--port", str(UI_PORT), "--workers", "1"]
    # in place of this process: signals and the exit status are MLflow's own
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *stores, *address], quiet | os.environ)


def main() -> None:
    """Command line; see the module's docstring."""
    parser(__doc__).parse_args()
    open_ui()


if __name__ == "__main__":
    sys.exit(run(main))
