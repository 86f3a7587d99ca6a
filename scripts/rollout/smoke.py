"""Check that a deployed server answers correctly: `python -m scripts.rollout.smoke https://food.example.com --release s3://b/release.json`.

Waits until it answers at all, then sends it every golden photo of each released model's archive, as its users would: through
the load balancer, over HTTPS, at /predictions/MODEL. The answers must be correct, and that version's. While a canary is out
either version may answer there, so each is asked under its own number. These requests count in the metrics, as any client's do.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from scripts.backend.torchserve.management import Server
from scripts.backend.torchserve.versions import Golden, UnansweredError, VersionError, read_golden
from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.release.address import open_store
from scripts.release.document import ReleaseError, parse, releases_of
from scripts.release.fetch import fetch
from scripts.release.store import Store
from scripts.settings import Settings
from scripts.steps import Steps

RETRY_S = 1.0  # between two requests to a server that does not answer yet


class SmokeError(SeeFoodError):
    """The server does not answer, or not correctly; the message names the server and says why."""


def deployed_server(url: str) -> Server:
    """The server, as a client outside sees it. ValueError unless its address is one of HTTPS, or on this machine."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if not parts.hostname or parts.path.strip("/") or not (parts.scheme == "https" or local):
        raise ValueError(f"URL is {url!r}, expected the server's address, e.g. https://food.example.com")
    # the proxy and the certificates of the environment, as its users have them
    return Server("", url.rstrip("/"), client=httpx.Client())


class Expected(NamedTuple):
    """A version to check, the path below /predictions at which it must answer, and its golden photos."""

    model: str
    version: str
    path: str
    golden: Golden


def expected(store: Store, folder: Path, settings: Settings, steps: Steps) -> list[Expected]:
    """The default version of each model, and its canary.

    ReleaseError, StoreError, VersionError; ValueError for an archive that the document does not describe.
    """
    try:
        present = store.read()
    except FileNotFoundError:
        raise ReleaseError(f"there is no release document at {store.address}") from None
    assert present is not None
    found = []
    for model, release in releases_of(parse(present[0])).items():
        paths = {release["default"]: model}
        if "canary" in release:
            paths = {version: f"{model}/{version}" for version in (release["default"], release["canary"]["version"])}
        # of an archive that is not ours there is nothing to check
        for version, path in ((one, path) for one, path in paths.items() if not release["versions"][one].get("unverified")):
            archive = fetch(store, folder, version, release["versions"][version], settings, steps)
            found.append(Expected(model, version, path, read_golden(archive)))
    return found


def smoke(server: Server, versions: Sequence[Expected], wait_s: float, settings: Settings, steps: Steps) -> None:
    """Check all answers. UnansweredError if the server does not begin to answer in time, VersionError for a wrong answer."""
    deadline = time.monotonic() + wait_s
    for model, version, path, golden in versions:
        # a task's program cannot be seen from outside: any may answer; at its start each was checked by its own answers
        for i, name in enumerate(golden.names):
            while True:
                try:
                    golden.check(server, path, version, i, settings.golden_timeout_s)
                    break
                except UnansweredError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(RETRY_S)
            deadline = 0.0  # it is ready: from now on each request must be answered
            steps("correct", model=model, version=version, photo=name)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("url", help="the server's address, e.g. https://food.example.com")
    arguments.add_argument("--release", help="path or s3://bucket/key; default: SEEFOOD_RELEASE, else model_store/release.json")
    arguments.add_argument("--wait", type=float, default=120.0, metavar="SECONDS", help="until it answers at all (default: 120)")
    return arguments.parse_args()


def main() -> None:
    """Command line; see the module's docstring."""
    args, settings = _arguments(), Settings.from_environment()
    steps, server = Steps(settings.log_json), deployed_server(args.url)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(args.release or settings.release or str(ROOT / "model_store" / "release.json"), settings)
        versions = expected(store, Path(folder), settings, steps)
    try:
        smoke(server, versions, args.wait, settings, steps)
    except VersionError as error:
        raise SmokeError(f"{args.url}: {error}") from error
    photos = sum(len(one.golden.names) for one in versions)
    several = len({one.model for one in versions}) > 1
    names = [f"{one.model} {one.version}" if several else one.version for one in versions]
    message = f"{args.url} answers {counted(photos, 'golden photo')} of {' and '.join(names)} correctly"
    steps.say(message, "done", url=args.url, versions=names, photos=photos)


if __name__ == "__main__":
    sys.exit(run(main))
