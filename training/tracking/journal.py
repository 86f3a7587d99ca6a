"""A run's records for MLflow: on disk at once, sent by a process of their own, so that training waits for no server.

    python -m training.tracking.journal runs/X    # send what is left of a run: make track RUN=runs/X
    python -m training.tracking.journal --ui      # look at all runs: make mlflow

A Tracker appends events to tracking.jsonl in the run's folder. Its sender, a second process (training/tracking/sender.py), reads
them there and sends them in their order, each at least once; tracking.state.json says how far, for each store. Sending to
another store (another MLFLOW_TRACKING_URI) begins with the first event. This file leaves mlflow alone.

MLFLOW_TRACKING_URI unset means sqlite in runs/mlflow.db, with artifacts in runs/mlflow-artifacts or, say,
MLFLOW_DEFAULT_ARTIFACT_ROOT=s3://bucket/prefix; `none` means that records stay in the journal until `make track`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

MODEL = EXPERIMENT = "seefood"
JOURNAL, STATE = "tracking.jsonl", "tracking.state.json"
RECORDS = (JOURNAL, STATE)
CLOSE_S = 60.0  # what close() takes at most
PATIENCE_S = 5.0  # how long close() waits without a word
UI_PORT = 5000


def tracking_uri() -> str:
    """Where records go: MLFLOW_TRACKING_URI, else the embedded store below the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('runs/mlflow.db').resolve()}"


def artifact_root(uri: str) -> str | None:
    """Where artifacts of a store without a server go; None if a server decides."""
    if uri.startswith("http"):
        return None
    return os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or Path("runs/mlflow-artifacts").resolve().as_uri()


def public(uri: str) -> str:
    """The address without user and password."""
    place = urlsplit(uri).netloc
    return uri.replace(place, place.rpartition("@")[2], 1) if "@" in place else uri


