"""An archive from the store onto this machine: fetched, compared with its checksum, unpacked, all parts checked."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

from handler.parts import check_parts, sha256
from scripts.archive.build import MODEL, unpack
from scripts.release.store import Store
from scripts.settings import Settings
from scripts.steps import Steps


def fetch(store: Store, run_dir: Path, version: str, entry: Mapping[str, str], settings: Settings, steps: Steps) -> Path:
    """The folder of an unpacked archive, checked. StoreError, ValueError, OSError."""
    folder = run_dir / "unpacked" / f"{MODEL}-{version}-{entry['sha256'][:12]}"
    if folder.is_dir():
        try:
            check_parts(folder)
            return folder
        except ValueError:  # what lies there was changed since: another copy
            shutil.rmtree(folder)
    part = run_dir / f"{entry['archive']}.part"
    if shutil.disk_usage(run_dir).free < settings.min_free_bytes:
        raise OSError(errno.ENOSPC, f"the disk is full: less than {settings.min_free_bytes / 1e6:.0f} MB are free")
    try:
        steps("fetching", version=version, archive=entry["archive"])
        store.fetch(entry["archive"], part)
        found = sha256(part)
        if found != entry["sha256"]:
            raise ValueError(
                f"{entry['archive']} has sha256 {found[:12]}, the release document says {entry['sha256'][:12]}"
                + _what_changed(part)
            )
        packed = unpack(part, folder)["version"]
        if packed != version:  # TorchServe would register it under that one, where nobody would look for it
            shutil.rmtree(folder)
            raise ValueError(f"{entry['archive']} holds version {packed}")
    finally:
        part.unlink(missing_ok=True)
    return folder


def _what_changed(archive: Path) -> str:
    """Which of a wrong archive's parts are not what they were, if it can be told."""
    aside = archive.with_name("wrong")
    try:
        unpack(archive, aside)
        return ""
    except ValueError as error:
        return f" ({error})"
    finally:
        shutil.rmtree(aside, ignore_errors=True)
