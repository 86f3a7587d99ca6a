"""One CloudFormation stack as it is in AWS: status, outputs, resources, events; waiting for its operation to end; deleting it."""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import Limit, log
from scripts.errors import SeeFoodError

POLL_S = 5.0  # CloudFormation throttles describe calls for the whole account
STACK = "AWS::CloudFormation::Stack"
# of the release document in the bucket of the storage stack: templates/service.yaml gives tasks the same
RELEASE_KEY = "release.json"
WAITING = "REVIEW_IN_PROGRESS"  # for its first change set to be executed
# the reasons of resources that were cancelled because another one failed
CANCELLED = ("Resource creation cancelled", "Resource update cancelled", "Resource deletion cancelled")


class StackError(SeeFoodError):
    """A stack could not be changed; the message says why and what to do."""


class StackFailedError(StackError):
    """CloudFormation could not change a stack, and has rolled it back or left it as it was by then."""


class LimitError(StackError):
    """A stack's operation is still in progress at the time limit."""


class Stack(NamedTuple):
    """A stack that exists. `reason` is CloudFormation's own for the status, often empty."""

    id: str
    name: str
    status: str
    reason: str
    outputs: dict[str, str]
    parameters: dict[str, str]

    @property
    def in_progress(self) -> bool:
        """Whether an operation is running; a stack that only waits for its first change set has none."""
        return self.status.endswith("_IN_PROGRESS") and self.status != WAITING


def find(aws: Aws, name: str) -> Stack | None:
    """The stack with that name or id, None if there is none; a deleted one is found by id only. AwsError."""
    try:
        (found,) = aws.call("cloudformation", "describe_stacks", StackName=name)["Stacks"]
    except AwsError as error:
        # CloudFormation has no code of its own for this
        if error.code == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    parameters = {one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])}
    reason = found.get("StackStatusReason", "")
    return Stack(found["StackId"], found["StackName"], found["StackStatus"], reason, outputs, parameters)


def resources(aws: Aws, name: str) -> list[dict[str, Any]]:
    """The resources of a stack; while it is being created, those begun so far. AwsError."""
    found = aws.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=name)
    return [resource for resource in found if resource["ResourceStatus"] != "DELETE_COMPLETE"]


def physical(found: list[dict[str, Any]], kind: str) -> list[str]:
    """The names or ARNs of the resources with that type, e.g. AWS::ECS::Service."""
    return [str(one["PhysicalResourceId"]) for one in found if one["ResourceType"] == kind and one.get("PhysicalResourceId")]


class Events:
    """The events of a stack, starting now."""

    def __init__(self, aws: Aws, stack_id: str) -> None:
        """AwsError."""
        self._aws, self._stack_id = aws, stack_id
        # the newest is enough to stop at; the whole history may be long
        self._seen = {event["EventId"] for event in islice(self._newest_first(), 1)}

    def _newest_first(self) -> Any:
        return self._aws.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=self._stack_id)

    def new(self) -> list[dict[str, Any]]:
        """Those since the last call, oldest first. AwsError."""
        fresh: list[dict[str, Any]] = []
        for event in self._newest_first():
            if event["EventId"] in self._seen:
                break
            fresh.append(event)
        self._seen |= {event["EventId"] for event in fresh}
        return fresh[::-1]


def failures(events: list[dict[str, Any]]) -> list[str]:
    """Each resource that failed, with its reason; those cancelled because of another one are left out."""
    return [
        f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', 'no reason given')}"
        for event in events
        if event["ResourceStatus"].endswith("_FAILED")
        and event["ResourceType"] != STACK
        and not event.get("ResourceStatusReason", "").startswith(CANCELLED)
    ]


def last_failures(aws: Aws, name: str) -> list[str]:
    """The resources that failed in the newest operation of a stack, with reasons. AwsError."""
    events = []
    for event in aws.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=name):
        events.append(event)
        if event["ResourceType"] == STACK and event["ResourceStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
    return failures(events[::-1])


def wait(
    aws: Aws,
    stack: Stack,
    events: Events,
    limit: Limit,
    total: int | None = None,
    on_events: Callable[[list[dict[str, Any]]], str] = lambda events: "",
) -> tuple[Stack, list[str]]:
    """(the stack at the end of its operation, what failed in it). LimitError, StackError; the operation goes on in AWS.

    `on_events` gets the new events at each poll and returns the text beside the progress bar; `total` resources are expected.
    """
    # executed, but not begun: the status is still the one from before
    begun, failed = stack.in_progress, list[str]()
    try:
        with tqdm(total=total, unit="resource", desc=stack.name, disable=None, leave=False) as progress:
            while True:
                try:
                    fresh = events.new()
                    begun = begun or any(event["ResourceType"] == STACK and event["ResourceStatus"] != WAITING for event in fresh)
                    found = find(aws, stack.id)
                    stack = found or stack._replace(status="DELETE_COMPLETE")
                    ended = (begun and not stack.in_progress) or found is None
                    # those between the first call of new() and the end
                    fresh += events.new() if ended else []
                    failed += failures(fresh)
                    progress.update(_log_events(stack.name, fresh))
                    progress.set_postfix_str(on_events(fresh))
                    if ended:
                        return stack, failed
                except AwsError as error:
                    if not error.transient:
                        raise StackError(f"{error}\n{_still_running(stack)}") from error
                    log(f"{error}; retrying")
                if limit.left_s <= 0:
                    raise LimitError(f"not finished within {limit.seconds:g} s: {_still_running(stack)}")
                limit.sleep(POLL_S)
    except KeyboardInterrupt:
        log(_still_running(stack))
        raise


def delete(aws: Aws, stack: Stack, limit: Limit) -> None:
    """Return when the stack is gone; resources that its template retains stay. StackError naming what could not go, AwsError."""
    events = Events(aws, stack.id)
    if stack.status != "DELETE_IN_PROGRESS":
        # by its id, under which it can still be found once it is deleted
        aws.call("cloudformation", "delete_stack", StackName=stack.id)
    ended, failed = wait(aws, stack, events, limit)
    if ended.status == "DELETE_COMPLETE":
        return
    reasons = "\n".join(failed) or ended.reason or "CloudFormation gives no reason"
    raise StackError(
        f"{stack.name} is {ended.status}: some of its resources could not be deleted\n{reasons}\n"
        "Remove what blocks them, then run the same command again; or keep a resource in AWS for good: "
        f"aws cloudformation delete-stack --region {aws.region} --stack-name {stack.name} --retain-resources NAME"
    )


def _log_events(name: str, events: list[dict[str, Any]]) -> int:
    """Print what is done and what failed. Returns the number of resources that are done."""
    done = 0
    for event in events:
        status, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
        if event["ResourceType"] == STACK:
            log(f"{name} is {status}{f': {reason}' if reason and reason != 'User Initiated' else ''}")
        elif status.endswith("_FAILED"):
            log(f"{name}: {status} {event['LogicalResourceId']} ({event['ResourceType']}): {reason or 'no reason given'}")
        elif status.endswith("_COMPLETE"):
            done += 1
            log(f"{name}: {status} {event['LogicalResourceId']} ({event['ResourceType']})")
    return done


def _still_running(stack: Stack) -> str:
    return (
        f"{stack.name} is {stack.status}, and AWS continues with it. Run the same command again to wait for it; "
        f"its events: aws cloudformation describe-stack-events --stack-name {stack.name}"
    )
