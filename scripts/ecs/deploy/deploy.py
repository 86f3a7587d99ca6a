"""Create or update a deployment: `python -m scripts.ecs.deploy.deploy NAME`, its stacks in order, each change set shown first.

The image is built and pushed only if its tag is not in the registry, the first release is written only if there is none, and
the service keeps the number of tasks that it runs. The service's deployment is watched until it has succeeded; a rollback, or
the end of the time limit, is a failure, reported with its causes. After Ctrl-C AWS continues by itself: run the same command
again to wait for it, or `make doctor` to see how it stands.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.archive.name import choose_archive, split_name
from scripts.command import parser, run
from scripts.ecs.aws import Aws
from scripts.ecs.deploy.changes import ChangeSet, StackRequest, discard, execute, prepare, propose, refuse_losses, table
from scripts.ecs.deploy.image import build_of, commit_tag, ensure_pushed
from scripts.ecs.deploy.watch import DeployError, Watch
from scripts.ecs.progress import Limit, log
from scripts.ecs.stack import RELEASE_KEY, WAITING, LimitError, Stack, StackError, StackFailedError, find
from scripts.ecs.stacks import ORDER, TEMPLATE_FOLDER, Deployment, read_template
from scripts.paths import ROOT
from scripts.phrases import counted
from scripts.release.address import open_store
from scripts.release.document import entry_of, make, parse, releases_of, write
from scripts.release.store import ChangedError, Store

GIVEN = ("Image",)  # parameters that this command itself sets
# for a first deploy: NAT gateway, load balancer, instance and the pull of the image take minutes each
LIMIT_S = 1800.0
# nothing was changed: a service that is not complete after this long will not be complete by waiting
UNCHANGED_S = 300.0


def complete_templates(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The templates. DeploymentError, before anything is changed, if a parameter of any stack will have no value."""
    templates = {kind: read_template(kind) for kind in ORDER}
    # the names are enough here: the values come from AWS, stack by stack
    known = dict.fromkeys(GIVEN, "")
    for template in templates.values():
        deployment.values(template, known)
        known |= dict.fromkeys(template.get("Outputs", {}), "")
    return templates


def deploy(aws: Aws, deployment: Deployment, args: argparse.Namespace, limit: Limit) -> None:
    """Make all stacks, or the one of `args.only`, as their templates say. SeeFoodError, ValueError."""
    templates = complete_templates(deployment)
    pinned = "" if args.image else deployment.parameters.get("Image", "")
    # before anything is changed: a dirty tree should not be noticed between two stacks
    tag = (args.image or pinned or commit_tag()) if args.only in (None, "service") else ""
    build = build_of(deployment)
    outputs: dict[str, str] = {}
    for kind in ORDER:
        if args.only not in (None, kind):
            outputs |= outputs_of(aws, deployment, kind)
        elif kind == "service":
            image = pinned or f"{outputs['RepositoryUri']}:{tag}"
            request = request_for(deployment, kind, templates[kind], outputs | {"Image": image})
            outputs |= apply_service(aws, deployment, request, args, limit)
        else:
            outputs |= apply(aws, request_for(deployment, kind, templates[kind], outputs), args, limit)
        if kind == args.only:
            return
        if kind == "storage" and tag:
            # an image with CUDA alone may take half an hour to build and push
            with limit.paused():
                if not pinned:
                    ensure_pushed(aws, outputs["RepositoryUri"], tag, build)
                first_release(f"s3://{outputs['BucketName']}/{RELEASE_KEY}", args.model_store, args.model or deployment.model)


def outputs_of(aws: Aws, deployment: Deployment, kind: str) -> dict[str, str]:
    """The outputs of a stack that is left as it is. StackError if it is not complete, AwsError."""
    stack = find(aws, deployment.stack(kind))
    if stack is None or not stack.status.endswith("_COMPLETE") or stack.status in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        state = "missing" if stack is None else stack.status
        raise StackError(
            f"the stack {deployment.stack(kind)} is {state}: make deploy STACK={deployment.name} without ONLY creates it"
        )
    return stack.outputs


