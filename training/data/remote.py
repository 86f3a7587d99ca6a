"""Data and models in a versioned S3 bucket: `python -m training.data.remote set s3://bucket/prefix`, then `push` and `pull`.

DVC moves the files. Before anything is written, this checks that the bucket keeps old versions, because DVC's version-aware
remotes (objects under their own names) lose the data of an unversioned bucket. After a failed push it restores DVC's files,
which would otherwise name no data. Credentials come from the environment or ~/.aws, as everywhere, and are never stored here.
"""

import configparser
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import boto3
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
from scripts.command import parser, run
from scripts.errors import SeeFoodError
from training.data.dvc_files import REMOTE, forget_versions, keep_inputs, sample_versions, tracking_files, unversioned

CONFIG = Path(".dvc/config")
# so that a wrong endpoint is reported within a minute, not after botocore's five attempts of 60 s each
TIME_LIMITS = Config(connect_timeout=10, read_timeout=20, retries={"max_attempts": 2})
# "403" and "404" are codes, too: the answer to a HEAD request has no body, hence no other code than its status
DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}


class RemoteError(SeeFoodError):
    """A bucket that cannot be used, or a transfer that failed."""


def run_dvc(*arguments: str, fresh: bool = False) -> int:
    """Exit status of a dvc command; its output goes to the terminal.

    `fresh` hides DVC's index of what lies in the remote. In it, DVC looks up versions by the data's content alone: after a
    move to another bucket it would take the old bucket's versions for the new one's, and upload nothing.
    """
    # the dvc beside this Python: PATH may name another one, or none
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ({"DVC_SITE_CACHE_DIR": folder} if fresh else {})
        return subprocess.run([str(Path(sys.executable).with_name("dvc")), *arguments], env=environment, check=False).returncode


