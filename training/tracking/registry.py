"""The versions of a model in MLflow's registry, and their checkpoints."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.atomic import aside
from scripts.model_name import check_model_name
from training.model import Checkpoint
from training.tracking.store import CHALLENGER, CHAMPION, TrackingError, open_client, public, read_state, reason_of, sha256_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# the packages whose errors mean that the store failed, not that our code is wrong
LIBRARIES = ("mlflow", "sqlalchemy", "botocore", "requests", "urllib3")


@contextmanager
def store_errors_in_one_line(uri: str) -> Iterator[None]:
    """Within `with`, whatever MLflow, its database and the network raise becomes a TrackingError of one line."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in LIBRARIES:
            raise
        raise TrackingError(f"{public(uri)} failed: {reason_of(error, uri)}") from error


class Registry:
    """The versions of `model` in MLflow's registry. Methods raise whatever MLflow, its database or the network raise."""

    def __init__(self, uri: str, model: str) -> None:
        self.uri, self.model, self.client = uri, check_model_name(model), open_client(uri)

    def holder(self, alias: str) -> "ModelVersion | None":
        """The version with that alias, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            number = self.client.get_registered_model(self.model).aliases.get(alias)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            number = None
        return None if number is None else self.client.get_model_version(self.model, str(number))

    def named(self, alias: str) -> "ModelVersion":
        """The version with that alias. TrackingError if there is none."""
        version = self.holder(alias)
        if version is None:
            how = f"make train registers a {CHALLENGER}, make promote a {CHAMPION}"
            raise TrackingError(f"{public(self.uri)} has no {self.model} with the alias {alias!r}: {how}")
        return version

    def challenger(self, run: Path | None) -> "ModelVersion":
        """The newest version that a run registered; without a run, the one with the alias. TrackingError if there is none."""
        if run is None:
            return self.named(CHALLENGER)
        if not run.is_dir():
            how = f"make train makes one, RUN=folder names another; sent from elsewhere: make track RUN={run} there"
            raise TrackingError(f"there is no run {run}: {how}")
        run_id, _ = read_state(run.resolve(), self.uri)
        registered = self.client.search_model_versions(f"run_id = '{run_id}'") if run_id else []
        if not registered:
            raise TrackingError(f"{run} registered no model at {public(self.uri)}; is it finished, and sent? make track RUN={run}")
        versions = [version for version in registered if version.name == self.model]
        if not versions:
            raise TrackingError(f"{run} registered {registered[0].name}, not {self.model}: give MODEL={registered[0].name}")
        return max(versions, key=lambda version: int(version.version))

    def fetch(self, version: "ModelVersion", out: Path) -> Path:
        """`out`/checkpoint.pt, downloaded unless it is there. TrackingError if it is not the file that was registered."""
        from mlflow.artifacts import download_artifacts

        path, sha256 = out / "checkpoint.pt", version.tags.get("sha256")
        if path.is_file() and sha256_of(path) == sha256:
            return path
        out.mkdir(parents=True, exist_ok=True)
        # MLflow names the file itself, so it gets a folder: beside `path`, as a rename does not cross file systems
        with aside(path) as part, tempfile.TemporaryDirectory(dir=out, prefix=".fetch-") as folder:
            fetched = Path(download_artifacts(version.source, dst_path=folder, tracking_uri=self.uri))
            if (found := sha256_of(fetched)) != sha256:
                raise TrackingError(
                    f"{version.source} has sha256 {found}, {self.model} {version.version} was registered with {sha256}"
                )
            fetched.replace(part)
        return path

    def load(self, version: "ModelVersion") -> Checkpoint:
        """The checkpoint of a version."""
        with tempfile.TemporaryDirectory() as folder:
            return Checkpoint.load(self.fetch(version, Path(folder)))

    def note(self, version: "ModelVersion", values: dict[str, str]) -> None:
        """Set the version's tags."""
        for name, value in values.items():
            self.client.set_model_version_tag(self.model, str(version.version), f"promotion.{name}", value)
