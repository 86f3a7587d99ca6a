"""Sends a run's journal to MLflow: all that it holds by now. follow.py does so while the run trains, track.py afterwards."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from scripts.errors import SeeFoodError
from scripts.phrases import counted
from training.tracking.store import (
    CHALLENGER,
    EXPERIMENT,
    JOURNAL,
    TrackingError,
    artifact_root,
    open_client,
    public,
    read_state,
    reason_of,
    records_left,
    say,
    sha256_of,
    write_state,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOURNAL_TAG = "seefood.journal"
PARAM_LENGTH, PARAMS_PER_BATCH, METRICS_PER_BATCH = 6000, 100, 1000  # mlflow/utils/validation.py
NAME_LENGTH, DIGEST_LENGTH = 500, 36  # of a data set, in the same file


class RejectedRecordError(SeeFoodError):
    """A record that the store will never accept; it is left out, and the others are sent."""


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
            except RejectedRecordError as error:
                if str(error) != self._refusal:  # each metric of an epoch may be rejected for the same reason
                    say(f"left out, {event['kind']}: {error}")
                self._refusal = str(error)
            self.sent = end
            write_state(self.folder, self.uri, self.run_id, self.sent)

    def finish(self) -> None:
        """Mark a run KILLED whose journal ends without its close."""
        events = [event for event, _ in self._events(0)]
        starts_and_ends = [event for event in events if event["kind"] == "params" or event.get("status")]
        if starts_and_ends and starts_and_ends[-1]["kind"] == "params":
            self.client.set_terminated(self.run_id, "KILLED", events[-1]["time"])

    def _events(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Each whole event from byte `start`, and where it ends; a line that broke off on a full disk is left out."""
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
            raise TrackingError(f"{self.folder / JOURNAL} has no record of kind 'open', so no run can be found for it")
        self.client = open_client(self.uri)
        experiment_id = self._experiment_id()
        # by a tag of ours: a run whose creation was answered too late is found, not created twice
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
            return str(self.client.create_experiment(EXPERIMENT, place))
        if place != experiment.artifact_location and place == os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"):
            say(f"this store keeps its artifacts in {experiment.artifact_location}, where they were when it was created")
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
                case "input":
                    self._send_input(event)
                case "artifact":
                    path = self.folder / event["path"]
                    if not path.exists():
                        raise RejectedRecordError(f"{path} is gone")
                    self.client.log_artifact(self.run_id, str(path))
                case "register":
                    self._register(event.get("model"), self.folder / event["path"], event["sha256"], event["time"])
                case "close" if event["status"]:
                    self.client.set_terminated(self.run_id, event["status"], event["time"])
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise RejectedRecordError(reason_of(error, self.uri)) from error
            raise

    def _send_params(self, nested: Mapping[str, Any]) -> None:
        """Log new parameters and set the run's status; a resumed run's changed value, which MLflow refuses, becomes a tag."""
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

    def _send_input(self, event: Mapping[str, Any]) -> None:
        """Log the data set that the run is trained on; one that it has already stays the only one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest, source = event["digest"][:DIGEST_LENGTH], json.dumps({"uri": event["source"]})
        dataset = Dataset(event["name"][:NAME_LENGTH], digest, "local", source, profile=json.dumps(event["profile"]))
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _register(self, model: str | None, path: Path, sha256: str, time_ms: int) -> None:
        """Add the checkpoint to the registry, once, with the alias challenger unless a newer one has it already."""
        if model is None:
            raise RejectedRecordError("the run has no model name: give MODEL=NAME (--model)")
        if not path.is_file() or sha256_of(path) != sha256:
            raise RejectedRecordError(f"{path} is not the checkpoint that was to be registered any more")
        registered = self.client.search_model_versions(f"name = '{model}' and run_id = '{self.run_id}'")
        number = next((v.version for v in registered if v.tags.get("sha256") == sha256), None)
        if number is None:
            number = self._create_version(model, path, {"sha256": sha256, "time_ms": str(time_ms)})
        holder = self.client.get_registered_model(model).aliases.get(CHALLENGER)
        # a run may be sent days late: the alias is for the newest checkpoint, not for the one that arrives last
        if holder is None or int(self.client.get_model_version(model, str(holder)).tags.get("time_ms", 0)) <= time_ms:
            self.client.set_registered_model_alias(model, CHALLENGER, str(number))

    def _create_version(self, model: str, path: Path, tags: dict[str, str]) -> str:
        """Upload the checkpoint and register it; the version's number."""
        from mlflow.exceptions import MlflowException

        place = f"checkpoints/{tags['sha256'][:12]}"  # of its own, so that the run's next one does not replace it
        self.client.log_artifact(self.run_id, str(path), place)
        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{place}/{path.name}"
        return str(self.client.create_model_version(model, source, self.run_id, tags).version)


def send(folder: Path, uri: str) -> str:
    """Send all of a journal and return MLflow's run id. TrackingError if that cannot be done now."""
    if not (folder / JOURNAL).is_file():
        raise TrackingError(f"{folder} has no {JOURNAL}: expected the folder of a run")
    try:
        with Sender(folder, uri) as sender:
            sender.send_all()
            sender.finish()
    except BlockingIOError as error:
        raise TrackingError(f"{folder} is being sent by another process now") from error
    except TrackingError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy, boto3 and requests raise types of their own
        left = records_left(folder, uri)
        raise TrackingError(f"{counted(left, 'record')} could not be sent to {public(uri)}: {reason_of(error, uri)}") from error
    return sender.run_id
