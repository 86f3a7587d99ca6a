"""Change sets: what an update of a stack would do, shown as a table before it is done; and doing it."""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import Limit, log
from scripts.ecs.stack import (
    POLL_S,
    WAITING,
    Events,
    Stack,
    StackError,
    StackFailedError,
    delete,
    find,
    last_failures,
    wait,
)

# CloudFormation's limit for a template in the request itself; a larger one has to be in a bucket
MAX_BODY_BYTES = 51_200
# the reasons of a change set that failed because it is empty
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
# its creation failed: CloudFormation allows nothing but deleting such a stack
NEVER_CREATED = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "remove what blocks it, then: aws cloudformation continue-update-rollback --stack-name {name}",
    "UPDATE_FAILED": "roll it back first: aws cloudformation rollback-stack --stack-name {name}",
    "DELETE_FAILED": "`make destroy` names the resource that blocks it, and retries",
}
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# what is lost for good when such a resource is replaced or removed
STATEFUL = {
    "AWS::S3::Bucket": "the release document, its history and the archives",
    "AWS::ECR::Repository": "the images",
    "AWS::Logs::LogGroup": "the logs",
    "AWS::ECS::Cluster": "everything that runs in it",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "the address that clients call",
    "AWS::EC2::VPC": "everything in it",
}


class Change(NamedTuple):
    """What would happen to one resource."""

    action: str  # Add, Modify, Remove, Import or Dynamic
    name: str
    type: str
    replacement: str  # True, False, Conditional, or "" where nothing is modified
    properties: list[str]
    kept: bool  # removed or replaced, but left in AWS

    @property
    def label(self) -> str:
        """E.g. REPLACED: in capitals if the resource may be lost."""
        if self.action == "Modify":
            return {"True": "REPLACED", "Conditional": "PERHAPS REPLACED"}.get(self.replacement, "modified")
        return {"Add": "added", "Remove": "REMOVED", "Import": "imported"}.get(self.action, "PERHAPS CHANGED")

    @property
    def destructive(self) -> bool:
        """Whether this may destroy something that cannot be created again."""
        return self.type in STATEFUL and (self.action in ("Remove", "Dynamic") or self.replacement in ("True", "Conditional"))


class StackRequest(NamedTuple):
    """What a stack shall be."""

    name: str
    template: str
    parameters: Mapping[str, str]
    bucket: str | None = None  # for a template that is too large for the request
    role: str | None = None  # ARN of the role that CloudFormation acts as, else as the caller


class ChangeSet(NamedTuple):
    """Changes that CloudFormation has computed, but not made."""

    arn: str
    stack: Stack
    changes: list[Change]


def prepare(aws: Aws, name: str, limit: Limit, yes: bool) -> Stack | None:
    """The stack once no operation is in progress, None if it is to be created. StackError if it cannot be changed, AwsError.

    A stack whose creation failed is deleted, after a question unless `yes`. AnswerError.
    """
    stack = find(aws, name)
    if stack is not None and stack.in_progress:
        log(f"{name} is {stack.status}: an earlier command or somebody else is changing it. Waiting for it to finish")
        stack, _ = wait(aws, stack, Events(aws, stack.id), limit)
    if stack is None or stack.status == "DELETE_COMPLETE":
        return None
    if stack.status in STUCK:
        reasons = "".join(f"\n{reason}" for reason in last_failures(aws, name))
        raise StackError(f"{name} is {stack.status}, so it cannot be changed: {STUCK[stack.status].format(name=name)}{reasons}")
    if stack.status in NEVER_CREATED:
        log(f"{name} is {stack.status}: its creation failed, nothing of it is in use. {'; '.join(last_failures(aws, name))}")
        limit.confirm(f"{name} can only be deleted and created again. Delete it? [y/n]", yes)
        delete(aws, stack, limit)
        return None
    return stack


def propose(aws: Aws, request: StackRequest, stack: Stack | None, limit: Limit) -> ChangeSet | None:
    """What would change in `stack`, which `prepare` returned; None if nothing would. StackError, AwsError."""
    with contextlib.ExitStack() as cleanup:
        change_set = _create(aws, request, stack)
        cleanup.callback(discard, aws, change_set)
        status, reason = _wait_until_computed(aws, change_set, limit)
        if status == "FAILED" and any(text in reason for text in NO_CHANGES):
            return None
        if status == "FAILED":
            raise StackError(f"{request.name}: CloudFormation rejects the template: {reason}{_validation(aws, change_set)}")
        changes = aws.pages("cloudformation", "describe_change_set", "Changes", **_names(change_set))
        proposed = change_set._replace(changes=[_change(entry["ResourceChange"]) for entry in changes])
        cleanup.pop_all()  # the caller executes or discards it
        return proposed


