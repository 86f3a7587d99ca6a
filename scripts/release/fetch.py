"""An archive from the store onto this machine: fetched, compared with its checksum, unpacked, all parts checked."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

from handler.parts import check_parts, sha256
from scripts.archive.name import split_name
from scripts.archive.read import unpack
from scripts.release.store import Store
from scripts.settings import Settings
from scripts.steps import Steps


def fetch(store: Store, run_dir: Path, version: str, entry: Mapping[str, str], settings: Settings, steps: Steps) -> Path:
    """The folder of an unpacked archive, checked. StoreError, ValueError, OSError."""
    name = entry["archive"]
    # the checksum in its name: an archive of the same version that was replaced must not find the old one's folder
    folder = run_dir / "unpacked" / f"{Path(name).stem}-{entry['sha256'][:12]}"
    if folder.is_dir():
        try:
            check_parts(folder)
            return folder
        except ValueError:  # its files were changed since: fetch another copy
            shutil.rmtree(folder)
    # not atomic.aside: the download is only unpacked, and never takes a place of its own
    download = run_dir / f"{name}.part"
    if shutil.disk_usage(run_dir).free < settings.min_free_bytes:
        raise OSError(errno.ENOSPC, f"the disk is full: less than {settings.min_free_bytes / 1e6:.0f} MB are free")
    try:
        steps("fetching", version=version, archive=name)
        store.fetch(name, download)
        checksum = sha256(download)
        if checksum != entry["sha256"]:
            raise ValueError(
                f"{name}: sha256 {checksum[:12]} does not match the release document's "
                f"{entry['sha256'][:12]}{_what_changed(download)}"
            )
        unpack_as_named(download, name, folder)
    finally:
        download.unlink(missing_ok=True)
    return folder


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


def _what_changed(archive: Path) -> str:
    """Which of a wrong archive's parts differ from its own list of checksums, "" if none do."""
    aside = archive.with_name("wrong")
    try:
        unpack(archive, aside)
        return ""
    except ValueError as error:
        return f" ({error})"
    finally:
        shutil.rmtree(aside, ignore_errors=True)
