"""Sends a run's journal to MLflow; journal.py writes it, starts this beside training, and says what is sent when.

    python -m training.tracking.sender runs/X    # follows the journal until stdin says `end`, or whoever started it ends

A store that is down or slow is tried again, with pauses that grow; what it refuses for good is said and left out.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import select
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from training.tracking.journal import (
    CLOSE_S,
    EXPERIMENT,
    JOURNAL,
    MODEL,
    artifact_root,
    public,
    read_state,
    records_left,
    say,
    sha256_of,
    tracking_uri,
    write_state,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
JOURNAL_TAG = "seefood.journal"  # finds a run again when the answer to its creation was lost
POLL_S, RETRY_S, MAX_RETRY_S = 0.3, 1.0, 30.0
REASON_LENGTH = 200
PARAM_LENGTH, PARAMS_PER_BATCH, METRICS_PER_BATCH = 6000, 100, 1000  # mlflow/utils/validation.py


class RefusedError(Exception):
    """A record that will never be taken; the others can be."""


def open_client(uri: str) -> "MlflowClient":
    """A quiet client with time limits. ValueError if the address is `none`, else whatever MLflow raises."""
    if uri == "none":
        raise ValueError("MLFLOW_TRACKING_URI is none: give an address, or unset it for the store in runs/mlflow.db")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by the import
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # a new database tells of each of its tables
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri, uri)


def reason_of(error: BaseException, uri: str) -> str:
    """What lies at the bottom of an error, in one line, without passwords."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return textwrap.shorten(f"{type(error).__name__}: {error}".replace(uri, public(uri)), REASON_LENGTH, placeholder=" ...")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            texts |= flat(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = str(value)
    return texts


def lock(journal: Path) -> BinaryIO:
    """The journal, open and locked for this process. BlockingIOError if another one has it, OSError if there is none."""
    file = journal.open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass  # a file system without locks: at worst, two processes send the same records twice
    return file


