"""One CloudFormation stack as it is in AWS: its status, outputs, resources and events, and waiting until nothing goes on in it."""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.progress import Limit, say

POLL_S = 5.0
STACK = "AWS::CloudFormation::Stack"
WAITING = "REVIEW_IN_PROGRESS"  # for its first change set to be executed
# a resource that is given up because another one failed says so itself
FOLLOWS = ("Resource creation cancelled", "Resource update cancelled", "Resource deletion cancelled")


class StackError(RuntimeError):
    """A stack could not be changed; the message says why and what to do."""


class LimitError(StackError):
    """AWS goes on with a stack beyond the time limit."""


class Stack(NamedTuple):
    """A stack that is there. `why` is CloudFormation's reason of its status, often empty."""

    id: str
    name: str
    status: str
    why: str
    outputs: dict[str, str]

    @property
    def going(self) -> bool:
        """Whether CloudFormation is at work in it; one that merely waits for its first change set is not."""
        return self.status.endswith("_IN_PROGRESS") and self.status != WAITING


def find(aws: Aws, name: str) -> Stack | None:
    """The stack of that name or id, None if there is none; a deleted one is found by its id alone. AwsError."""
    try:
        (found,) = aws.call("cloudformation", "describe_stacks", StackName=name)["Stacks"]
    except AwsError as error:
        if error.code == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    return Stack(found["StackId"], found["StackName"], found["StackStatus"], found.get("StackStatusReason", ""), outputs)


def resources(aws: Aws, name: str) -> list[dict[str, Any]]:
    """What belongs to a stack now; of what is created no more than was begun. AwsError."""
    found = aws.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=name)
    return [resource for resource in found if resource["ResourceStatus"] != "DELETE_COMPLETE"]


def physical(found: list[dict[str, Any]], kind: str) -> list[str]:
    """The names or ARNs of the resources of that type, e.g. AWS::ECS::Service."""
    return [str(one["PhysicalResourceId"]) for one in found if one["ResourceType"] == kind and one.get("PhysicalResourceId")]


class Events:
    """A stack's events from now on."""

    def __init__(self, aws: Aws, stack_id: str) -> None:
        self._aws, self._stack_id = aws, stack_id
        self._seen = {event["EventId"] for event in islice(self._newest_first(), 1)}

    def _newest_first(self) -> Any:
        return self._aws.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=self._stack_id)

    def new(self) -> list[dict[str, Any]]:
        """Those since the last look, oldest first. AwsError."""
        fresh: list[dict[str, Any]] = []
        for event in self._newest_first():
            if event["EventId"] in self._seen:
                break
            fresh.append(event)
        self._seen |= {event["EventId"] for event in fresh}
        return fresh[::-1]


def failures(events: list[dict[str, Any]]) -> list[str]:
    """Each resource that failed, with the reason; not those that were given up because of another one."""
    return [
        f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', 'no reason given')}"
        for event in events
        if event["ResourceStatus"].endswith("_FAILED")
        and event["ResourceType"] != STACK
        and not event.get("ResourceStatusReason", "").startswith(FOLLOWS)
    ]


def last_failures(aws: Aws, name: str) -> list[str]:
    """What failed in the newest operation of a stack. AwsError."""
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
    look: Callable[[list[dict[str, Any]]], str] = lambda events: "",
) -> tuple[Stack, list[str]]:
    """(the stack when its operation has ended, what failed in it). StackError at the limit or on Ctrl-C: AWS goes on by itself.

    `look` gets the new events at each look and returns a few words for the progress display; `total` resources are expected.
    """
    begun, failed = stack.going, list[str]()
    try:
        with tqdm(total=total, unit="resource", desc=stack.name, disable=None, leave=False) as progress:
            while True:
                try:
                    fresh = events.new()
                    begun = begun or any(event["ResourceType"] == STACK and event["ResourceStatus"] != WAITING for event in fresh)
                    found = find(aws, stack.id)
                    stack = found or stack._replace(status="DELETE_COMPLETE")
                    ended = (begun and not stack.going) or found is None
                    fresh += events.new() if ended else []
                    failed += failures(fresh)
                    progress.update(_tell(stack.name, fresh))
                    progress.set_postfix_str(look(fresh))
                    if ended:
                        return stack, failed
                except AwsError as error:
                    if not error.passing:
                        raise StackError(f"{error}\n{_goes_on(stack)}") from error
                    say(f"{error}; trying again")
                if limit.left_s <= 0:
                    raise LimitError(f"not within {limit.seconds:g} s: {_goes_on(stack)}")
                limit.sleep(POLL_S)
    except KeyboardInterrupt:
        raise StackError(f"interrupted: {_goes_on(stack)}") from None


def _tell(name: str, events: list[dict[str, Any]]) -> int:
    """Print what was done and what failed; the number of resources that are done."""
    done = 0
    for event in events:
        status, why = event["ResourceStatus"], event.get("ResourceStatusReason", "")
        if event["ResourceType"] == STACK:
            say(f"{name} is {status}{f': {why}' if why and why != 'User Initiated' else ''}")
        elif status.endswith("_FAILED"):
            say(f"{name}: {status} {event['LogicalResourceId']} ({event['ResourceType']}): {why or 'no reason given'}")
        elif status.endswith("_COMPLETE"):
            done += 1
            say(f"{name}: {status} {event['LogicalResourceId']} ({event['ResourceType']})")
    return done


def _goes_on(stack: Stack) -> str:
    return (
        f"{stack.name} is {stack.status}, which goes on in AWS by itself. The same command again waits for it; "
        f"to look at it: aws cloudformation describe-stack-events --stack-name {stack.name}"
    )
