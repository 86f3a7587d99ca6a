"""Whether a deployed service answers rightly: `python -m scripts.rollout.smoke https://food.example.com --release s3://b/release.json`.

Waits until it answers at all, then asks it every golden photo of the released version's archive, as its users ask: through
the load balancer, over HTTPS, at /predictions/seefood. The answers must be right, and that version's. While a canary is out,
which version answers there is a matter of chance: each is then asked under its own number. Its requests count for no figure.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from scripts.archive.build import MODEL
from scripts.backend.torchserve.management import Server
from scripts.backend.torchserve.versions import Golden, UnansweredError, VersionError, read_golden
from scripts.release.document import ReleaseError, parse
from scripts.release.fetch import fetch
from scripts.release.store import Store, StoreError, open_store
from scripts.settings import Settings
from scripts.steps import Steps

RETRY_S = 1.0


def service_at(url: str) -> Server:
    """The service, as a client outside sees it. ValueError unless the address is one of HTTPS, or this machine's."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if not parts.hostname or parts.path.strip("/") or not (parts.scheme == "https" or local):
        raise ValueError(f"URL is {url!r}, expected the service's address, e.g. https://food.example.com")
    return Server("", url.rstrip("/"), client=httpx.Client())


def expected(store: Store, folder: Path, settings: Settings, steps: Steps) -> dict[str, tuple[str, Golden]]:
    """The golden photos of each version that is asked, and the path that it must answer at.

    ReleaseError, StoreError, VersionError; ValueError for an archive that is not what the document says.
    """
    try:
        found = store.read()
    except FileNotFoundError:
        raise ReleaseError(f"there is no release document at {store.address}") from None
    assert found is not None
    document = parse(found[0])
    paths = {document["default"]: MODEL}
    if "canary" in document:
        paths = {version: f"{MODEL}/{version}" for version in (document["default"], document["canary"]["version"])}
    archives = {version: fetch(store, folder, version, document["versions"][version], settings, steps) for version in paths}
    return {version: (path, read_golden(archives[version])) for version, path in paths.items()}


def smoke(server: Server, versions: dict[str, tuple[str, Golden]], wait_s: float, settings: Settings, steps: Steps) -> None:
    """Ask it all. UnansweredError if it does not begin to answer in time, VersionError for a wrong answer."""
    deadline = time.monotonic() + wait_s
    for version, (path, golden) in versions.items():
        # which precision a task serves in cannot be told from outside, and its task has proved itself in that one
        precision = max(golden.tolerance, key=lambda name: golden.tolerance[name])
        for i, name in enumerate(golden.names):
            while True:
                try:
                    golden.ask(server, path, version, i, precision, settings.golden_timeout_s)
                    break
                except UnansweredError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(RETRY_S)
            deadline = 0.0  # it is ready: from now on each request must be answered
            steps("right", version=version, photo=name)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the service's address, e.g. https://food.example.com")
    parser.add_argument("--release", default="model_store/release.json", help="the release document: a path or s3://bucket/key")
    parser.add_argument("--wait", type=float, default=120.0, metavar="SECONDS", help="until it answers at all (default: 120)")
    args = parser.parse_args()
    try:
        settings = Settings.from_environment()
        steps, server = Steps(settings.log_json), service_at(args.url)
        with tempfile.TemporaryDirectory() as folder:
            versions = expected(open_store(args.release), Path(folder), settings, steps)
        smoke(server, versions, args.wait, settings, steps)
    except (ReleaseError, StoreError, VersionError, ValueError, OSError) as error:
        print(f"error: {args.url}: {error}", file=sys.stderr)
        return 1
    photos = sum(len(golden.names) for _, golden in versions.values())
    print(f"{args.url} answers all {photos} golden photos of {' and '.join(versions)} rightly")
    return 0


if __name__ == "__main__":
    sys.exit(main())
