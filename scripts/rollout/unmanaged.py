"""Roll a version out on one TorchServe that follows no release document: through its management API alone."""

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from scripts.backend.torchserve import management
from scripts.backend.torchserve.management import ManagementError, Server
from scripts.backend.torchserve.versions import VersionError, forget, load, prove, read_golden, remove
from scripts.release.fetch import unpack_as_named
from scripts.settings import Settings
from scripts.steps import Steps


def start_unmanaged(server: Server, archive: Path, url: str, settings: Settings, steps: Steps) -> str:
    """Replace the default version; the model's name. VersionError, with the old version serving, where it fails.

    `archive` is here, `url` is the same one as the server finds it: a name in its model store, or an address.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, new = unpack_as_named(archive, archive.name, Path(folder) / "archive")
        golden = read_golden(Path(folder) / "archive")
    try:
        old = sorted(management.versions(server, model))
        if new in old:
            raise VersionError(f"{new} is registered there already, as are {old}")
        steps("loading", model=model, version=new, beside=old)
        # no log: it lies on the server's machine
        load(server, model, new, url, settings.load_timeout_s, None, lambda: None)
        try:
            prove(server, model, new, golden, settings.golden_timeout_s)
            management.set_default(server, model, new)
        except BaseException:  # Ctrl-C, too: a version that has not proved itself must not stay registered
            forget(server, model, new)
            raise
    except (ManagementError, VersionError) as error:
        raise VersionError(f"{error}\nthe version before is still served") from error
    steps("default", version=new)
    for version in old:
        try:
            idle = remove(server, model, version, golden, settings.drain_s, settings.settle_s)
        except ManagementError as error:
            raise VersionError(f"{new} is served, but {version} cannot be removed: {error}") from error
        steps("removed", version=version, idle=idle)
    return model


def unmanaged_server(url: str, management_url: str | None) -> Server:
    """The server that answers predictions at `url`, with tokens from the environment. ValueError for a bad address.

    Its management API is on the port after, as in TorchServe's defaults, unless another address is given.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"URL is {url!r}, expected where predictions are answered, e.g. http://host:8080")
    if management_url is None:
        if parts.port is None:
            raise ValueError(f"URL is {url!r} without a port: give MANAGEMENT_URL, too, e.g. http://host:8081")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        management_url = f"{parts.scheme}://{host}:{parts.port + 1}"
    management_token, inference_token = (os.environ.get(f"SEEFOOD_{name}_TOKEN") for name in ("MANAGEMENT", "INFERENCE"))
    return Server(management_url.rstrip("/"), url.rstrip("/"), management_token, inference_token)