def say(message: str) -> None:
    """One line on stderr; nothing if stderr is gone."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tracking: {message}", file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file. OSError as it comes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(folder: Path, uri: str) -> tuple[str, int]:
    """How far a run was sent to a store: MLflow's run id ("": none yet) and how many bytes of the journal."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))[public(uri)]
        return str(state["run_id"]), int(state["sent"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0  # sent anew, then: the run is found by its tag


def write_state(folder: Path, uri: str, run_id: str, sent: int) -> None:
    """Note how far a run was sent. OSError as it comes; the note before stays."""
    path, part = folder / STATE, folder / f"{STATE}.part"
    states = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    states[public(uri)] = {"run_id": run_id, "sent": sent}
    part.write_text(json.dumps(states, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def records_left(folder: Path, uri: str) -> int:
    """How many records of a run are not sent to a store. OSError if there is no journal."""
    with (folder / JOURNAL).open("rb") as file:
        file.seek(read_state(folder, uri)[1])
        return sum(1 for _ in file)


def system_metrics() -> dict[str, float]:
    """Load of this machine by MLflow's names: CPU since the last call, memory, disk below the current folder, our GPU."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(os.curdir)
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": disk.free / 1e6,
    }
    import torch  # not above: the sender reads this file, too, and needs none

    if torch.cuda.is_available():
        gpu = torch.cuda.current_device()
        with contextlib.suppress(Exception):  # a driver fails in many types, and none may end a run
            free, total = torch.cuda.mem_get_info(gpu)
            values[f"gpu_{gpu}_memory_usage_megabytes"] = (total - free) / 1e6
            values[f"gpu_{gpu}_memory_usage_percentage"] = 100 * (1 - free / total)
            values[f"gpu_{gpu}_utilization_percentage"] = torch.cuda.utilization(gpu)  # these two need nvidia-ml-py
            values[f"gpu_{gpu}_power_usage_watts"] = torch.cuda.power_draw(gpu) / 1000
    return {f"system/{name}": float(value) for name, value in values.items()}


class Tracker:
    """A run's records. No call but run_id() and close() waits, none raises: trouble is said on stderr, once.

    A folder that was tracked before goes on with its MLflow run. `parent_run` is the MLflow run id of a sweep.
    """

    def __init__(self, run_folder: Path, parent_run: str | None = None) -> None:
        self.folder, self.uri = run_folder.resolve(), tracking_uri()
        self._trains, self._trouble, self._unwritten, before = False, False, b"", b""
        with contextlib.suppress(OSError):
            before = (self.folder / JOURNAL).read_bytes()
        if not before.endswith(b"\n") and before:
            self._unwritten = b"\n"  # its last line broke off on a full disk
        if b"\n" not in before:
            names = {"name": self.folder.name, "source": Path(sys.argv[0]).name, "user": os.environ.get("USER")}
            self._append("open", id=uuid.uuid4().hex, parent=parent_run, **names)
        self._sender = self._start_sender()

    def log_params(self, values: Mapping[str, Any]) -> None:
        """All hyper-parameters, nested ones too: the run trains now, and close() will set its status."""
        self._trains = True
        self._append("params", values=dict(values))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Figures at a step."""
        self._append("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """What a run is told apart by, e.g. commit and fingerprint; a later value replaces the one before."""
        self._append("tags", values=dict(values))

    def log_artifact(self, path: Path) -> None:
        """A file or folder, as it is when it is sent."""
        self._append("artifact", path=self._stored(path))

    def register(self, checkpoint: Path) -> None:
        """Keep this very checkpoint with the run, as a new version of the model, alias challenger."""
        try:
            self._append("register", path=self._stored(checkpoint), sha256=sha256_of(checkpoint))
        except OSError as error:
            say(f"{checkpoint} is not registered: {error}")

    def run_id(self, limit_s: float) -> str | None:
        """MLflow's id of this run, None if the store has not given one within the limit."""
        ends_at = time.monotonic() + limit_s
        while not (run_id := read_state(self.folder, self.uri)[0]) and time.monotonic() < ends_at:
            time.sleep(0.05)
        return run_id or None

    def close(self, status: str = "FINISHED", limit_s: float = CLOSE_S) -> None:
        """Send what is left, within `limit_s`, then say what still is; `status` is FINISHED, KILLED or FAILED.

        A Tracker that logged no parameters (an evaluation) leaves the run's status as it is.
        """
        self._append("close", status=status if self._trains else None)
        sender, self._sender = self._sender, None
        if sender is not None:
            try:
                self._await(sender, limit_s)
            except subprocess.TimeoutExpired:
                sender.kill()
                sender.communicate()
        if lost := self._unwritten.count(b"\n"):
            say(f"{lost} records could not be written and are lost")
        with contextlib.suppress(OSError):
            if left := records_left(self.folder, self.uri):
                where = "" if self.uri == "none" else f" to {public(self.uri)}"
                say(f"{left} records are not sent{where} yet; later: make track RUN={os.path.relpath(self.folder)}")

    def _start_sender(self) -> subprocess.Popen[bytes] | None:
        if self.uri == "none":
            return None
        command = [sys.executable, "-m", "training.tracking.sender", str(self.folder)]
        try:
            # in a session of its own: Ctrl-C is for training, which then says how the run ends
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            say(f"nothing is sent to {public(self.uri)} for now ({error})")
            return None

    def _await(self, sender: subprocess.Popen[bytes], limit_s: float) -> None:
        try:
            sender.communicate(b"end\n", min(PATIENCE_S, limit_s))
        except subprocess.TimeoutExpired:
            if limit_s <= PATIENCE_S:
                raise
            say(f"sending the rest to {public(self.uri)}, for {limit_s - PATIENCE_S:.0f} s at most")
            sender.communicate(timeout=limit_s - PATIENCE_S)

    def _stored(self, path: Path) -> str:
        path = path.resolve()
        # relative, so that a folder can be sent from where it was moved to
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def _append(self, kind: str, **content: object) -> None:
        event = {"time": time.time_ns() // 10**6, "kind": kind, **content}
        self._unwritten += json.dumps(event, default=str).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / JOURNAL).open("ab", buffering=0) as file:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]
        except OSError as error:
            if not self._trouble:
                say(f"records cannot be written ({error}); training goes on, and so do attempts")
            self._trouble = True


def open_ui() -> None:
    """Serve MLflow's UI over the embedded store until Ctrl-C; where a server runs, say so."""
    uri = tracking_uri()
    if uri.startswith("http"):
        print(f"MLFLOW_TRACKING_URI names a server; its UI: {public(uri)}")
        return
    Path("runs").mkdir(exist_ok=True)
    # no telemetry, and no six processes for jobs that nobody submits here
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    stores = ["--backend-store-uri", uri, "--default-artifact-root", str(artifact_root(uri))]
    page = f"http://127.0.0.1:{UI_PORT}/#/experiments?workflowType=machine_learning"
    print(f"MLflow's UI over {public(uri)}, in a moment: {page} (Ctrl-C ends it)", flush=True)
    address = ["--host", "127.0.0.1", "--port", str(UI_PORT), "--workers", "1"]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *stores, *address], quiet | os.environ)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", type=Path, nargs="?", help="folder of a run")
    what.add_argument("--ui", action="store_true", help=f"serve the UI on port {UI_PORT} of this machine until Ctrl-C")
    args = parser.parse_args()
    if args.ui:
        open_ui()
        return 0
    from training.tracking.sender import send  # not above: it reads this file

    try:
        run_id = send(args.run.resolve(), tracking_uri())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.run} is sent to {public(tracking_uri())} as run {run_id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
