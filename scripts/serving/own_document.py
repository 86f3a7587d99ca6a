"""The release document that a server writes itself where nobody has rolled anything out: for the newest archive, or a named one."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.archive.name import choose_archive, find_archives, precedence, split_name
from scripts.release.document import entry_of, make, parse, releases_of, write
from scripts.release.folder_store import FolderStore
from scripts.release.status import Fleet
from scripts.release.store import Store
from scripts.steps import Steps

# "by" in a document that nobody rolled out: the next start may write another one
SELF = "serve.py"


def own_release(archive: Path, folder: Path) -> Store:
    """A document for this archive alone, in a folder of its own."""
    # a document of the run before, with its history and its archive
    shutil.rmtree(folder, ignore_errors=True)
    store = FolderStore(folder / "release.json")
    store.folder.mkdir(parents=True)
    store.put(archive)
    store.write(write(_document_for(archive, {split_name(archive)[1]: entry_of(archive)})), None)
    return store


def newest_release(model_store: Path, store: FolderStore, model: str | None, steps: Steps) -> None:
    """Write a document for the newest archive, unless somebody has rolled one out.

    ValueError without any archive or document, if there are several models to choose from, or if another model is released.
    """
    releases: dict[str, dict[str, Any]] = {}
    tag = None
    with contextlib.suppress(FileNotFoundError):
        found = store.read()
        assert found is not None
        releases, tag = releases_of(parse(found[0])), found[1]
    names = " and ".join(releases)
    ours = all(release["by"] == SELF for release in releases.values())
    other = bool(releases) and model is not None and model not in releases
    if other and not ours:
        raise ValueError(f"{store.address} is a release of the model {names}, not of {model}: leave MODEL out")
    followed = Fleet.of(store, store.settings).statuses if ours and releases else {}
    if other and followed:
        raise ValueError(
            f"{', '.join(followed)} serves {names} by {store.address}: make rollout MODEL={model} VERSION=... serves {model} "
            f"beside it; for a server of its own, RELEASE=model_store/{model}.json"
        )
    if releases and not ours:
        for name, release in releases.items():
            _note_newer(model_store, name, release, steps)
        return
    model = model or next(iter(releases), None)
    if releases and not find_archives(model_store, model):
        return
    newest = choose_archive(model_store, None, model)
    versions = {split_name(newest)[1]: entry_of(newest)}
    if releases.get(split_name(newest)[0], {}).get("versions") != versions:
        store.write(write(_document_for(newest, versions)), tag)


def _note_newer(model_store: Path, model: str, release: Mapping[str, Any], steps: Steps) -> None:
    """Say so if the model store holds a newer archive of a model than is released."""
    archives = find_archives(model_store, model)
    if archives and precedence(split_name(archives[-1])[1]) > max(map(precedence, release["versions"])):
        steps.say(
            f"note: {archives[-1].name} is newer than the released {release['default']}: make rollout MODEL={model} "
            f"VERSION={split_name(archives[-1])[1]}",
            "newer archive",
            archive=archives[-1].name,
            released=release["default"],
        )


def _document_for(archive: Path, versions: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return make(versions, split_name(archive)[1], "released", f"{archive.name} is served", SELF)
