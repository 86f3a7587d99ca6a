"""A version into TorchServe: registered, and proved by its golden photos, unless its archive is not ours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import Server
from scripts.backend.torchserve.versions import Golden, forget, load, program_of, prove, read_golden
from scripts.settings import Settings

MOST_OF_WHY = 300  # characters, which a worker writes


class Loaded(NamedTuple):
    """A version that has answered its golden photos; one that is not verified has none."""

    sha256: str
    folder: Path
    golden: Golden | None
    description: Mapping[str, Any]  # what it says of itself: SeefoodHandler.describe
    workers: management.Workers  # that its model-config.yaml asks for

    @property
    def program(self) -> str:
        """The name of the one that its worker runs."""
        return "unverified" if self.golden is None else program_of(self.description)

    @property
    def why(self) -> str:
        """Why it runs that program, with the times that it measured; "" if it does not say, as those of earlier versions."""
        choice = self.description.get("choice")
        return str(choice.get("why", ""))[:MOST_OF_WHY] if isinstance(choice, Mapping) else ""

    @property
    def program_and_why(self) -> str:
        """Both, for people."""
        return f"{self.program}: {self.why}" if self.why else self.program


def register(
    server: Server,
    model: str,
    version: str,
    entry: Mapping[str, Any],
    folder: Path,
    log: Path,
    settings: Settings,
    watch: Callable[[], None],
) -> Loaded:
    """Load a version and have it prove itself; nothing of one that fails stays registered. VersionError, ManagementError.

    `watch` is called meanwhile, and may raise to give up.
    """
    load(server, model, version, folder.name, settings.load_timeout_s, log, watch)
    try:
        golden, description = None, {"model": model, "version": version, "unverified": True}
        if not entry.get("unverified"):
            golden = read_golden(folder)
            description = prove(server, model, version, golden, settings.golden_timeout_s, watch)
        workers = management.Workers.of(management.version(server, model, version))
    except BaseException:
        forget(server, model, version)
        raise
    return Loaded(entry["sha256"], folder, golden, description, workers)