def read_remote() -> tuple[str, str | None] | None:
    """(url, endpoint) of the remote that is set, None if there is none. RemoteError if DVC's configuration is damaged."""
    config = configparser.ConfigParser(interpolation=None)  # a % in an address is not a reference
    try:
        config.read(CONFIG, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise RemoteError(f"{CONFIG} cannot be read ({reason}): resolve its conflicts, or git checkout HEAD -- {CONFIG}") from error
    # DVC writes both kinds of quotes: ['remote "storage"']
    section = f"'remote \"{REMOTE}\"'"
    if section in config and "url" not in config[section]:
        raise RemoteError(
            f"{CONFIG} names a remote {REMOTE!r} without a url: git checkout HEAD -- {CONFIG}, or dvc remote remove {REMOTE}"
        )
    return (config[section]["url"], config[section].get("endpointurl")) if section in config else None


def required_remote() -> tuple[str, str | None]:
    """(url, endpoint) of the remote. RemoteError if none is set."""
    remote = read_remote()
    if remote is None:
        raise RemoteError("no remote is set: make remote BUCKET=s3://bucket/prefix [ENDPOINT=url]")
    return remote


def bucket_of(url: str, endpoint: str | None) -> str:
    """The bucket in an address. ValueError unless url and endpoint are well-formed and without a password."""
    address = urlsplit(url)
    if address.scheme != "s3" or not address.netloc:
        raise ValueError(f"{url!r} is not an S3 address, expected s3://bucket or s3://bucket/prefix")
    server = urlsplit(endpoint or "https://aws")
    if server.scheme not in ("http", "https") or not server.hostname:
        raise ValueError(f"{endpoint!r} is not an endpoint, expected http://host:port")
    if "@" in address.netloc + server.netloc:
        raise ValueError("credentials belong in the environment or ~/.aws, not in an address, which is committed with the code")
    return address.netloc


def explain(error: ClientError, url: str, place: str, key: str) -> str:
    """What an error of S3 about a bucket, or about a version of `key`, means, and what to do."""
    code, bucket = error.response["Error"]["Code"], urlsplit(url).netloc
    if code in DENIED:
        return f"these AWS credentials may not use bucket {bucket!r} {place}: {code}"
    if error.operation_name == "HeadObject" and code in ("400", "404"):
        return (
            f"bucket {bucket!r} {place} does not hold the version of {key} that was pushed: it was emptied, or is a different\n"
            f"bucket, and DVC would push nothing. To upload all: make remote BUCKET={url} [ENDPOINT=url] MOVE=1, then make push"
        )
    if code == "400":  # S3's answer to a HEAD request is without a body, so without a reason
        return f"bucket {bucket!r} {place} refuses the request: most often AWS credentials that have expired, or another region"
    if code in ("404", "NoSuchBucket"):
        return f"there is no bucket {bucket!r} {place}: create it with aws s3 mb s3://{bucket}"
    return f"bucket {bucket!r} {place}: {error}"


def check_bucket(url: str, endpoint: str | None, write: bool, versions: Iterable[tuple[str, str]] = ()) -> None:
    """RemoteError, with what to do, unless the bucket can be reached with these credentials and has these (key, version).

    To `write`, its versioning must be on, too. ValueError as bucket_of.
    """
    bucket, place = bucket_of(url, endpoint), f"at {endpoint}" if endpoint else "on AWS"
    key, versioning = "", "unknown"
    try:
        client = boto3.client("s3", endpoint_url=endpoint, config=TIME_LIMITS)
        client.head_bucket(Bucket=bucket)
        if write:
            versioning = client.get_bucket_versioning(Bucket=bucket).get("Status", "never switched on")
        for key, version in versions:
            client.head_object(Bucket=bucket, Key=key, VersionId=version)
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise RemoteError(f"no AWS credentials: {remedy} ({error})") from error
    except (EndpointConnectionError, ConnectTimeoutError, HTTPClientError) as error:
        raise RemoteError(f"S3 {place} cannot be reached: {error}") from error
    except ClientError as error:
        raise RemoteError(explain(error, url, place, key)) from error
    except BotoCoreError as error:
        raise RemoteError(f"bucket {bucket!r} {place}: {error}") from error
    if write and versioning != "Enabled":
        raise RemoteError(
            f"bucket {bucket!r} keeps no old versions (versioning: {versioning}), and a push would overwrite them. Enable it:\n"
            f"  aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
        )


def set_remote(url: str, endpoint: str | None, move: bool = False) -> None:
    """Make `url` this repository's remote. RemoteError as check_bucket, or if another one is set and `move` is false.

    With `move`, the versions in the old bucket are forgotten, so that the next push uploads everything.
    """
    before = read_remote()
    if before is not None and before[0] != url and not move:
        raise RemoteError(
            f"the remote is {before[0]}, and .dvc files name versions in that bucket: DVC would push nothing to {url}.\n"
            f"To move there: make pull, then this command with --move (make remote BUCKET={url} MOVE=1), then make push"
        )
    if not CONFIG.parent.is_dir():
        raise RemoteError(
            f"there is no folder {CONFIG.parent} here, so this is no checkout of the project: git clone it, or dvc init"
        )
    check_bucket(url, endpoint, write=True)
    settings = {"version_aware": "true"}
    if endpoint:
        settings["endpointurl"] = endpoint
    # --force: the same remote may be set again, with another endpoint
    failed = run_dvc("remote", "add", "--quiet", "--force", "--default", REMOTE, url) or any(
        run_dvc("remote", "modify", "--quiet", REMOTE, name, value) for name, value in settings.items()
    )
    if failed:
        raise RemoteError("dvc could not set the remote; is this a git repository with a .dvc folder?")
    if move:
        forget_versions(tracking_files())
    print(f"{url} keeps versions and is the remote now. Commit it: git commit -m 'Remote' {CONFIG}\nNext: make push")


def push() -> None:
    """Upload what is tracked. RemoteError if it fails; DVC's files are then as they were before."""
    (url, endpoint), files = required_remote(), tracking_files()
    check_bucket(url, endpoint, write=True, versions=sample_versions(url, files))
    if not files:
        raise RemoteError("nothing is tracked yet: make ingest FROM=photos, or make pipeline")
    before = {file: file.read_text(encoding="utf-8") for file in files}
    upload(before)
    lock = Path("dvc.lock")
    if lock in before:
        keep_inputs(lock, before[lock])
    changed = subprocess.run(["git", "status", "--porcelain", "--", *files], capture_output=True, text=True, check=False).stdout
    if changed:
        names = shlex.join(map(str, files))
        print(f"pushed. DVC's files name the versions, so commit them: git add {names} && git commit -m 'Push'")
    else:
        print("pushed. There is nothing to commit")


def upload(before: dict[Path, str]) -> None:
    """`dvc push`. RemoteError if it fails; then, and if interrupted, DVC's files have the text that they had `before`."""
    done = False
    try:
        failed = run_dvc("push", fresh=True) != 0
        left = unversioned(list(before))
        done = not failed and not left
    finally:
        # what a failed push leaves in them names no data, or other data, and would be committed with the next change
        if not done:
            for file, text in before.items():
                write_text(file, text)
    if left:
        raise _push_error(f"not in this machine's cache: {left} (make pipeline, make pull or dvc commit)")
    if failed:
        raise _push_error("see dvc's output above")


def _push_error(reason: str) -> RemoteError:
    return RemoteError(f"the push failed: {reason}. Nothing tracked here has changed: make push retries")


def pull() -> None:
    """Fetch the data and models of this commit. RemoteError if it fails."""
    # versioning may be off by now: reading loses nothing
    check_bucket(*required_remote(), write=False)
    if run_dvc("fetch", fresh=True) or run_dvc("checkout"):
        raise RemoteError("the pull failed, see dvc's output above; was this commit pushed?")
    print("pulled. Next: make serve")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    commands = arguments.add_subparsers(dest="command", required=True)
    setter = commands.add_parser("set", help="make a bucket the remote")
    setter.add_argument("url", help="s3://bucket or s3://bucket/prefix")
    setter.add_argument("--endpoint", help="address of an S3 server other than AWS")
    setter.add_argument("--move", action="store_true", help="replace another remote; the next push uploads everything")
    commands.add_parser("push", help="upload what is tracked")
    commands.add_parser("pull", help="fetch the data and models of this commit")
    args = arguments.parse_args()
    if args.command == "set":
        set_remote(args.url.rstrip("/"), args.endpoint, args.move)
    elif args.command == "push":
        push()
    else:
        pull()


if __name__ == "__main__":
    sys.exit(run(main, "the same command goes on"))
