"""Create or update a deployment: `python -m scripts.ecs.deploy.deploy seefood`, its stacks in order, each change set shown first.

The image is built and pushed only if its tag is not in the registry, the first release is written only if there is none, and
the service keeps the number of tasks that it runs. The service's deployment is watched until what was asked for is served;
a rollback, or the end of the time limit, is a failure that says why. AWS works on by itself after Ctrl-C: the same command
again waits for it, and `make doctor` explains what it sees.
"""

import argparse
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.archive.build import archive_version, choose_archive
from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.deploy.changes import DONE, discard, execute, propose, refuse_losses, table, usable
from scripts.ecs.deploy.image import ImageError, commit_tag, ensure_pushed
from scripts.ecs.deploy.watch import DeployError, Watch
from scripts.ecs.progress import AnswerError, Limit, say
from scripts.ecs.stack import WAITING, LimitError, StackError, find
from scripts.ecs.stacks import ORDER, TEMPLATE_FOLDER, Deployment, DeploymentError, read_template
from scripts.paths import ROOT
from scripts.release.document import entry_of, make, write
from scripts.release.store import ChangedError, StoreError, open_store

GIVEN = ("Image",)  # parameters that this command itself gives
LIMIT_S, UNTOUCHED_S = 1800.0, 300.0