def request_for(deployment: Deployment, kind: str, template: Mapping[str, Any], outputs: Mapping[str, str]) -> StackRequest:
    """What a stack shall be; `outputs` are those of the earlier stacks."""
    return StackRequest(
        deployment.stack(kind),
        (TEMPLATE_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8"),
        deployment.values(template, outputs),
        outputs.get("BucketName"),
        # so whoever deploys a service needs no permission for what is in its stack
        outputs["ServiceStackRoleArn"] if kind == "service" else None,
    )


def apply(aws: Aws, request: StackRequest, args: argparse.Namespace, limit: Limit) -> dict[str, str]:
    """The outputs of a stack, once it is as requested. StackError, AnswerError, AwsError."""
    before = prepare(aws, request.name, limit, args.yes)
    stack = change(aws, request, before, args, limit) or before
    return stack.outputs if stack else {}


def apply_service(
    aws: Aws, deployment: Deployment, request: StackRequest, args: argparse.Namespace, limit: Limit
) -> dict[str, str]:
    """The same for the stack of the service, once ECS has completed the deployment. DeployError with the causes if it has not."""
    before = prepare(aws, request.name, limit, args.yes)
    # after prepare: what an earlier command's operation did is not this deploy's
    watch = Watch(aws, deployment.name)
    request = request._replace(parameters=keep_count(request.parameters, watch.desired))
    try:
        changed = change(aws, request, before, args, limit, watch.poll)
    except (StackFailedError, LimitError) as error:
        raise DeployError(f"{error}\n{watch.diagnosis()}") from error
    log(watch.settle(limit if changed else Limit(min(UNCHANGED_S, limit.left_s))))
    stack = changed or before
    return stack.outputs if stack else {}


def change(
    aws: Aws,
    request: StackRequest,
    before: Stack | None,
    args: argparse.Namespace,
    limit: Limit,
    on_events: Callable[[list[dict[str, Any]]], str] = lambda events: "",
) -> Stack | None:
    """The stack after its change set was shown, confirmed and executed; None if there is nothing to change."""
    proposed = propose(aws, request, before, limit)
    if proposed is None:
        log(f"{request.name}: nothing to change")
        return None
    try:
        confirm(proposed, args, limit)
    except BaseException:  # Ctrl-C at the question, too
        discard(aws, proposed)
        raise
    return execute(aws, proposed, limit, on_events)


def confirm(proposed: ChangeSet, args: argparse.Namespace, limit: Limit) -> None:
    """Show the changes and ask. StackError if they may destroy something, AnswerError."""
    name = proposed.stack.name
    verb = "created" if proposed.stack.status == WAITING else "updated"
    print(f"{name} would be {verb}:\n{table(proposed.changes)}", flush=True)
    refuse_losses(proposed, args.replace)
    limit.confirm(f"Apply these changes to {name}? [y/n]", args.yes)


def keep_count(parameters: Mapping[str, str], running: int | None) -> dict[str, str]:
    """The parameters with the number of tasks that the service runs now: a deploy must not undo autoscaling."""
    if running is None:
        return dict(parameters)
    least, most = int(parameters["MinTasks"]), int(parameters["MaxTasks"])
    count = min(max(running, least), most)
    if count != running:
        log(f"the service runs {counted(running, 'task')}, outside MinTasks to MaxTasks ({least} to {most}): setting {count}")
    return {**parameters, "DesiredCount": str(count)}


def first_release(address: str, model_store: Path, model: str | None) -> None:
    """Release the newest archive of `model` if there is no release document: tasks cannot start without. ValueError, StoreError."""
    store = open_store(address)
    try:
        text, _ = store.read() or ("", "")
    except FileNotFoundError:
        release_newest(store, model_store, model)
        return
    if model is not None and model not in (released := releases_of(parse(text))):
        raise ValueError(f"{address} releases the model {' and '.join(map(repr, released))}, but --model is {model!r}")
    log(f"{address} exists and is left as it is: make rollout RELEASE={address} VERSION=... changes it")


def release_newest(store: Store, model_store: Path, model: str | None) -> None:
    """Upload the newest archive and write the first release document. ValueError if there is no archive, StoreError."""
    try:
        archive = choose_archive(model_store, None, model)
    except ValueError as error:
        raise ValueError(f"there is no {store.address}, and without it no task can serve: {error}") from error
    _, version = split_name(archive)
    store.put(archive)
    document = make({version: entry_of(archive)}, version, "released", f"{version} is the first release")
    try:
        store.write(write(document), None)
        log(f"first release: {archive.name}, in {store.address}")
    except ChangedError:  # written between the read and now
        log(f"somebody else has just written {store.address}: left as it is")


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    command = parser(__doc__)
    command.add_argument("name", help="the name of a file in scripts/ecs/deployments, without .yaml")
    command.add_argument("--image", metavar="TAG", help="the image's tag; default: Image of the deployment, else the commit's hash")
    command.add_argument("--only", choices=ORDER, help="change only this stack; the others must exist")
    command.add_argument("--replace", action="append", default=[], metavar="RESOURCE", help="logical name of one that may be lost")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"for AWS in all, in seconds; default: {LIMIT_S:g}")
    command.add_argument("--model-store", type=Path, default=ROOT / "model_store", help="where the first release comes from")
    command.add_argument("--model", metavar="NAME", help="of the first release; default: the only model in the model store")
    return command.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    args = arguments_of(arguments)
    deployment = Deployment.load(args.name)
    aws = Aws(deployment.region)
    caller = aws.call("sts", "get_caller_identity")
    log(f"{args.name} in account {caller['Account']}, region {aws.region}, as {caller['Arn']}")
    deploy(aws, deployment, args, Limit(args.limit_s))
    service = find(aws, deployment.stack("service"))
    deployed = args.name if args.only is None else deployment.stack(args.only)
    outputs = service.outputs if service else {}
    print(f"{deployed} is deployed. {outputs.get('Url', '')}".strip())
    domain, own_name = deployment.parameters.get("DomainName"), outputs.get("LoadBalancerDnsName")
    if domain and own_name:
        print(f"{domain} must be a CNAME of {own_name}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "AWS continues with what has begun"))
