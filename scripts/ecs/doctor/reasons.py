"""What ECS's words for a task that stopped, or that cannot be placed, mean, and what to do: the first that fits a text."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple


class Reason(NamedTuple):
    """A pattern of ECS's, Docker's or the container's words, and what they come down to."""

    pattern: str
    cause: str
    advice: str


ROUTE = "the instances' subnets need a NAT gateway or endpoints for ECR, S3 and CloudWatch Logs: look at the stack of network"
ROLE = "the execution role lacks a permission, or ECS may not take it on: look at the stack of identity"
# more particular ones first: all are tried in this order
REASONS = (
    Reason(
        r"exec format error|no matching manifest|does not match the (specified|detected host) platform|image operating system",
        "the image is built for another processor architecture than the instances have",
        "build it for theirs and give it a new tag: the parameters Architecture, InstanceType and AmiParameter must agree with it",
    ),
    Reason(
        r"CannotPull.*(not found|manifest unknown|NotFound|does not exist)",
        "the image is not in the registry",
        "make deploy builds and pushes it if its tag is not there; the registry's lifecycle rules delete old ones",
    ),
    Reason(
        r"CannotPull.*(no basic auth|AccessDenied|Forbidden|403|not authorized|denied)",
        "the registry refuses the image's pull",
        ROLE,
    ),
    Reason(
        r"CannotPull.*(time(d )?\s?out|dial tcp|deadline exceeded|connection refused|no such host|TLS|request canceled)",
        "the instances do not reach the registry",
        ROUTE,
    ),
    Reason(
        r"no space left on device", "an instance's disk is full", "replace the instance, or give the launch template a larger disk"
    ),
    Reason(
        r"CannotPull",
        "the image cannot be pulled",
        "look at the words above: the tag, the execution role, or the way to the registry",
    ),
    Reason(
        r"registry auth.*(connection issue|time(d )?\s?out|dial tcp|deadline)", "the instances do not reach the registry", ROUTE
    ),
    Reason(
        r"secret|GetParameters|ssm:|secretsmanager|did not contain json key",
        "a secret of the task definition cannot be read",
        "see that it exists with that field, and that the execution role may read it",
    ),
    Reason(r"assume (the )?(service.linked )?role|AssumeRole|service linked role", "ECS may not take on a role of the task", ROLE),
    Reason(
        r"log(ging)? driver|log group|log stream|CreateLogStream|awslogs",
        "the container's log cannot be written",
        "the log group must be there before the service (the stack of observability), and the execution role may write to it",
    ),
    Reason(r"ResourceInitializationError", "what the task needs could not be had before it started", f"{ROLE}; {ROUTE}"),
    Reason(
        r"RESOURCE:ENI|network interface.*(limit|timeout|provision)|ENI.*(limit|attach)",
        "no instance has a free network interface: each task takes one, and a small instance has two to spare",
        "larger instances (InstanceType), more of them (MaxInstances), or the account setting awsvpcTrunking before they start",
    ),
    Reason(
        r"RESOURCE:(MEMORY|CPU|GPU)|insufficient (memory|CPU units|GPU)|enough (memory|CPU units)",
        "a task does not fit the room that is left on any instance",
        "more instances (MaxInstances), larger ones (InstanceType), or a smaller task (TaskMemory, TaskCpu); "
        "a deployment needs room for old and new tasks at a time",
    ),
    Reason(
        r"RESOURCE:PORTS|already using a port",
        "the port that a task wants is taken on every instance",
        "the network mode must be awsvpc, where each task has ports of its own",
    ),
    Reason(
        r'error "?AGENT|agent.*disconnected|Timed out waiting for Amazon ECS Agent',
        "ECS has no connection to the agent of an instance",
        f"replace the instance; if all are like that, {ROUTE}",
    ),
    Reason(
        r"ATTRIBUTE|missing an attribute|MemberOf",
        "no instance has what the task definition asks for, such as its architecture or a GPU",
        "the parameters Architecture, Gpu, InstanceType and AmiParameter must go together",
    ),
    Reason(
        r"No Container Instances were found|Capacity is unavailable",
        "there is no instance with room for a task",
        "wait for the auto-scaling group, and look at its activities if nothing comes",
    ),
    Reason(
        r"OutOfMemory|memory usage",
        "the container took more memory than the task has",
        "raise TaskMemory, or lower the model's workers in handler/model-config.yaml",
    ),
    Reason(
        r"failed container health checks",
        "the container did not answer its own health check",
        "its last log lines say why; the check's start period must be longer than a start takes",
    ),
    Reason(
        r"Host EC2|Spot interruption|SpotInterruption",
        "the instance of a task was ended",
        "nothing, if that was a scale-in or a replacement",
    ),
)
# how ECS words what is no fault
NORMAL = r"Scaling activity initiated by|Availability ?Zone rebalanc|Rebalancing"


def reason_of(text: str) -> Reason | None:
    """What a text comes down to, None if it is none of what is known."""
    return next((reason for reason in REASONS if re.search(reason.pattern, text)), None)


def faulty(task: dict[str, Any]) -> bool:
    """Whether a stopped task was ended by something other than scaling, a deployment or a person."""
    return task.get("stopCode") != "UserInitiated" and not re.search(NORMAL, task.get("stoppedReason", ""))


def words_of(task: dict[str, Any]) -> str:
    """Why a task stopped: ECS's reason, and each container's exit code and reason."""
    said = [task.get("stoppedReason") or "no reason given"]
    for container in task.get("containers", []):
        code, why = container.get("exitCode"), container.get("reason")
        parts = ([f"exit code {code}{EXIT.get(code, '')}"] if code else []) + ([why] if why and why not in said[0] else [])
        if parts:
            said.append(f"container {container['name']}: {', '.join(parts)}")
    # what differs from task to task is not part of the reason
    return re.sub(r"\b[0-9a-f]{32}\b|\(port \d+\)", "...", "; ".join(said))


EXIT = {137: " (killed: SIGKILL)", 139: " (segmentation fault)", 143: " (ended by SIGTERM)"}


def grouped(tasks: Iterable[dict[str, Any]]) -> Counter[str]:
    """How many tasks stopped for each reason, those that were to stop left out."""
    return Counter(words_of(task) for task in tasks if faulty(task))
