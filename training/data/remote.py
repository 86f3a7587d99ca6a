"""Data and models in a versioned S3 bucket: `python -m training.data.remote set s3://bucket/prefix`, then `push` and `pull`.

DVC moves the files; this sees to it that the bucket keeps old versions before anything is written, because DVC's
version-aware remotes (objects under their own names) lose the data of an unversioned bucket, and what a failed push leaves
in .dvc files names no data at all. Credentials come from the environment or ~/.aws, as everywhere, and are never stored here.
"""

import argparse
import configparser
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from scripts.atomic import write_text

NAME = "storage"  # DVC's name for the remote
CONFIG = Path(".dvc/config")
REFUSED = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


def run_dvc(*arguments: str, fresh: bool = False) -> int:
    """Exit status of a dvc command; its output goes to the terminal.

    `fresh` hides DVC's index of what lies in the remote, in which it looks up versions by the data's content alone: after a
    move to another bucket it takes those of the bucket before for its own, and moves nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ({"DVC_SITE_CACHE_DIR": folder} if fresh else {})
        return subprocess.run([str(Path(sys.executable).with_name("dvc")), *arguments], env=environment, check=False).returncode


def read_remote() -> tuple[str, str | None] | None:
    """(url, endpoint) of the remote that is set, None if there is none."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(CONFIG)
    section = f"'remote \"{NAME}\"'"
    return (config[section]["url"], config[section].get("endpointurl")) if section in config else None


def bucket_of(url: str, endpoint: str | None) -> str:
    """The bucket in an address. ValueError unless url and endpoint look as they must, and hold no password."""
    address = urlsplit(url)
    if address.scheme != "s3" or not address.netloc:
        raise ValueError(f"{url!r} is no S3 address, expected s3://bucket or s3://bucket/prefix")
    server = urlsplit(endpoint or "https://aws")
    if server.scheme not in ("http", "https") or not server.hostname:
        raise ValueError(f"{endpoint!r} is no endpoint, expected http://host:port")
    if "@" in address.netloc + server.netloc:
        raise ValueError("credentials belong into the environment or ~/.aws, not into an address: that is committed with the code")
    return address.netloc


def reason_of(error: ClientError, url: str, place: str, key: str) -> str:
    """What an answer of S3 about a bucket, or about a version of `key`, means, and what to do."""
    code, bucket = error.response["Error"]["Code"], urlsplit(url).netloc
    if code in REFUSED:
        return f"these AWS credentials may not use bucket {bucket!r} {place}: {code}"
    if error.operation_name == "HeadObject" and code in ("400", "404"):
        return (
            f"bucket {bucket!r} {place} does not hold the version of {key} that was pushed: it was emptied, or is another than\n"
            f"then, and DVC would push nothing. To upload all: make remote BUCKET={url} [ENDPOINT=url] MOVE=1, then make push"
        )
    if code in ("404", "NoSuchBucket"):
        return f"there is no bucket {bucket!r} {place}; aws s3 mb s3://{bucket} makes one"
    return f"bucket {bucket!r} {place}: {error}"


def check_bucket(url: str, endpoint: str | None, write: bool, versions: Iterable[tuple[str, str]] = ()) -> None:
    """ValueError, with what to do, unless the bucket can be reached with these credentials and has these (key, version).

    To `write`, it must keep versions, too.
    """
    bucket, place, status = bucket_of(url, endpoint), f"at {endpoint}" if endpoint else "on AWS", "not asked"
    key, patience = "", Config(connect_timeout=10, read_timeout=20, retries={"max_attempts": 2})
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=patience)
        client.head_bucket(Bucket=bucket)
        if write:
            status = client.get_bucket_versioning(Bucket=bucket).get("Status", "never switched on")
        for key, version in versions:
            client.head_object(Bucket=bucket, Key=key, VersionId=version)
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        wanted = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise ValueError(f"no AWS credentials: {wanted} ({error})") from error
    except (EndpointConnectionError, ConnectTimeoutError, HTTPClientError) as error:
        raise ValueError(f"S3 {place} cannot be reached: {error}") from error
    except ClientError as error:
        raise ValueError(reason_of(error, url, place, key)) from error
    except BotoCoreError as error:
        raise ValueError(f"bucket {bucket!r} {place}: {error}") from error
    if write and status != "Enabled":
        raise ValueError(
            f"bucket {bucket!r} keeps no old versions (versioning: {status}), and pushing to it would lose them. Switch it on:\n"
            f"  aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
        )


def set_remote(url: str, endpoint: str | None, move: bool = False) -> None:
    """Make `url` this repository's remote. ValueError as check_bucket, or if it is another one than before, without `move`.

    With `move` the versions in the bucket before are forgotten, so that the next push uploads all.
    """
    before = read_remote()
    if before is not None and before[0] != url and not move:
        raise ValueError(
            f"the remote is {before[0]}, and the versions in .dvc files are that bucket's: DVC would push nothing to {url}.\n"
            f"To move there: make pull, then this command with --move (make remote BUCKET={url} MOVE=1), then make push"
        )
    check_bucket(url, endpoint, write=True)
    settings = [("version_aware", "true"), *([("endpointurl", endpoint)] if endpoint else [])]
    if run_dvc("remote", "add", "--quiet", "--force", "--default", NAME, url) or any(
        run_dvc("remote", "modify", "--quiet", NAME, name, value) for name, value in settings
    ):
        raise ValueError("dvc could not set the remote; is this a git repository with a .dvc folder?")
    if move:
        forget_versions(tracking_files())
    print(f"{url} keeps versions, and is the remote now. Commit it: git commit -m 'Remote' {CONFIG}\nNext: make push")


