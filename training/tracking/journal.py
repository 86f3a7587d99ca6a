"""A run's records for MLflow: on disk at once, sent by a process of their own, so that training waits for no server.

A Tracker appends events to tracking.jsonl in the run's folder. A second process (follow.py) reads them there and sends them in
order, each at least once; tracking.state.json says how far, for each store. Sending to another store (another
MLFLOW_TRACKING_URI) begins with the first event. No file of this process imports mlflow.

A process and not a thread: mlflow's import and its requests would take the interpreter's lock from the training loop, a client
that hangs cannot be ended as a process can, and after SIGKILL of the training the sender still marks its run KILLED.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.phrases import counted
from training.tracking.store import CLOSE_S, JOURNAL, public, read_state, records_left, say, sha256_of, tracking_uri

PATIENCE_S = 5.0  # how long close() waits before it prints that it does


class Tracker:
    """A run's records. Only run_id() and close() wait, and no call raises: trouble is printed on stderr, once.

    A folder that was tracked before continues its MLflow run. `parent_run` is the MLflow run id of a sweep.
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
        """All hyper-parameters, nested ones too: the run is a training run from here on, and close() will set its status."""
        self._trains = True
        self._append("params", values=dict(values))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Metrics at a step."""
        self._append("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """What runs are told apart by, e.g. commit and fingerprint; a later value replaces the one before."""
        self._append("tags", values=dict(values))

    def log_input(self, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data set, which MLflow's list of runs shows: its name, the digest of its photos, where it lies, and counts."""
        self._append("input", name=name, digest=digest, source=source, profile=dict(profile))

    def log_artifact(self, path: Path) -> None:
        """A file or folder, as it is when it is sent."""
        self._append("artifact", path=self._stored(path))

    def register(self, model: str, checkpoint: Path) -> None:
        """Keep the checkpoint, as it is now, with the run, as a new version of the registered model; alias challenger."""
        try:
            # by its hash: the file may be another one by the time it is sent
            self._append("register", model=model, path=self._stored(checkpoint), sha256=sha256_of(checkpoint))
        except OSError as error:
            say(f"{checkpoint} is not registered: {error}")

    def run_id(self, limit_s: float) -> str | None:
        """MLflow's id of this run, None if the store has not given one within the limit."""
        ends_at = time.monotonic() + limit_s
        while not (run_id := read_state(self.folder, self.uri)[0]) and time.monotonic() < ends_at:
            time.sleep(0.05)
        return run_id or None

    def close(self, status: str = "FINISHED", limit_s: float = CLOSE_S) -> None:
        """Send what is left, within `limit_s`, and print how much was not sent; `status` is FINISHED, KILLED or FAILED.

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
            say(f"lost, as they could not be written: {counted(lost, 'record')}")
        if self.uri == "none":  # nothing is to be sent; make track can do it all the same
            return
        with contextlib.suppress(OSError):
            if left := records_left(self.folder, self.uri):
                say(
                    f"not sent to {public(self.uri)} yet: {counted(left, 'record')}; "
                    f"later: make track RUN={os.path.relpath(self.folder)}"
                )

    def _start_sender(self) -> subprocess.Popen[bytes] | None:
        if self.uri == "none":
            return None
        command = [sys.executable, "-m", "training.tracking.follow", str(self.folder)]
        try:
            # in a session of its own: Ctrl-C is for training, which then records how the run ended
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            say(f"the sender cannot be started ({error}): nothing is sent to {public(self.uri)} for now")
            return None

    def _await(self, sender: subprocess.Popen[bytes], limit_s: float) -> None:
        try:
            sender.communicate(b"end\n", min(PATIENCE_S, limit_s))
        except subprocess.TimeoutExpired:
            if limit_s <= PATIENCE_S:
                raise
            say(f"sending the remaining records to {public(self.uri)}, for at most {limit_s - PATIENCE_S:.0f} s")
            sender.communicate(timeout=limit_s - PATIENCE_S)

    def _stored(self, path: Path) -> str:
        path = path.resolve()
        # relative, so that a folder can be sent from where it was moved to
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def _append(self, kind: str, **content: object) -> None:
        event = {"time": time.time_ns() // 10**6, "kind": kind, **content}
        # kept until the disk has taken it: a full disk may take half a line, and the rest is written with the next event
        self._unwritten += json.dumps(event, default=str).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / JOURNAL).open("ab", buffering=0) as file:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]
        except OSError as error:
            if not self._trouble:
                say(f"records cannot be written ({error}); training goes on, and writing is retried")
            self._trouble = True
