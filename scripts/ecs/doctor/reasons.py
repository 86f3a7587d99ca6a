"""What ECS's messages about a task that stopped, or that cannot be placed, mean, and what to do: the first match counts."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple


class Reason(NamedTuple):
    """A pattern in a message of ECS, Docker or the container, the cause behind it, and what to do."""

    pattern: str
    cause: str
    advice: str


ROUTE = "the instances' subnets need a NAT gateway or endpoints for ECR, S3 and CloudWatch Logs: check the network stack"
ROLE = "the execution role lacks a permission, or ECS cannot assume it: check the identity stack"
# The specific ones first: they are tried in this order. The wordings are from ECS's documentation and from logs that others have
# published; they differ between versions of the agent, hence the alternatives.
REASONS = (
    Reason(
        r"exec format error|no matching manifest|does not match the (specified|detected host) platform|image operating system",
        "the image is built for another processor architecture than the instances have",
        "build it for their architecture, under a new tag; Architecture, InstanceType and AmiParameter must match it",
    ),
    Reason(
        r"CannotPull.*(not found|manifest unknown|NotFound|does not exist)",
        "the image is not in the registry",
        "make deploy builds and pushes a missing tag; note that the registry's lifecycle rules delete old images",
    ),
    Reason(
        r"CannotPull.*(no basic auth|AccessDenied|Forbidden|403|not authorized|denied)",
        "the registry denies pulling the image",
        ROLE,
    ),
    Reason(
        r"CannotPull.*(time(d )?\s?out|dial tcp|deadline exceeded|connection refused|no such host|TLS|request canceled)",
        "the instances cannot reach the registry",
        ROUTE,
    ),
    Reason(r"no space left on device", "an instance's disk is full", "replace the instance, or raise DiskGiB"),
    Reason(
        r"CannotPull",
        "the image cannot be pulled",
        "check what the message names: the tag, the execution role, or the network route to the registry",
    ),
    Reason(
        r"registry auth.*(connection issue|time(d )?\s?out|dial tcp|deadline)", "the instances cannot reach the registry", ROUTE
    ),
    Reason(
        r"secret|GetParameters|ssm:|secretsmanager|did not contain json key",
        "a secret of the task definition cannot be read",
        "check that it exists and has that field, and that the execution role may read it",
    ),
    Reason(r"assume (the )?(service.linked )?role|AssumeRole|service linked role", "ECS cannot assume a role of the task", ROLE),
    Reason(
        r"log(ging)? driver|log group|log stream|CreateLogStream|awslogs",
        "the container's log cannot be written",
        "the log group must exist before the service (observability stack), and the execution role must be allowed to write to it",
    ),
    Reason(r"ResourceInitializationError", "a task could not get what it needs to start", f"{ROLE}; {ROUTE}"),
    Reason(
        r"RESOURCE:ENI|network interface.*(limit|timeout|provision)|ENI.*(limit|attach)",
        "no instance has a free network interface: each task takes one, and a small instance has only two for tasks",
        "use larger instances (InstanceType) or more (MaxInstances), or enable awsvpcTrunking for the account before they start",
    ),
    Reason(
        r"RESOURCE:(MEMORY|CPU|GPU)|insufficient (memory|CPU units|GPU)|enough (memory|CPU units)",
        "no instance has enough free CPU, memory or GPUs for a task",
        "allow more instances (MaxInstances), use larger ones (InstanceType), or a smaller task (TaskMemory, TaskCpu); "
        "during a deployment old and new tasks must fit at the same time",
    ),
    Reason(
        r"RESOURCE:PORTS|already using a port",
        "the port of the task is already in use on every instance",
        "set the network mode to awsvpc, where each task has its own ports",
    ),
    Reason(
        r'error "?AGENT|agent.*disconnected|Timed out waiting for Amazon ECS Agent',
        "ECS has no connection to the agent of an instance",
        f"replace the instance; if all are affected, {ROUTE}",
    ),
    Reason(
        r"ATTRIBUTE|missing an attribute|MemberOf",
        "no instance meets the task definition's requirements, such as architecture or GPU",
        "the parameters Architecture, Gpu, InstanceType and AmiParameter must match each other",
    ),
    Reason(
        r"No Container Instances were found|Capacity is unavailable",
        "no instance has capacity for a task",
        "wait for the auto-scaling group; if no instance starts, check its activities",
    ),
    Reason(
        r"OutOfMemory|memory usage",
        "the container used more memory than the task has",
        "raise TaskMemory, or reduce the number of workers in handler/model-config.yaml",
    ),
    Reason(
        r"failed container health checks",
        "the container failed its own health check",
        "its last log lines say why; the start period of the check must be longer than a start takes",
    ),
    Reason(
        r"Host EC2|Spot interruption|SpotInterruption",
        "the instance of a task was terminated",
        "nothing to do if that was a scale-in or a replacement",
    ),
)
# ECS's messages about tasks that were meant to stop
NORMAL = r"Scaling activity initiated by|Availability ?Zone rebalanc|Rebalancing"


def known_reason(message: str) -> Reason | None:
    """The first reason whose pattern matches, else None."""
    return next((reason for reason in REASONS if re.search(reason.pattern, message)), None)


def unexpected(task: dict[str, Any]) -> bool:
    """Whether a stopped task was not ended by scaling, a deployment or a person."""
    return task.get("stopCode") != "UserInitiated" and not re.search(NORMAL, task.get("stoppedReason", ""))


def stop_reason(task: dict[str, Any]) -> str:
    """Why a task stopped: ECS's reason, and each container's exit code and reason."""
    parts = [task.get("stoppedReason") or "no reason given"]
    for container in task.get("containers", []):
        code, why = container.get("exitCode"), container.get("reason")
        facts = ([f"exit code {code}{EXIT.get(code, '')}"] if code else []) + ([why] if why and why not in parts[0] else [])
        if facts:
            parts.append(f"container {container['name']}: {', '.join(facts)}")
    # ids and ports differ from task to task, and equal reasons are counted
    return re.sub(r"\b[0-9a-f]{32}\b|\(port \d+\)", "...", "; ".join(parts))


# 128 + the signal's number; the kernel kills with SIGKILL when memory runs out, and so does Docker when SIGTERM has no effect
EXIT = {137: " (killed: SIGKILL)", 139: " (segmentation fault)", 143: " (terminated: SIGTERM)"}


def count_by_reason(tasks: Iterable[dict[str, Any]]) -> Counter[str]:
    """How many tasks stopped for each reason, without those that were meant to stop."""
    return Counter(stop_reason(task) for task in tasks if unexpected(task))
