"""Change sets: what an update of a stack would do, shown as a table before it is done; and doing it."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import Limit, say
from scripts.ecs.removal import delete
from scripts.ecs.stack import POLL_S, Events, Stack, StackError, find, last_failures, wait

MAX_BODY_BYTES = 51_200  # of a template that is passed along; a larger one has to lie in a bucket
NOTHING = ("didn't contain changes", "No updates are to be performed")
# created in vain: CloudFormation lets such a stack only be deleted
NEVER_WAS = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "remove what is in the way, then: aws cloudformation continue-update-rollback --stack-name {name}",
    "UPDATE_FAILED": "go back first: aws cloudformation rollback-stack --stack-name {name}",
    "DELETE_FAILED": "`make destroy` says what is in the way, and tries again",
}
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# what is gone for good when such a resource is replaced or removed
STATEFUL = {
    "AWS::S3::Bucket": "the release document, its history and the archives",
    "AWS::ECR::Repository": "the images",
    "AWS::Logs::LogGroup": "the logs",
    "AWS::ECS::Cluster": "everything that runs in it",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "the address at which clients ask",
    "AWS::EC2::VPC": "everything that lies in it",
}


class Change(NamedTuple):
    """What would become of one resource."""

    action: str  # Add, Modify, Remove, Import or Dynamic
    name: str
    type: str
    replacement: str  # True, False, Conditional, or "" where nothing is modified
    properties: list[str]
    kept: bool  # removed or replaced, but left in AWS

    @property
    def words(self) -> str:
        """E.g. REPLACED: in capitals what may end something."""
        if self.action == "Modify":
            return {"True": "REPLACED", "Conditional": "PERHAPS REPLACED"}.get(self.replacement, "modified")
        return {"Add": "added", "Remove": "REMOVED", "Import": "imported"}.get(self.action, "PERHAPS CHANGED")

    @property
    def loses(self) -> bool:
        """Whether this may end something that cannot be made again."""
        return self.type in STATEFUL and (self.action in ("Remove", "Dynamic") or self.replacement in ("True", "Conditional"))


class ChangeSet(NamedTuple):
    """Changes that CloudFormation has worked out, and not made yet."""

    arn: str
    stack: Stack
    changes: list[Change]


def usable(aws: Aws, name: str, limit: Limit, yes: bool) -> Stack | None:
    """The stack once nothing goes on in it, None if it is to be created. StackError where it cannot be changed, AwsError."""
    stack = find(aws, name)
    if stack is not None and stack.going:
        say(f"{name} is {stack.status}: an earlier command, or somebody else, is changing it. Waiting for its end")
        stack, _ = wait(aws, stack, Events(aws, stack.id), limit)
    if stack is None or stack.status == "DELETE_COMPLETE":
        return None
    if stack.status in STUCK:
        reason = "".join(f"\n{why}" for why in last_failures(aws, name))
        raise StackError(f"{name} is {stack.status}, so it cannot be changed: {STUCK[stack.status].format(name=name)}{reason}")
    if stack.status in NEVER_WAS:
        reasons = last_failures(aws, name)
        say(f"{name} is {stack.status}: it failed when it was created, and serves nobody. {'; '.join(reasons)}")
        limit.ask(f"{name} can only be deleted and created anew. Delete it? [y/n]", yes)
        delete(aws, stack, limit)
        return None
    return stack


def propose(
    aws: Aws,
    name: str,
    stack: Stack | None,
    template: str,
    values: Mapping[str, str],
    limit: Limit,
    bucket: str | None = None,
    role: str | None = None,
) -> ChangeSet | None:
    """What would be changed in the stack of that name, which `usable` found, or None for nothing. StackError, AwsError.

    `bucket` takes a large template; CloudFormation acts as `role`, else as the caller.
    """
    new = stack is None or stack.status == "REVIEW_IN_PROGRESS"
    answer = aws.call(
        "cloudformation",
        "create_change_set",
        StackName=name,
        ChangeSetName=f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        ChangeSetType="CREATE" if new else "UPDATE",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in sorted(values.items())],
        Capabilities=["CAPABILITY_NAMED_IAM"],
        **_template(aws, name, template, bucket),
        **({"RoleARN": role} if role else {}),
    )
    arn, stack_id = answer["Id"], answer["StackId"]
    proposed = ChangeSet(arn, stack or Stack(stack_id, name, "REVIEW_IN_PROGRESS", "", {}), [])
    try:
        while True:
            # the stack is named beside it, as permissions are given for stacks
            found = aws.call("cloudformation", "describe_change_set", StackName=stack_id, ChangeSetName=arn)
            if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
                break
            if limit.left_s <= 0:
                raise StackError(f"{name}: its change set is {found['Status']} after {limit.seconds:g} s")
            limit.sleep(min(POLL_S, 2.0))
        why = found.get("StatusReason", "")
        if found["Status"] == "FAILED" and not any(words in why for words in NOTHING):
            raise StackError(f"{name}: CloudFormation refuses the template: {why}{_validation(aws, stack_id, arn)}")
        if found["Status"] == "CREATE_COMPLETE":
            pages = aws.pages("cloudformation", "describe_change_set", "Changes", StackName=stack_id, ChangeSetName=arn)
            return proposed._replace(changes=[_change(entry["ResourceChange"]) for entry in pages])
    except BaseException:
        discard(aws, proposed)
        raise
    discard(aws, proposed)
    return None


def _template(aws: Aws, name: str, template: str, bucket: str | None) -> dict[str, str]:
    body = template.encode()
    if len(body) <= MAX_BODY_BYTES:
        return {"TemplateBody": template}
    if bucket is None:
        raise StackError(
            f"the template of {name} has {len(body)} bytes, and more than {MAX_BODY_BYTES} have to lie in a bucket: "
            "there is none before the stack of storage"
        )
    key = f"templates/{name}-{sha256(body).hexdigest()[:12]}.yaml"
    aws.call("s3", "put_object", Bucket=bucket, Key=key, Body=body)
    domain = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return {"TemplateURL": f"https://{bucket}.s3.{aws.region}.{domain}/{key}"}


def _validation(aws: Aws, stack_id: str, arn: str) -> str:
    """What CloudFormation's own checks of a template found, where it says so nowhere else."""
    try:
        events = list(aws.pages("cloudformation", "describe_events", "OperationEvents", StackName=stack_id, ChangeSetName=arn))
    except AwsError:
        return ""
    return "".join(
        f"\n{event.get('LogicalResourceId', '')} {event.get('ValidationPath', '')}: {event['ValidationStatusReason']}"
        for event in events
        if event.get("ValidationStatusReason")
    )


