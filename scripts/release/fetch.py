"""An archive from the store onto this machine: fetched, compared with its checksum, unpacked, all parts checked.

RUN_DIR/archives/    archives as they were fetched, a cache: each is compared with the release document whenever it is used
RUN_DIR/programs/    by the unpacked folder's name, what its workers keep: which program is the fastest here, and compiled ones
RUN_DIR/unpacked/    what TorchServe loads, with its bytecode: anew each time, as what a worker could have changed since proves
                     nothing
"""

import contextlib
import py_compile
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from handler.parts import sha256
from scripts.archive.foreign import unpack_foreign
from scripts.archive.name import split_name
from scripts.archive.read import unpack
from scripts.atomic import aside
from scripts.errors import FullDiskError, is_full
from scripts.release.store import Store
from scripts.settings import Settings
from scripts.steps import Steps


def fetch(store: Store, run_dir: Path, version: str, entry: Mapping[str, Any], settings: Settings, steps: Steps) -> Path:
    """The folder of an archive that has the document's checksum, just unpacked from it. StoreError, ValueError, OSError."""
    name = entry["archive"]
    # the checksum in its name: an archive of the same version that was replaced must not find the old one
    folder = run_dir / "unpacked" / f"{Path(name).stem}-{entry['sha256'][:12]}"
    archive = run_dir / "archives" / f"{folder.name}.mar"
    try:
        if not archive.is_file() or sha256(archive) != entry["sha256"]:
            free = shutil.disk_usage(run_dir).free
            if free < settings.min_free_bytes:
                raise FullDiskError.lacking(run_dir, settings.min_free_bytes, free)
            steps("fetching", version=version, archive=name)
            _download(store, name, entry["sha256"], archive)
        folder.parent.mkdir(exist_ok=True)
        if entry.get("unverified"):
            unpack_foreign(archive, name, folder)
        else:
            unpack_as_named(archive, name, folder)
            _compile(folder)
    except OSError as error:
        if is_full(error) and error.filename:  # the system's, which has no advice
            raise FullDiskError.lacking(run_dir, settings.min_free_bytes, shutil.disk_usage(run_dir).free) from error
        raise
    return folder


def _download(store: Store, name: str, expected: str, archive: Path) -> None:
    """Fetch an archive to its place. ValueError, with nothing of it kept or unpacked, if its checksum is another one."""
    archive.parent.mkdir(exist_ok=True)
    with aside(archive) as part:
        store.fetch(name, part)
        found = sha256(part)
        if found != expected:
            raise ValueError(
                f"{name}: sha256 {found[:12]} does not match the release document's {expected[:12]}: it was changed or cut off "
                f"beside {store.address}; put the original back, or release another version"
            )


def _compile(folder: Path) -> None:
    """Write Python's caches of the handler, for its worker and each of the decoders; they are used for these very bytes alone."""
    for path in folder.rglob("*.py"):
        with contextlib.suppress(OSError, py_compile.PyCompileError, ValueError, RecursionError):
            py_compile.compile(str(path), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def remove_old(run_dir: Path, needed: Collection[Path], keep: int) -> None:
    """Remove the unpacked folders that are not needed, and of their archives, with their choices, all but the newest `keep`."""
    for folder in (run_dir / "unpacked").iterdir():
        if folder not in needed:
            shutil.rmtree(folder, ignore_errors=True)
    names = {f"{folder.name}.mar" for folder in needed}
    others = [path for path in (run_dir / "archives").iterdir() if path.name not in names]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        path.unlink(missing_ok=True)
        shutil.rmtree(run_dir / "programs" / path.stem, ignore_errors=True)


def unpack_as_named(archive: Path, name: str, folder: Path) -> tuple[str, str]:
    """Unpack an archive whose name is, or was, `name`; its (model, version). ValueError if it is damaged or holds another.

    TorchServe registers what the archive holds: another model or version would be served under a name that no client requests.
    """
    provenance = unpack(archive, folder)
    found, expected = (str(provenance["model"]), str(provenance["version"])), split_name(Path(name))
    if found != expected:
        shutil.rmtree(folder)
        raise ValueError(f"{name} contains {' '.join(found)} but is named {' '.join(expected)}")
    return found