def _create(aws: Aws, request: StackRequest, stack: Stack | None) -> ChangeSet:
    """A change set that CloudFormation has yet to compute."""
    created = aws.call(
        "cloudformation",
        "create_change_set",
        StackName=request.name,
        ChangeSetName=f"{request.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        ChangeSetType="CREATE" if stack is None or stack.status == WAITING else "UPDATE",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in sorted(request.parameters.items())],
        Capabilities=["CAPABILITY_NAMED_IAM"],
        **_template(aws, request),
        **({"RoleARN": request.role} if request.role else {}),
    )
    return ChangeSet(created["Id"], stack or Stack(created["StackId"], request.name, WAITING, "", {}, {}), [])


def _template(aws: Aws, request: StackRequest) -> dict[str, str]:
    body = request.template.encode()
    if len(body) <= MAX_BODY_BYTES:
        return {"TemplateBody": request.template}
    if request.bucket is None:
        raise StackError(
            f"the template of {request.name} has {len(body)} bytes; above {MAX_BODY_BYTES} it has to be in a bucket, "
            "and no bucket exists before the storage stack"
        )
    key = f"templates/{request.name}-{sha256(body).hexdigest()[:12]}.yaml"
    aws.call("s3", "put_object", Bucket=request.bucket, Key=key, Body=body)
    domain = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return {"TemplateURL": f"https://{request.bucket}.s3.{aws.region}.{domain}/{key}"}


def _names(change_set: ChangeSet) -> dict[str, str]:
    # the ARN alone would do, but IAM grants these calls for stacks
    return {"StackName": change_set.stack.id, "ChangeSetName": change_set.arn}


def _wait_until_computed(aws: Aws, change_set: ChangeSet, limit: Limit) -> tuple[str, str]:
    """(CREATE_COMPLETE or FAILED, the reason). StackError at the limit."""
    while True:
        found = aws.call("cloudformation", "describe_change_set", **_names(change_set))
        if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
            return found["Status"], found.get("StatusReason", "")
        if limit.left_s <= 0:
            raise StackError(f"{change_set.stack.name}: its change set is still {found['Status']} after {limit.seconds:g} s")
        limit.sleep(min(POLL_S, 2.0))  # mostly done within seconds


def _validation(aws: Aws, change_set: ChangeSet) -> str:
    """What CloudFormation's own checks of the template found; the change set's reason only points to them."""
    try:
        events = list(aws.pages("cloudformation", "describe_events", "OperationEvents", **_names(change_set)))
    except AwsError:
        return ""  # an older permission set lacks this call, and the reason is shown all the same
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
    """The changes as a table, destructive ones first."""
    if not changes:
        return "  no resource changes, only outputs or settings of the stack"
    rows = [
        (
            change.label + (" (the old one stays in AWS)" if change.kept else ""),
            change.name,
            change.type,
            ", ".join(change.properties),
        )
        for change in sorted(changes, key=lambda change: (change.label.islower(), change.label, change.name))
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    )


def refuse_losses(proposed: ChangeSet, replaceable: Collection[str]) -> None:
    """StackError if something that cannot be created again may be lost, unless its logical name is in `replaceable`."""
    for change in proposed.changes:
        if change.destructive and change.name not in replaceable:
            raise StackError(
                f"{proposed.stack.name}: {change.name} ({change.type}) would be {change.label}, "
                f"which may destroy {STATEFUL[change.type]}: nothing was changed. To allow it: REPLACE={change.name} (--replace)"
            )


def discard(aws: Aws, proposed: ChangeSet) -> None:
    """Delete a change set that is not executed, and the empty stack that comes with one for a new stack."""
    try:
        if proposed.stack.status == WAITING:
            aws.call("cloudformation", "delete_stack", StackName=proposed.stack.id)
        else:
            aws.call("cloudformation", "delete_change_set", **_names(proposed))
    except AwsError as error:
        log(f"an unused change set is left in {proposed.stack.name}: {error}")


def execute(aws: Aws, proposed: ChangeSet, limit: Limit, on_events: Callable[[list[dict[str, Any]]], str]) -> Stack:
    """The stack once it is changed. StackFailedError, LimitError; StackError while AWS continues with it; AwsError."""
    events = Events(aws, proposed.stack.id)
    aws.call("cloudformation", "execute_change_set", **_names(proposed))
    stack, failed = wait(aws, proposed.stack, events, limit, len(proposed.changes) or None, on_events)
    if stack.status not in DONE:
        reasons = "\n".join(failed) or stack.reason or "CloudFormation gives no reason"
        raise StackFailedError(f"{stack.name} is {stack.status}:\n{reasons}")
    return stack