def _change(found: Mapping[str, Any]) -> Change:
    targets = [detail["Target"] for detail in found.get("Details", [])]
    properties = sorted({str(target.get("Name") or target.get("Attribute", "")) for target in targets} - {""})
    return Change(
        found["Action"],
        found["LogicalResourceId"],
        found["ResourceType"],
        found.get("Replacement", "") if found["Action"] == "Modify" else "",
        properties,
        "Retain" in found.get("PolicyAction", ""),
    )


def table(changes: Sequence[Change]) -> str:
    """The changes as a table: what ends something first."""
    if not changes:
        return "  no resource is changed, only outputs or settings of the stack"
    rows = [
        (
            change.words + (" (the old one stays in AWS)" if change.kept else ""),
            change.name,
            change.type,
            ", ".join(change.properties),
        )
        for change in sorted(changes, key=lambda change: (change.words.islower(), change.words, change.name))
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )


def refuse_losses(proposed: ChangeSet, named: Collection[str]) -> None:
    """StackError if something that cannot be made again may be lost, and was not named by who deploys."""
    for change in proposed.changes:
        if change.loses and change.name not in named:
            raise StackError(
                f"{proposed.stack.name}: {change.name} ({change.type}) would be {change.words}, "
                f"which may end {STATEFUL[change.type]}: nothing was changed. If it is meant, name it: --replace {change.name}"
            )


def discard(aws: Aws, proposed: ChangeSet) -> None:
    """Leave nothing of a change set that is not executed, nor of the empty stack that one for a new stack makes."""
    try:
        if proposed.stack.status == "REVIEW_IN_PROGRESS":
            aws.call("cloudformation", "delete_stack", StackName=proposed.stack.id)
        else:
            aws.call("cloudformation", "delete_change_set", StackName=proposed.stack.id, ChangeSetName=proposed.arn)
    except AwsError as error:
        say(f"a change set that is not used stays in {proposed.stack.name}: {error}")


def execute(aws: Aws, proposed: ChangeSet, limit: Limit, look: Callable[[list[dict[str, Any]]], str]) -> tuple[Stack, list[str]]:
    """(the stack when it has ended, what failed). StackError at the limit or on Ctrl-C, AwsError if it cannot be executed."""
    events = Events(aws, proposed.stack.id)
    aws.call("cloudformation", "execute_change_set", StackName=proposed.stack.id, ChangeSetName=proposed.arn)
    return wait(aws, proposed.stack, events, limit, len(proposed.changes) or None, look)
