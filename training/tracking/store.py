"""The MLflow store: its address, a client for it, and the note of how many records of a run it has.

MLFLOW_TRACKING_URI unset means sqlite in runs/mlflow.db, with artifacts in runs/mlflow-artifacts or in
MLFLOW_DEFAULT_ARTIFACT_ROOT, e.g. s3://bucket/prefix; `none` means that records stay in the journal until `make track`.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scripts import atomic
from scripts.errors import SeeFoodError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# all runs are in one experiment, whatever the model: a sweep and its trials must share one, and registered models have names
EXPERIMENT = "seefood"
CHALLENGER, CHAMPION = "challenger", "champion"
JOURNAL, STATE = "tracking.jsonl", "tracking.state.json"
RECORDS = (JOURNAL, STATE)
CLOSE_S = 60.0  # the longest that the end of a run waits for the store
REASON_LENGTH = 200
ADDRESS = "MLFLOW_TRACKING_URI is expected to be http://host:port, sqlite:///file, or none"
CREDENTIALS = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD, are missing, wrong or expired"
# what does not pass by itself, by MLflow's codes, and what to do
REFUSED = {
    "UNAUTHENTICATED": CREDENTIALS,
    "CUSTOMER_UNAUTHORIZED": CREDENTIALS,
    "PERMISSION_DENIED": CREDENTIALS,
    "ENDPOINT_NOT_FOUND": f"it is no MLflow server; {ADDRESS}",
}


class TrackingError(SeeFoodError, ValueError):
    """The MLflow store cannot be reached, or does not hold what was asked for."""


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


def open_client(uri: str) -> "MlflowClient":
    """A quiet client with time limits. TrackingError if the address is `none`, else whatever MLflow raises."""
    if uri == "none":
        raise TrackingError("MLFLOW_TRACKING_URI is none: give an address, or unset it for the store in runs/mlflow.db")
    # with MLflow's own limits, 120 s and 7 retries, a command would wait a quarter of an hour for a server that is down
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by the import
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient  # not above: it takes seconds, and training itself never needs it

    for name in ("mlflow", "alembic"):  # a new database logs the creation of each of its tables
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri, uri)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the first cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_final(error: BaseException) -> bool:
    """Whether the same request would fail again: an address or credentials that MLflow refuses, or a driver that is missing."""
    for cause in chain(error):
        if isinstance(cause, ModuleNotFoundError) or getattr(cause, "error_code", "") in REFUSED or is_unknown(cause):
            return True
    return False


def is_unknown(error: BaseException) -> bool:
    """Whether MLflow knows no kind of store with such an address."""
    return type(error).__name__.endswith("StoreURIException")


def reason_of(error: BaseException, uri: str) -> str:
    """The first cause of an error, in one line, without passwords, and what to do where that is known."""
    *outer, first = chain(error)
    advice = next((REFUSED[code] for cause in (*outer, first) if (code := getattr(cause, "error_code", "")) in REFUSED), "")
    if any(is_unknown(cause) for cause in outer):
        return f"no kind of store has such an address; {ADDRESS}"
    text = textwrap.shorten(f"{type(first).__name__}: {first}".replace(uri, public(uri)), REASON_LENGTH, placeholder=" ...")
    return f"{text}; {advice}" if advice else text


def say(message: str) -> None:
    """One line on stderr; nothing if stderr is gone."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tracking: {message}", file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file. OSError as it comes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(folder: Path, uri: str) -> tuple[str, int]:
    """How far a run was sent to a store: MLflow's run id ("" if it has none yet) and how many bytes of the journal."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))[public(uri)]
        return str(state["run_id"]), int(state["sent"])
    except (OSError, ValueError, KeyError, TypeError):
        # sent again from the start then, which adds nothing twice: the run is found by its tag, and a metric's point
        # or a model version that is there already is replaced or left out
        return "", 0


def write_state(folder: Path, uri: str, run_id: str, sent: int) -> None:
    """Note how far a run was sent. OSError as it comes; the note before stays."""
    path = folder / STATE
    states = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    states[public(uri)] = {"run_id": run_id, "sent": sent}
    atomic.write_json(path, states)


def records_left(folder: Path, uri: str) -> int:
    """How many records of a run are not sent to a store. OSError if there is no journal."""
    with (folder / JOURNAL).open("rb") as file:
        file.seek(read_state(folder, uri)[1])
        return sum(1 for _ in file)