def outs_of(file: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """What DVC tracks by the content of one of its files."""
    stages = content["stages"].values() if file.name == "dvc.lock" else [content]
    return [out for stage in stages for out in stage.get("outs", [])]


def noted_versions(file: Path) -> dict[str, list[tuple[str, str | None]]]:
    """For each path that a file of DVC's tracks: (path, version in the remote) of its files, none if no file is named."""
    noted = {}
    for out in outs_of(file, yaml.safe_load(file.read_text(encoding="utf-8"))):
        path, versions = file.parent / out["path"], []
        for entry in out.get("files", [out]):
            version = entry.get("cloud", {}).get(NAME, {}).get("version_id")
            versions.append(((path / entry.get("relpath", "")).as_posix(), version))
        noted[path.as_posix()] = versions
    return noted


def unversioned(files: list[Path]) -> list[str]:
    """Paths that DVC tracks in these files without naming a version in the remote, or, of a folder, naming no file at all."""
    noted = {path: versions for file in files for path, versions in noted_versions(file).items()}
    return [path for path, versions in noted.items() if not versions or not all(version for _, version in versions)]


def samples(url: str, files: list[Path]) -> list[tuple[str, str]]:
    """(key, version) of one file of each path of which a version in the remote `url` is noted."""
    prefix, found = urlsplit(url).path.strip("/"), []
    for versions in (versions for file in files for versions in noted_versions(file).values()):
        found += [(f"{prefix}/{path}".lstrip("/"), version) for path, version in versions if version][:1]
    return found


def forget_versions(files: list[Path]) -> None:
    """Take the versions in the remote out of DVC's files, as if nothing had been pushed."""
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for out in outs_of(file, content):
            for entry in (out, *out.get("files", [])):
                entry.pop("cloud", None)
        write_text(file, yaml.safe_dump(content, sort_keys=False))


def keep_inputs(lock: Path, before: str) -> None:
    """Of what DVC writes into dvc.lock when it pushes, keep what concerns outputs; else stages ran again, or never again.

    It drops the md5 of folders that are inputs only, and takes commands and inputs from dvc.yaml, even if none was run.
    """
    content, pushed = yaml.safe_load(before), yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    for name, stage in content["stages"].items():
        if "outs" in stage:
            stage["outs"] = pushed[name]["outs"]
    write_text(lock, yaml.safe_dump(content, sort_keys=False))


def tracking_files() -> list[Path]:
    """The files in which DVC notes what is tracked: dvc.lock and all .dvc files."""
    found = [Path("dvc.lock"), *(path for path in Path().rglob("*.dvc") if path.is_file() and not path.parts[0].startswith("."))]
    return sorted(path for path in found if path.is_file())


def push() -> None:
    """Upload what is tracked. ValueError if it fails: what DVC then notes can name no data, or other data, and is put back."""
    (url, endpoint), files = _remote(), tracking_files()
    check_bucket(url, endpoint, write=True, versions=samples(url, files))
    if not files:
        raise ValueError("nothing is tracked yet: make ingest FROM=photos, or make pipeline")
    before, done = {file: file.read_text(encoding="utf-8") for file in files}, False
    try:
        failed, left = run_dvc("push", fresh=True) != 0, unversioned(files)
        done = not failed and not left
    finally:
        if not done:
            for file, text in before.items():
                write_text(file, text)
    if not done:
        why = f"not in this machine's cache: {left} (make pipeline, make pull or dvc commit)" if left else "see dvc's words above"
        raise ValueError(f"the push failed: {why}. What is tracked here has not changed, and make push tries again")
    if Path("dvc.lock") in before:
        keep_inputs(Path("dvc.lock"), before[Path("dvc.lock")])
    names = shlex.join(map(str, files))
    changed = subprocess.run(["git", "status", "--porcelain", "--", *files], capture_output=True, text=True, check=False).stdout
    commit = f"The versions are in DVC's files, so commit them: git add {names} && git commit -m 'Push'"
    print(f"pushed. {commit if changed else 'There is nothing to commit'}")


def pull() -> None:
    """Fetch what this commit names. ValueError if it fails."""
    check_bucket(*_remote(), write=False)
    if run_dvc("fetch", fresh=True) or run_dvc("checkout"):
        raise ValueError("the pull failed, as dvc says above; was this commit pushed?")
    print("pulled. Next: make serve")


def _remote() -> tuple[str, str | None]:
    remote = read_remote()
    if remote is None:
        raise ValueError("no remote is set: make remote BUCKET=s3://bucket/prefix [ENDPOINT=url]")
    return remote


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    setter = commands.add_parser("set", help="make a bucket the remote")
    setter.add_argument("url", help="s3://bucket or s3://bucket/prefix")
    setter.add_argument("--endpoint", help="of an S3 that is not AWS")
    setter.add_argument("--move", action="store_true", help="leave the bucket before, whose versions are then forgotten here")
    commands.add_parser("push", help="upload what is tracked")
    commands.add_parser("pull", help="fetch what this commit names")
    args = parser.parse_args()
    # SIGTERM as Ctrl-C: what DVC noted of an unfinished push is put back on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.command == "set":
            set_remote(args.url.rstrip("/"), args.endpoint, args.move)
        else:
            {"push": push, "pull": pull}[args.command]()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
