"""The image that a deployment runs: its tag, and how it comes into the registry. A tag that is there is never pushed again."""

import base64
import subprocess

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import say
from scripts.paths import ROOT

MACHINES = {"X86_64": "amd64", "ARM64": "arm64"}


class ImageError(RuntimeError):
    """There is no image to deploy; the message says why and what to do."""


def commit_tag() -> str:
    """The short hash of the commit that is checked out. ImageError if the files are not those of a commit."""
    changed = _run(["git", "status", "--porcelain"], "is git installed?")
    if changed:
        raise ImageError(
            f"these files are not as committed, so no commit would name the image:\n{changed}\n"
            "Commit them, or give the image a name of your own: --image TAG"
        )
    return _run(["git", "rev-parse", "--short=12", "HEAD"], "is git installed?")


def ensure_pushed(aws: Aws, repository: str, tag: str, architecture: str) -> str:
    """The image's full name, once it is in the registry: nothing is built or pushed if it is. ImageError, AwsError.

    `repository` is its URI; `architecture` is the parameter, X86_64 or ARM64.
    """
    host, _, name = repository.partition("/")
    image = f"{repository}:{tag}"
    if _is_there(aws, name, tag):
        say(f"image {tag} is in the registry: nothing is built or pushed")
        return image
    say(f"image {tag} is not in the registry: it is built from this folder, and pushed")
    built = f"seefood:{tag}"
    _run(["make", "--no-print-directory", "image", f"TAG={tag}"], "is make installed?", shown=True)
    machine = _run(["docker", "image", "inspect", "--format", "{{.Architecture}}", built], "is docker installed?")
    if machine != MACHINES[architecture]:
        # a tag can never be pushed again, so a wrong one must not be
        raise ImageError(
            f"the image is built for {machine}, and Architecture is {architecture}: build it on such a machine, "
            "or choose the other Architecture with an InstanceType and AmiParameter of its kind"
        )
    _log_in(aws, host)
    _run(["docker", "tag", built, image], "is docker installed?")
    _run(["docker", "push", image], "is docker installed?", shown=True)
    return image


def _is_there(aws: Aws, name: str, tag: str) -> bool:
    try:
        aws.call("ecr", "describe_images", repositoryName=name, imageIds=[{"imageTag": tag}])
    except AwsError as error:
        if error.code != "ImageNotFoundException":
            raise
        return False
    return True


def _log_in(aws: Aws, host: str) -> None:
    """Docker may push for the next hours. The password goes to docker's standard input, never to a command line or a log."""
    token = aws.call("ecr", "get_authorization_token")["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    _run(["docker", "login", "--username", user, "--password-stdin", host], "is docker installed?", given=password)


def _run(command: list[str], hint: str, given: str | None = None, shown: bool = False) -> str:
    """What a command prints. ImageError with its last words if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, input=given, capture_output=not shown, text=True, check=False)
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} cannot be run ({hint}); or deploy an image that is in the registry: --image TAG") from error
    if done.returncode != 0:
        words = "; its words stand above" if shown else f": {(done.stdout + done.stderr).strip()}"
        raise ImageError(f"`{' '.join(command)}` failed with status {done.returncode}{words}")
    return done.stdout.strip() if done.stdout else ""
