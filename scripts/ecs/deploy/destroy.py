"""Delete a deployment: `python -m scripts.ecs.deploy.destroy NAME` lists what goes and what stays, and asks for its name first.

Deletes the stacks in reverse order. What their templates retain, the bucket and the registry, stays in AWS with its content;
the last lines say how to delete it.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from scripts.command import parser, run
from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import Limit, log
from scripts.ecs.stack import Stack, delete, find, physical, resources
from scripts.ecs.stacks import ORDER, Deployment, read_template
from scripts.phrases import counted

LIMIT_S = 3600.0  # instances drain first, and a network goes only after the last interface in it
MAX_COUNTED = 10_000  # objects or images: beyond that the exact number matters less than the wait
GROUP = "AWS::AutoScaling::AutoScalingGroup"


class Kept(NamedTuple):
    """A resource that its template retains."""

    description: str
    removal: str  # the command that deletes it


def kept(aws: Aws, kind: str, found: list[dict[str, Any]]) -> Iterator[Kept]:
    """What stays when a stack is deleted, and how to delete it. AwsError."""
    retained = [
        name
        for name, resource in read_template(kind)["Resources"].items()
        if resource.get("DeletionPolicy", "").startswith("Retain")
    ]
    for resource in found:
        # a bucket's policy is part of the bucket
        stays = resource["LogicalResourceId"] in retained and resource["ResourceType"] != "AWS::S3::BucketPolicy"
        if stays and resource.get("PhysicalResourceId"):
            yield _kept(aws, resource["ResourceType"], resource["PhysicalResourceId"])


def _kept(aws: Aws, kind: str, name: str) -> Kept:
    region = f"--region {aws.region}"
    if kind == "AWS::S3::Bucket":
        count = _count(aws.pages("s3", "list_object_versions", "Versions", Bucket=name))
        python = f"import boto3; boto3.resource('s3', '{aws.region}').Bucket('{name}').object_versions.delete()"
        removal = f'.venv/bin/python -c "{python}" && aws s3 rb {region} s3://{name}'
        return Kept(f"bucket {name} with {count} objects, old versions included", removal)
    if kind == "AWS::ECR::Repository":
        count = _count(aws.pages("ecr", "describe_images", "imageDetails", repositoryName=name))
        return Kept(
            f"registry {name} with {count} images",
            f"aws ecr delete-repository {region} --force --repository-name {name}",
        )
    if kind == "AWS::Logs::LogGroup":
        return Kept(f"log group {name}", f"aws logs delete-log-group {region} --log-group-name {name}")
    return Kept(f"{kind} {name}", "in the console of its service")


def _count(items: Iterator[Any]) -> str:
    """How many there are; "an unknown number of" if they cannot be listed: that does not prevent deleting the rest."""
    try:
        count = sum(1 for _ in islice(items, MAX_COUNTED))
    except AwsError as error:
        log(f"not counted: {error}")
        return "an unknown number of"
    return f"{count} or more" if count == MAX_COUNTED else str(count)


def free_instances(aws: Aws, found: list[dict[str, Any]]) -> None:
    """Remove the scale-in protection of an auto-scaling group's instances, which blocks its deletion. AwsError."""
    for name in physical(found, GROUP):
        groups = aws.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])["AutoScalingGroups"]
        if not groups:
            continue
        aws.call("autoscaling", "update_auto_scaling_group", AutoScalingGroupName=name, NewInstancesProtectedFromScaleIn=False)
        # in any other state AWS rejects the call
        steady = [one for one in groups[0]["Instances"] if one["LifecycleState"] in ("InService", "Standby")]
        instances = [one["InstanceId"] for one in steady if one.get("ProtectedFromScaleIn")]
        for start in range(0, len(instances), 50):  # the most that one call takes
            batch = {"InstanceIds": instances[start : start + 50], "ProtectedFromScaleIn": False}
            aws.call("autoscaling", "set_instance_protection", AutoScalingGroupName=name, **batch)
        log(f"auto-scaling group {name}: removed the scale-in protection of {counted(len(instances), 'instance')}")


def destroy(aws: Aws, deployment: Deployment, yes: bool, limit: Limit) -> None:
    """Delete all stacks that exist, and list what stays. StackError, AnswerError, AwsError."""
    existing: list[tuple[str, Stack]] = []
    for kind in reversed(ORDER):
        stack = find(aws, deployment.stack(kind))
        if stack is not None:
            existing.append((kind, stack))
    if not existing:
        print(f"{deployment.name} has no stacks in {aws.region}: nothing to delete")
        return
    stays: list[Kept] = []
    print(f"These stacks of {deployment.name} in {aws.region} would be deleted, in this order:")
    for kind, stack in existing:
        found = resources(aws, stack.name)
        print(f"  {stack.name}: {stack.status}, {counted(len(found), 'resource')}")
        stays += kept(aws, kind, found)
    print("These stay, with their content:" if stays else "Nothing stays.")
    for one in stays:
        print(f"  {one.description}")
    limit.confirm(f"Type {deployment.name} to delete the stacks:", yes, deployment.name)
    for kind, stack in existing:
        if kind == "cluster":
            free_instances(aws, resources(aws, stack.name))
        delete(aws, stack, limit)
    print(f"{deployment.name} is deleted.")
    if stays:
        print("What stays still costs money, and a new deployment creates its own. To delete it for good:")
        for one in stays:
            print(f"  {one.description}\n    {one.removal}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    command = parser(__doc__)
    command.add_argument("name", help="the name of a file in scripts/ecs/deployments, without .yaml")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"for AWS in all, in seconds; default: {LIMIT_S:g}")
    args = command.parse_args(arguments)
    deployment = Deployment.load(args.name)
    aws = Aws(deployment.region)
    log(f"{args.name} in account {aws.call('sts', 'get_caller_identity')['Account']}, region {aws.region}")
    destroy(aws, deployment, args.yes, Limit(args.limit_s))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "AWS continues with what has begun"))
