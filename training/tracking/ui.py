"""MLflow's pages of all runs and models until Ctrl-C: `python -m training.tracking.ui`, or `make mlflow PORT=5055`."""

import errno
import os
import socket
import sys
from pathlib import Path

from scripts.command import parser, run
from training.tracking.store import artifact_root, public, tracking_uri

HOST, UI_PORT = "127.0.0.1", 5000


def check_port(text: str) -> int:
    """The port in a text. ValueError if it is none, or another program has it."""
    port = int(text) if text.isascii() and text.isdecimal() else 0
    if not 0 < port < 2**16:
        raise ValueError(f"the port is {text!r}, expected a number from 1 to 65535: make mlflow PORT=5055")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MLflow does: connections that have ended do not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = {errno.EADDRINUSE: "is taken by another program", errno.EACCES: "needs root"}.get(error.errno or 0, str(error))
            raise ValueError(
                f"port {port} {what}: choose another one, make mlflow PORT={port + 55 if port < 65000 else UI_PORT}"
            ) from error
    return port


def open_ui(port: int) -> None:
    """Serve MLflow's UI over the embedded store until Ctrl-C."""
    uri = tracking_uri()
    if uri == "none":
        raise ValueError("MLFLOW_TRACKING_URI is none: unset it for the store in runs/mlflow.db, or give an address")
    Path("runs").mkdir(exist_ok=True)
    # no telemetry, and no six processes for jobs that nobody submits here
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # MLflow's own import of it: nothing that a person here could change
    ignored = [*filter(None, [os.environ.get("PYTHONWARNINGS")]), "ignore:starlette.middleware.wsgi is deprecated"]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", str(artifact_root(uri))]
    page = f"http://{HOST}:{port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow's UI over {public(uri)} starts at {page} (Ctrl-C stops it)", flush=True)
    address = ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = quiet | os.environ | {"PYTHONWARNINGS": ",".join(ignored)}
    # uvicorn prints a traceback when Ctrl-C cancels the task of start and end; MLflow's only tidies up after its assistant there
    quietly = ["--uvicorn-opts", "--lifespan off"]
    # in place of this process: signals and the exit status are MLflow's own
    os.execve(
        sys.executable,
        [sys.executable, "-m", "mlflow", "ui", *stores, *address, *quietly],
        environment,
    )


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--port", default=str(UI_PORT), help=f"default: {UI_PORT}")
    args = arguments.parse_args()
    if (uri := tracking_uri()).startswith("http"):
        print(f"MLFLOW_TRACKING_URI is a server; its UI: {public(uri)}")
    else:
        open_ui(check_port(args.port))


if __name__ == "__main__":
    sys.exit(run(main))
