"""An archive that `make archive` has not packed: any handler of TorchServe's. All that is checked of it is that it is whole."""

import json
from pathlib import Path

from handler.parts import PROVENANCE
from scripts.archive.name import split_name
from scripts.archive.read import MANIFEST, read_manifest
from scripts.archive.unzip import extract
from scripts.atomic import aside


def unpack_foreign(archive: Path, name: str, folder: Path) -> tuple[str, str]:
    """Unpack an archive named MODEL-VERSION.mar; (model, version), which its manifest has from then on, whatever it had.

    TorchServe registers by the manifest, and not every archiver's version is a semantic one. ValueError if it is damaged, has no
    handler, or is one of ours; OSError if the disk has no room.
    """
    model, version = split_name(Path(name))
    with aside(folder) as part:
        extract(archive, part)
        if (part / PROVENANCE).exists():
            raise ValueError(f"{name} was packed by make archive, so that it can be verified: leave UNVERIFIED out")
        try:
            manifest = read_manifest(part)
            str(manifest["model"]["handler"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{name} is no archive of torch-model-archiver: {MANIFEST} names no handler ({error!r})") from error
        manifest["model"] |= {"modelName": model, "modelVersion": version}
        (part / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return model, version
