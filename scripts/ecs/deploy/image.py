"""The image that a deployment runs: its tag, and building and pushing it. A tag that the registry has is never pushed again."""

import base64
import subprocess

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.preflight.resolve.wiring import instance_types
from scripts.ecs.progress import log
from scripts.ecs.stacks import Build, Deployment, DeploymentError, read_template
from scripts.errors import SeeFoodError
from scripts.paths import ROOT

LOCAL = "seefood"  # the name that `make image` gives the image; the registry has its own
DOCKER_HINT = "is docker installed?"


class ImageError(SeeFoodError):
    """There is no image to deploy; the message says why and what to do."""


def build_of(deployment: Deployment) -> Build:
    """How a deployment's image is built. DeploymentError if its instances could not run it, before anything is built."""
    build = deployment.build
    default = read_template("cluster")["Parameters"]["InstanceType"]["Default"]
    # preflight asks for a type that it knows; what it does not know may be right
    found = instance_types().get(deployment.parameters.get("InstanceType", default))
    if found and found.architecture.upper() != build.architecture:
        raise DeploymentError(
            f"InstanceType {found.name} is {found.architecture.upper()}, but Architecture is {build.architecture}: set it "
            f"in deployments/{deployment.name}.yaml, and AmiParameter to an AMI for it"
        )
    if found and build.torch.startswith("cu") and not found.gpus:
        raise DeploymentError(f"TORCH is {build.torch}, but InstanceType {found.name} has no GPU: choose one that has, or Gpu: no")
    return build


def commit_tag() -> str:
    """The short hash of the commit that is checked out. ImageError if files differ from it."""
    changed = _run(["git", "status", "--porcelain"], "is git installed?")
    if changed:
        raise ImageError(
            f"these files differ from the commit, so its hash cannot name the image:\n{changed}\n"
            "Commit them, or choose a name for the image: IMAGE=TAG (--image TAG)"
        )
    return _run(["git", "rev-parse", "--short=12", "HEAD"], "is git installed?")


def ensure_pushed(aws: Aws, repository: str, tag: str, build: Build) -> str:
    """The image's full name, once the registry has it; builds and pushes it only if the tag is missing. ImageError, AwsError.

    `repository` is its URI.
    """
    host, _, name = repository.partition("/")
    image = f"{repository}:{tag}"
    if _has_tag(aws, name, tag):
        log(f"image {tag} is in the registry: not built or pushed again")
        return image
    log(f"image {tag} is not in the registry: building it from this folder, then pushing it")
    built = f"{LOCAL}:{tag}"
    options = [f"TAG={tag}", f"TORCH={build.torch}", f"PLATFORM={build.platform}"]
    _run(["make", "--no-print-directory", "image", *options], "is make installed?", shown=True)
    machine = _run(["docker", "image", "inspect", "--format", "{{.Architecture}}", built], DOCKER_HINT)
    if f"linux/{machine}" != build.platform:
        # tags are immutable: a wrong image would occupy this one for good
        raise ImageError(
            f"the image is built for {machine}, but Architecture is {build.architecture} ({build.platform}): build it on a machine "
            "of that architecture, or change Architecture together with InstanceType and AmiParameter"
        )
    _log_in(aws, host)
    _run(["docker", "tag", built, image], DOCKER_HINT)
    _run(["docker", "push", image], DOCKER_HINT, shown=True)
    return image


def _has_tag(aws: Aws, name: str, tag: str) -> bool:
    try:
        aws.call("ecr", "describe_images", repositoryName=name, imageIds=[{"imageTag": tag}])
    except AwsError as error:
        if error.code != "ImageNotFoundException":
            raise
        return False
    return True


def _log_in(aws: Aws, host: str) -> None:
    """Let docker push for some hours. The password goes to docker's standard input, never to a command line or a log."""
    token = aws.call("ecr", "get_authorization_token")["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    _run(["docker", "login", "--username", user, "--password-stdin", host], DOCKER_HINT, stdin=password)


def _run(command: list[str], hint: str, stdin: str | None = None, shown: bool = False) -> str:
    """What a command prints. ImageError with its output if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=not shown, text=True, check=False)
    except FileNotFoundError as error:
        raise ImageError(
            f"cannot run {command[0]} ({hint}); or deploy an image that is in the registry: IMAGE=TAG (--image TAG)"
        ) from error
    if done.returncode != 0:
        output = "; see its output above" if shown else f": {(done.stdout + done.stderr).strip()}"
        raise ImageError(f"`{' '.join(command)}` failed with status {done.returncode}{output}")
    return done.stdout.strip() if done.stdout else ""