def complete_templates(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The templates. DeploymentError, before anything is changed, if a parameter of any stack will have no value."""
    templates = {kind: read_template(kind) for kind in ORDER}
    known = dict.fromkeys(GIVEN, "")
    for template in templates.values():
        deployment.values(template, known)
        known |= dict.fromkeys(template.get("Outputs", {}), "")
    return templates


def deploy(aws: Aws, deployment: Deployment, args: argparse.Namespace, limit: Limit) -> None:
    """Make it so. StackError, DeployError, ImageError, StoreError, AnswerError, AwsError, ValueError."""
    templates = complete_templates(deployment)
    pinned = "" if args.image else deployment.parameters.get("Image", "")
    # asked before anything is changed: a dirty tree should not be noticed between two stacks
    tag = (args.image or pinned or commit_tag()) if args.only in (None, "service") else ""
    outputs: dict[str, str] = {}
    for kind in ORDER:
        if args.only in (None, kind):
            image = pinned or f"{outputs.get('RepositoryUri')}:{tag}"
            given = outputs | ({"Image": image} if kind == "service" else {})
            outputs |= apply(aws, deployment, kind, deployment.values(templates[kind], given), outputs, args, limit)
        else:
            outputs |= outputs_of(aws, deployment, kind)
        if kind == args.only:
            return
        if kind == "storage" and tag:
            if not pinned:
                default = templates["service"]["Parameters"]["Architecture"]["Default"]
                ensure_pushed(aws, outputs["RepositoryUri"], tag, deployment.parameters.get("Architecture", default))
            first_release(f"s3://{outputs['BucketName']}/release.json", args.model_store)


def outputs_of(aws: Aws, deployment: Deployment, kind: str) -> dict[str, str]:
    """What a stack puts out that is left as it is. StackError if it is not there, AwsError."""
    stack = find(aws, deployment.stack(kind))
    if stack is None or not stack.status.endswith("_COMPLETE") or stack.status in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        state = "not there" if stack is None else stack.status
        raise StackError(
            f"the stack {deployment.stack(kind)} is {state}: make deploy STACK={deployment.name} without ONLY makes it"
        )
    return stack.outputs


def apply(
    aws: Aws,
    deployment: Deployment,
    kind: str,
    values: dict[str, str],
    earlier: Mapping[str, str],
    args: argparse.Namespace,
    limit: Limit,
) -> dict[str, str]:
    """What a stack puts out, once it is as its template says. StackError, DeployError, AnswerError, AwsError.

    `earlier` is what the stacks before it put out.
    """
    name = deployment.stack(kind)
    found = usable(aws, name, limit, args.yes)
    watch = Watch(aws, deployment.name) if kind == "service" else None
    if watch is not None:
        values = keep_count(values, watch.desired)
    # who deploys a service needs no right of their own to what is in its stack
    role = earlier["ServiceStackRoleArn"] if kind == "service" else None
    text = (TEMPLATE_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8")
    proposed = propose(aws, name, found, text, values, limit, earlier.get("BucketName"), role)
    if proposed is None:
        say(f"{name}: nothing to change")
        stack = found
    else:
        new = proposed.stack.status == WAITING
        print(f"{name} would be {'created' if new else 'updated'}:\n{table(proposed.changes)}", flush=True)
        try:
            refuse_losses(proposed, args.replace)
            limit.ask(f"Change {name} so? [y/n]", args.yes)
        except BaseException:
            discard(aws, proposed)
            raise
        try:
            stack, failed = execute(aws, proposed, limit, watch.look if watch else lambda events: "")
        except LimitError as error:
            raise DeployError(f"{error}\n{watch.diagnosis()}" if watch else str(error)) from error
        if stack.status not in DONE:
            reasons = "\n".join(failed) or stack.why or "CloudFormation gives no reason"
            raise DeployError(f"{name} is {stack.status}:\n{reasons}" + (f"\n{watch.diagnosis()}" if watch else ""))
    if watch is not None:
        # what was not touched does not get well by waiting
        say(watch.settle(limit if proposed else Limit(min(UNTOUCHED_S, limit.left_s))))
    return stack.outputs if stack else {}


def keep_count(values: dict[str, str], running: int | None) -> dict[str, str]:
    """The parameters with the number of tasks that the service runs now: a deploy must not undo autoscaling."""
    if running is None:
        return values
    least, most = int(values["MinTasks"]), int(values["MaxTasks"])
    count = min(max(running, least), most)
    if count != running:
        say(f"the service runs {running} tasks, and MinTasks to MaxTasks is {least} to {most}: {count} are asked for")
    return values | {"DesiredCount": str(count)}


def first_release(address: str, model_store: Path) -> None:
    """See that tasks find a release document: where there is none, the newest archive is released. ValueError, StoreError."""
    store = open_store(address)
    try:
        store.read()
    except FileNotFoundError:
        try:
            archive = choose_archive(model_store, None)
        except ValueError as error:
            raise ValueError(f"{address} is not there, and without it no task can serve: {error}") from error
        version = archive_version(archive)
        store.put(archive)
        document = make({version: entry_of(archive)}, version, "released", f"{version} is the first release")
        try:
            store.write(write(document), None)
            say(f"first release: {archive.name}, by {address}")
        except ChangedError:
            say(f"{address} has just been written by somebody else, and stays as it is")
    else:
        say(f"{address} is there, and stays as it is: make rollout RELEASE={address} VERSION=... changes it")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the name of a file in scripts/ecs/deployments")
    parser.add_argument("--image", metavar="TAG", help="the image's tag; default: Image of the deployment, else the commit's hash")
    parser.add_argument("--only", choices=ORDER, help="change this stack alone; the others must be there")
    parser.add_argument("--replace", action="append", default=[], metavar="RESOURCE", help="its logical name: it may be lost")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"for AWS in all, in seconds; default: {LIMIT_S:g}")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    args = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        deployment = Deployment.load(args.name)
        aws = Aws(deployment.region)
        who = aws.call("sts", "get_caller_identity")
        say(f"{args.name} in account {who['Account']}, region {aws.region}, as {who['Arn']}")
        deploy(aws, deployment, args, Limit(args.limit_s))
        service = find(aws, deployment.stack("service"))
        what = args.name if args.only is None else deployment.stack(args.only)
        print(f"{what} is deployed. {(service.outputs if service else {}).get('Url', '')}".strip())
        return 0
    except KeyboardInterrupt:
        print("interrupted: no change was under way", file=sys.stderr)
    except (DeploymentError, DeployError, StackError, ImageError, StoreError, AwsError, AnswerError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
