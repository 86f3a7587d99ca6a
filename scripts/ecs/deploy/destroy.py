"""Delete a deployment: `python -m scripts.ecs.deploy.destroy seefood` shows what goes and what stays, and asks for its name first.

Deletes the stacks in reverse order. What their templates retain, the bucket and the registry, stays in AWS with all that is in
it; the last lines say how to delete it by hand.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import AnswerError, Limit, say
from scripts.ecs.removal import delete
from scripts.ecs.stack import Stack, StackError, find, physical, resources
from scripts.ecs.stacks import ORDER, Deployment, DeploymentError, read_template

LIMIT_S = 3600.0
COUNTED = 10_000  # objects of a bucket and images of a registry are counted up to here
GROUP = "AWS::AutoScaling::AutoScalingGroup"


class Kept(NamedTuple):
    """A resource that its template retains."""

    words: str
    by_hand: str


def kept(aws: Aws, kind: str, found: list[dict[str, Any]]) -> Iterator[Kept]:
    """What stays of a stack when it is deleted, and how to delete it by hand. AwsError."""
    retained = [
        name
        for name, resource in read_template(kind)["Resources"].items()
        if resource.get("DeletionPolicy", "").startswith("Retain")
    ]
    for resource in found:
        # a bucket's policy goes when the bucket does
        stays = resource["LogicalResourceId"] in retained and resource["ResourceType"] != "AWS::S3::BucketPolicy"
        if stays and resource.get("PhysicalResourceId"):
            yield _kept(aws, resource["ResourceType"], resource["PhysicalResourceId"])


def _kept(aws: Aws, kind: str, name: str) -> Kept:
    region = f"--region {aws.region}"
    if kind == "AWS::S3::Bucket":
        count = _count(aws.pages("s3", "list_object_versions", "Versions", Bucket=name))
        python = f"import boto3; boto3.resource('s3', '{aws.region}').Bucket('{name}').object_versions.delete()"
        by_hand = f'.venv/bin/python -c "{python}" && aws s3 rb {region} s3://{name}'
        return Kept(f"bucket {name} with {count} objects, old versions included", by_hand)
    if kind == "AWS::ECR::Repository":
        count = _count(aws.pages("ecr", "describe_images", "imageDetails", repositoryName=name))
        return Kept(f"registry {name} with {count} images", f"aws ecr delete-repository {region} --force --repository-name {name}")
    if kind == "AWS::Logs::LogGroup":
        return Kept(f"log group {name}", f"aws logs delete-log-group {region} --log-group-name {name}")
    return Kept(f"{kind} {name}", "by the console of its service")


def _count(items: Iterator[Any]) -> str:
    """How many there are; "an unknown number of" where that cannot be seen, which is no reason to keep the rest."""
    try:
        count = sum(1 for _ in islice(items, COUNTED))
    except AwsError as error:
        say(f"not counted: {error}")
        return "an unknown number of"
    return f"{count} or more" if count == COUNTED else str(count)


def free_instances(aws: Aws, found: list[dict[str, Any]]) -> None:
    """Let the auto-scaling group end its instances: protected from scale-in, they would keep it from being deleted. AwsError."""
    for name in physical(found, GROUP):
        groups = aws.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])["AutoScalingGroups"]
        if not groups:
            continue
        aws.call("autoscaling", "update_auto_scaling_group", AutoScalingGroupName=name, NewInstancesProtectedFromScaleIn=False)
        # one that is on its way in or out can be told nothing
        there = [one for one in groups[0]["Instances"] if one["LifecycleState"] in ("InService", "Standby")]
        instances = [one["InstanceId"] for one in there if one.get("ProtectedFromScaleIn")]
        for start in range(0, len(instances), 50):  # the most that one call takes
            some = {"InstanceIds": instances[start : start + 50], "ProtectedFromScaleIn": False}
            aws.call("autoscaling", "set_instance_protection", AutoScalingGroupName=name, **some)
        say(f"auto-scaling group {name}: {len(instances)} instances are no longer protected from scale-in")


def destroy(aws: Aws, deployment: Deployment, yes: bool, limit: Limit) -> None:
    """Delete all stacks that are there, and say what stays. StackError, AnswerError, AwsError."""
    there: list[tuple[str, Stack]] = []
    for kind in reversed(ORDER):
        stack = find(aws, deployment.stack(kind))
        if stack is not None:
            there.append((kind, stack))
    if not there:
        print(f"no stack of {deployment.name} is in {aws.region}: there is nothing to delete")
        return
    stays: list[Kept] = []
    print(f"These stacks of {deployment.name} in {aws.region} would be deleted, in this order:")
    for kind, stack in there:
        found = resources(aws, stack.name)
        print(f"  {stack.name}: {stack.status}, {len(found)} resources")
        stays += kept(aws, kind, found)
    print("These stay, with what is in them:" if stays else "Nothing stays.")
    for one in stays:
        print(f"  {one.words}")
    limit.ask(f"Type {deployment.name} to delete the stacks:", yes, deployment.name)
    for kind, stack in there:
        if kind == "cluster":
            free_instances(aws, resources(aws, stack.name))
        delete(aws, stack, limit)
    print(f"{deployment.name} is deleted.")
    if stays:
        print("What stays goes on costing money, and a new deployment makes others in its place. To delete it for good:")
        for one in stays:
            print(f"  {one.words}\n    {one.by_hand}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the name of a file in scripts/ecs/deployments")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"for AWS in all, in seconds; default: {LIMIT_S:g}")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        deployment = Deployment.load(args.name)
        aws = Aws(deployment.region)
        say(f"{args.name} in account {aws.call('sts', 'get_caller_identity')['Account']}, region {aws.region}")
        destroy(aws, deployment, args.yes, Limit(args.limit_s))
        return 0
    except KeyboardInterrupt:
        print("interrupted: no deletion was under way", file=sys.stderr)
    except (DeploymentError, StackError, AwsError, AnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
