"""Rules about captured photos, which are personal data: tasks can keep them in our bucket, and they are gone after their days."""

import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import may
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, environment, number, shown
from scripts.ecs.preflight.rules.container import serving
from scripts.ecs.preflight.rules.task import ROLE

DIRECTORY = "SEEFOOD_CAPTURE_DIR"


def captured_photos_expire(stacks: Stacks) -> Iterator[Finding]:
    """Captured photos are personal data: keep them below a prefix of our bucket whose objects and old versions expire."""
    for task, container in serving(stacks):
        address = environment(container).get(DIRECTORY)
        if address is None:
            continue
        match = re.fullmatch(r"s3://([^/]+)/(.+/)", address)
        bucket = stacks.find(match[1], "AWS::S3::Bucket", "name") if match else None
        if match is None or bucket is None:
            yield Finding(f"{task}", f"{DIRECTORY} is {shown(address)}", "s3://BUCKET/PREFIX/ in the storage stack's bucket")
            continue
        if not any(_expires(rule, match[2]) for rule in bucket.list("LifecycleConfiguration", "Rules")):
            yield Finding(f"{bucket}", f"no rule ends what is below {match[2]}", "ExpirationInDays, and NoncurrentDays")
        yield from _may_capture(stacks, task, bucket, match[2])


def _expires(rule: dict[str, object], prefix: str) -> bool:
    old = rule.get("NoncurrentVersionExpiration")
    days = [number(rule.get("ExpirationInDays")), number(old.get("NoncurrentDays") if isinstance(old, dict) else None)]
    return rule.get("Status") == "Enabled" and rule.get("Prefix") == prefix and all(one is not None and one >= 1 for one in days)


def _may_capture(stacks: Stacks, task: Resource, bucket: Resource, prefix: str) -> Iterator[Finding]:
    role = stacks.find(task.get("TaskRoleArn"), ROLE)
    arn = bucket.identifiers["arn"]
    below = f"{arn}/{prefix}x"
    for action, resource in (("s3:PutObject", below), ("s3:GetObject", below), ("s3:GetLifecycleConfiguration", arn)):
        if role is not None and not may(stacks, role, action, resource):
            yield Finding(f"{role}", f"it may not call {action} on {resource}", "a policy that allows it")


RULES = (captured_photos_expire,)
