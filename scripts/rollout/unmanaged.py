"""Rolling a version out on one TorchServe that was started by hand: through its management API alone, without a document."""

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from scripts.archive.build import MODEL, unpack
from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.versions import VersionError, forget, load, prove, read_golden, remove
from scripts.settings import Settings
from scripts.steps import Steps


def start_by_hand(server: Server, archive: Path, url: str, settings: Settings, steps: Steps) -> None:
    """Roll one TorchServe by its management API alone. VersionError, with the old version serving, where it fails."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            new = str(unpack(archive, Path(folder) / "archive")["version"])
            golden = read_golden(Path(folder) / "archive")
        old = sorted(management.versions(server, MODEL))
        if new in old:
            raise VersionError(f"{new} is registered there already, as are {old}")
        steps("loading", version=new, beside=old)
        load(server, new, url, settings.load_timeout_s, None, lambda: None)
        try:
            prove(server, new, golden, settings.golden_timeout_s)
            management.set_default(server, MODEL, new)
        except BaseException:
            forget(server, new)
            raise
    except (ManagementError, VersionError) as error:
        raise VersionError(f"{error}\nwhat was served there still is") from error
    steps("default", version=new)
    for version in old:
        try:
            idle = remove(server, version, golden, settings.drain_s, settings.settle_s)
        except ManagementError as error:
            raise VersionError(f"{new} is served, but {version} cannot be removed: {error}") from error
        steps("removed", version=version, idle=idle)


def by_hand(management_url: str, inference_url: str | None) -> Server:
    """Its addresses, and its tokens from the environment. ValueError for an address that is none."""
    parts = urlsplit(management_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ValueError(f"URL is {management_url!r}, expected the management address, e.g. http://host:8081")
    inference = inference_url or f"{parts.scheme}://{parts.hostname}:{parts.port - 1}"
    management_token, inference_token = (os.environ.get(f"TORCHSERVE_{name}_TOKEN") for name in ("MANAGEMENT", "INFERENCE"))
    return Server(management_url.rstrip("/"), inference.rstrip("/"), management_token, inference_token)