class Sender(AbstractContextManager["Sender"]):
    """One journal on its way to one store, locked until `with` ends: BlockingIOError if another process sends it.

    Methods raise whatever MLflow, its database or the network raise.
    """

    client: "MlflowClient"

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.run_id, self.sent = folder, uri, "", 0
        self._lock: BinaryIO | None = None
        self._refusal = ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()

    def send_all(self) -> None:
        """Send all that the journal holds by now."""
        if not self.run_id:
            self._connect()
        for event, end in self._events(self.sent):
            try:
                self._send(event)
            except RefusedError as error:
                if str(error) != self._refusal:
                    say(f"left out, {event['kind']}: {error}")
                self._refusal = str(error)
            self.sent = end
            write_state(self.folder, self.uri, self.run_id, self.sent)

    def finish(self) -> None:
        """Call a run KILLED whose journal ends without its close."""
        events = [event for event, _ in self._events(0)]
        turns = [event for event in events if event["kind"] == "params" or event.get("status")]
        if turns and turns[-1]["kind"] == "params":
            self.client.set_terminated(self.run_id, "KILLED", events[-1]["time"])

    def _events(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Each whole event from byte `start`, and where it ends. A line that broke off on a full disk is no event."""
        with (self.folder / JOURNAL).open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                with contextlib.suppress(ValueError):
                    if line.endswith(b"\n"):
                        yield json.loads(line), start

    def _connect(self) -> None:
        if self._lock is None:
            self._lock = lock(self.folder / JOURNAL)
        opened = next((event for event, _ in self._events(0) if event["kind"] == "open"), None)
        if opened is None:
            raise ValueError(f"{self.folder / JOURNAL} does not say whose it is: it has no record of kind 'open'")
        self.client = open_client(self.uri)
        experiment_id = self._experiment_id()
        found = self.client.search_runs([experiment_id], f"tags.`{JOURNAL_TAG}` = '{opened['id']}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
        else:
            tags = {JOURNAL_TAG: opened["id"], "mlflow.parentRunId": opened["parent"]}
            tags |= {"mlflow.source.name": opened["source"], "mlflow.user": opened["user"]}
            tags = {name: value for name, value in tags.items() if value}
            run_id = self.client.create_run(experiment_id, opened["time"], tags, opened["name"]).info.run_id
        known_id, sent = read_state(self.folder, self.uri)
        self.sent = sent if known_id == run_id else 0
        write_state(self.folder, self.uri, run_id, self.sent)
        self.run_id = run_id

    def _experiment_id(self) -> str:
        place = artifact_root(self.uri)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return self.client.create_experiment(EXPERIMENT, place)
        if place != experiment.artifact_location and place == os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"):
            say(f"this store was begun with artifacts in {experiment.artifact_location}, where they stay")
        return str(experiment.experiment_id)

    def _send(self, event: dict[str, Any]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        try:
            match event["kind"]:
                case "params":
                    self._send_params(event["values"])
                case "metrics":
                    values = event["values"].items()
                    metrics = [Metric(name, value, event["time"], event["step"]) for name, value in values]
                    for start in range(0, len(metrics), METRICS_PER_BATCH):
                        self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
                case "tags":
                    for name, value in event["values"].items():
                        self.client.set_tag(self.run_id, name, value)
                case "artifact":
                    path = self.folder / event["path"]
                    if not path.exists():
                        raise RefusedError(f"{path} is gone")
                    self.client.log_artifact(self.run_id, str(path))
                case "register":
                    self._register(self.folder / event["path"], event["sha256"], event["time"])
                case "close" if event["status"]:
                    self.client.set_terminated(self.run_id, event["status"], event["time"])
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise RefusedError(reason_of(error, self.uri)) from error
            raise

    def _send_params(self, nested: Mapping[str, Any]) -> None:
        """Log new parameters and say that the run runs; a resumed run's other value, which MLflow refuses, is a tag."""
        from mlflow.entities import Param

        known, values = self.client.get_run(self.run_id).data.params, flat(nested)
        cut = {name: value[:PARAM_LENGTH] for name, value in values.items()}
        new = [Param(name, value) for name, value in cut.items() if name not in known]
        for start in range(0, len(new), PARAMS_PER_BATCH):
            self.client.log_batch(self.run_id, params=new[start : start + PARAMS_PER_BATCH])
        for name, value in cut.items():
            if known.get(name, value) != value:
                self.client.set_tag(self.run_id, f"changed.{name}", value)
        if cut != values:
            self.client.log_dict(self.run_id, dict(nested), "params.json")
        self.client.update_run(self.run_id, "RUNNING")

    def _register(self, path: Path, sha256: str, time_ms: int) -> None:
        """Add the checkpoint to the registry, once, and call it challenger unless a later one is that already."""
        from mlflow.exceptions import MlflowException

        if not path.is_file() or sha256_of(path) != sha256:
            raise RefusedError(f"{path} is not the checkpoint that was to be registered any more")
        registered = self.client.search_model_versions(f"name = '{MODEL}' and run_id = '{self.run_id}'")
        version = next((v for v in registered if v.tags.get("sha256") == sha256), None)
        if version is None:
            place = f"checkpoints/{sha256[:12]}"  # the run's next one will not replace it
            self.client.log_artifact(self.run_id, str(path), place)
            try:
                self.client.create_registered_model(MODEL)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{place}/{path.name}"
            tags = {"sha256": sha256, "time_ms": str(time_ms)}
            version = self.client.create_model_version(MODEL, source, self.run_id, tags)
        holder = self.client.get_registered_model(MODEL).aliases.get(CHALLENGER)
        if holder is None or int(self.client.get_model_version(MODEL, str(holder)).tags.get("time_ms", 0)) <= time_ms:
            self.client.set_registered_model_alias(MODEL, CHALLENGER, str(version.version))


def send(folder: Path, uri: str) -> str:
    """Send all of a journal and return MLflow's run id. ValueError if that cannot be done now."""
    if not (folder / JOURNAL).is_file():
        raise ValueError(f"{folder} has no {JOURNAL}: expected the folder of a run")
    try:
        with Sender(folder, uri) as sender:
            sender.send_all()
            sender.finish()
    except BlockingIOError as error:
        raise ValueError(f"{folder} is being sent by another process now") from error
    except Exception as error:  # MLflow, SQLAlchemy, boto3 and requests raise types of their own
        left = records_left(folder, uri)
        raise ValueError(f"{left} records could not be sent to {public(uri)}: {reason_of(error, uri)}") from error
    return sender.run_id


def follow(sender: Sender) -> None:
    """Send a journal as it grows, until its writer has ended and all is sent, or CLOSE_S have passed since."""
    writer, address = os.getppid(), public(sender.uri)
    failures, stop_at = 0, math.inf
    while time.monotonic() < stop_at:
        ended = stop_at < math.inf
        try:
            sender.send_all()
            if failures:
                say(f"{address} takes records again")
            failures = 0
            if ended:
                return sender.finish()
        except BlockingIOError:  # another process sends them
            if ended and not records_left(sender.folder, sender.uri):
                return None
        except Exception as error:  # MLflow, SQLAlchemy, boto3 and requests raise types of their own; none may end this
            if not failures:
                say(f"cannot send to {address} ({reason_of(error, sender.uri)}); records wait in {JOURNAL}, training goes on")
            failures += 1
        pause_s = min(RETRY_S * 2 ** min(failures, 9), MAX_RETRY_S) if failures else POLL_S
        if ended:
            time.sleep(min(pause_s, RETRY_S))
        # two signs, as a loader's worker may hold the writer's end of the pipe open
        elif select.select([sys.stdin], [], [], pause_s)[0] or os.getppid() != writer:
            stop_at = time.monotonic() + CLOSE_S
    return None


if __name__ == "__main__":
    with Sender(Path(sys.argv[1]), tracking_uri()) as main_sender:
        follow(main_sender)
