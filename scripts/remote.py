"""Data and models in a versioned S3 bucket: `python scripts/remote.py set s3://bucket/prefix`, then `push` and `pull`.

DVC moves the files; this sees to it that the bucket keeps old versions before anything is written, because DVC's
version-aware remotes (objects under their own names) lose the data of an unversioned bucket, and what a failed push leaves
in .dvc files names no data at all. Credentials come from the environment or ~/.aws, as everywhere, and are never stored here.
"""

import argparse
import configparser
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

NAME = "storage"  # DVC's name for the remote
CONFIG = Path(".dvc/config")
REFUSED = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


def run_dvc(*arguments: str) -> int:
    """Exit status of a dvc command; its output goes to the terminal."""
    return subprocess.run([str(Path(sys.executable).with_name("dvc")), *arguments], check=False).returncode


def read_remote() -> tuple[str, str | None] | None:
    """(url, endpoint) of the remote that is set, None if there is none."""
    config = configparser.ConfigParser()
    config.read(CONFIG)
    section = f"'remote \"{NAME}\"'"
    return (config[section]["url"], config[section].get("endpointurl")) if section in config else None


def check_bucket(url: str, endpoint: str | None) -> None:
    """ValueError, with what to do, unless the bucket can be reached with these credentials and keeps versions."""
    address = urlsplit(url)
    if address.scheme != "s3" or not address.netloc:
        raise ValueError(f"{url!r} is no S3 address, expected s3://bucket or s3://bucket/prefix")
    bucket, place = address.netloc, f"at {endpoint}" if endpoint else "on AWS"
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(connect_timeout=10, retries={"max_attempts": 2}))
    try:
        client.head_bucket(Bucket=bucket)
        status = client.get_bucket_versioning(Bucket=bucket).get("Status", "never switched on")
    except NoCredentialsError as error:
        raise ValueError("no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE") from error
    except EndpointConnectionError as error:
        raise ValueError(f"S3 {place} cannot be reached: {error}") from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSED:
            raise ValueError(f"these AWS credentials may not use bucket {bucket!r} {place}: {code}") from error
        if code in ("404", "NoSuchBucket"):
            raise ValueError(f"there is no bucket {bucket!r} {place}; aws s3 mb s3://{bucket} makes one") from error
        raise ValueError(f"bucket {bucket!r} {place}: {error}") from error
    except BotoCoreError as error:
        raise ValueError(f"bucket {bucket!r} {place}: {error}") from error
    if status != "Enabled":
        raise ValueError(
            f"bucket {bucket!r} keeps no old versions (versioning: {status}), and pushing to it would lose them. Switch it on:\n"
            f"  aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
        )


def set_remote(url: str, endpoint: str | None, move: bool = False) -> None:
    """Make `url` this repository's remote. ValueError as check_bucket, or if it is another one than before, without `move`."""
    before = read_remote()
    if before is not None and before[0] != url and not move:
        raise ValueError(
            f"the remote is {before[0]}, and the versions in .dvc files are that bucket's: DVC would push nothing to {url}.\n"
            f"To move there: make pull, then this command with --move (make remote BUCKET={url} MOVE=1), then make push"
        )
    check_bucket(url, endpoint)
    settings = [("version_aware", "true"), *([("endpointurl", endpoint)] if endpoint else [])]
    if run_dvc("remote", "add", "--quiet", "--force", "--default", NAME, url) or any(
        run_dvc("remote", "modify", "--quiet", NAME, name, value) for name, value in settings
    ):
        raise ValueError("dvc could not set the remote; is this a git repository with a .dvc folder?")
    if before is not None and before[0] != url:
        forget_versions(tracking_files())
    print(f"{url} keeps versions, and is the remote now. Commit it: git commit -m 'Remote' {CONFIG}\nNext: make push")


def unversioned(files: list[Path]) -> list[str]:
    """Paths that DVC tracks in these files without naming a version in the remote, or, of a folder, naming no file at all."""
    found = []
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        stages = content["stages"].values() if file.name == "dvc.lock" else [content]
        for out in (out for stage in stages for out in stage.get("outs", []) if out.get("cache", True)):
            entries = out.get("files", [out])
            if not entries or not all("version_id" in entry.get("cloud", {}).get(NAME, {}) for entry in entries):
                found.append(str(out["path"]))
    return found


def forget_versions(files: list[Path]) -> None:
    """Take the versions in the remote out of DVC's files, as if nothing had been pushed. A listed folder gets its md5 back."""
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        stages = content["stages"].values() if file.name == "dvc.lock" else [content]
        for out in (out for stage in stages for out in stage.get("outs", [])):
            out.pop("cloud", None)
            for entry in out.get("files", []):
                entry.pop("cloud", None)
        write_whole(file, yaml.safe_dump(content, sort_keys=False))


def restore_inputs(lock: Path, before: str) -> None:
    """Give folders that are inputs only their md5 back, which DVC drops when it pushes, and without which stages run again."""
    old, new = yaml.safe_load(before)["stages"], yaml.safe_load(lock.read_text(encoding="utf-8"))
    for name, stage in new["stages"].items():
        known = {dep["path"]: dep for dep in old[name].get("deps", [])}
        stage["deps"] = [dep if "md5" in dep or dep.get("files") else known[dep["path"]] for dep in stage.get("deps", [])]
    write_whole(lock, yaml.safe_dump(new, sort_keys=False))


def write_whole(path: Path, text: str) -> None:
    """Write a file aside, then rename."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def tracking_files() -> list[Path]:
    """The files in which DVC notes what is tracked: dvc.lock and all .dvc files."""
    found = [Path("dvc.lock"), *(path for path in Path().rglob("*.dvc") if path.is_file() and not path.parts[0].startswith("."))]
    return sorted(path for path in found if path.is_file())


def push() -> None:
    """Upload what is tracked. ValueError if it fails: the notes in .dvc files are then put back as they were."""
    check_bucket(*_remote())
    files = tracking_files()
    if not files:
        raise ValueError("nothing is tracked yet: make ingest FROM=photos, or make pipeline")
    before = {file: file.read_text(encoding="utf-8") for file in files}
    failed = run_dvc("push") != 0
    left = unversioned(files)
    if failed or left:
        for file, text in before.items():
            write_whole(file, text)
        what = f"not in this machine's cache: {left} (make pull or dvc commit)." if left else "see dvc's words above."
        raise ValueError(f"the push failed: {what} What is tracked here has not changed, and make push tries again")
    if Path("dvc.lock") in before:
        restore_inputs(Path("dvc.lock"), before[Path("dvc.lock")])
    print(f"pushed. The versions are in these files, so commit them: git commit -m 'Push' {' '.join(map(str, files))}")


def pull() -> None:
    """Fetch what this commit names. ValueError if it fails."""
    check_bucket(*_remote())
    if run_dvc("pull"):
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
    try:
        if args.command == "set":
            set_remote(args.url.rstrip("/"), args.endpoint, args.move)
        else:
            {"push": push, "pull": pull}[args.command]()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
