"""An archive, read: unpacked with all its parts checked, its manifest, and its handler as TorchServe's worker loads it."""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from handler.parts import check_parts, sha256
from scripts.archive.unzip import extract
from scripts.atomic import aside

MANIFEST = Path("MAR-INF/MANIFEST.json")


def read_manifest(unpacked: Path) -> dict[str, Any]:
    """What torch-model-archiver wrote about an archive: ["model"]["modelName"], ["modelVersion"], ["configFile"] ..."""
    manifest: dict[str, Any] = json.loads((unpacked / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive into `folder`, which appears only when all parts are right, and return its provenance.

    It is not for long: whoever starts later unpacks the archive again.
    ValueError naming what is wrong with the archive, OSError if the disk has no room.
    """
    with aside(folder, lasting=False) as part:
        extract(archive, part)
        try:
            return check_parts(part)
        except ValueError as error:
            raise ValueError(f"{archive.name}: {error}") from error


def inspect(archive: Path) -> dict[str, Any]:
    """The archive's checksum, size and provenance, all parts checked. ValueError naming what is wrong with it."""
    if not archive.is_file():
        raise ValueError(f"there is no archive {archive}")
    with tempfile.TemporaryDirectory() as folder:
        provenance = unpack(archive, Path(folder) / "archive")
    return {"archive": archive.name, "sha256": sha256(archive), "bytes": archive.stat().st_size, **provenance}


def load_handler(unpacked: Path) -> Any:
    """The archive's own handler, initialised from the folder that it is unpacked in, as TorchServe's worker does it.

    One archive a process: its `handler` package is imported from there. ValueError if it does not answer its golden photos.
    """
    # this project's own handler package has the same name, and would be found in place of the archive's
    for name in [name for name in sys.modules if name.split(".")[0] in ("handler", "seefood_handler")]:
        del sys.modules[name]
    before = set(sys.modules)
    sys.path.insert(0, str(unpacked))
    handler = importlib.import_module("seefood_handler").SeefoodHandler()
    # a module that the archive lacks is found in a checkout, but not in a server
    from_elsewhere = [
        name
        for name, module in sys.modules.items()
        if name not in before
        and name.split(".")[0] in ("handler", "training", "scripts")
        and not str(getattr(module, "__file__", None) or unpacked).startswith(str(unpacked))
    ]
    if from_elsewhere:
        raise ValueError(f"the archive lacks modules that it imports: {from_elsewhere} came from elsewhere")
    manifest = read_manifest(unpacked)
    config = yaml.safe_load((unpacked / manifest["model"]["configFile"]).read_text(encoding="utf-8"))
    handler.initialize(
        SimpleNamespace(
            system_properties={"model_dir": str(unpacked)},
            manifest=manifest,
            model_name=manifest["model"]["modelName"],
            model_yaml_config=config,
        )
    )
    return handler
