"""What ECS's messages mean (the tables are messages_of_tasks.py and messages_of_services.py), and how stopped tasks are counted."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from scripts.ecs.doctor.messages_of_services import SERVICES
from scripts.ecs.doctor.messages_of_tasks import TASKS, Reason

REASONS = (*TASKS, *SERVICES)
# A message belongs to the first scope whose pattern it has. So a word such as "secret" counts only where secrets are what it is
# about, and a message about a pull that timed out is not taken for one about placement.
SCOPES = {
    "placement": r"unable to place|Unable to place|RESOURCE:|No Container Instances|Capacity is unavailable|capacity provider|"
    r"TaskFailedToStart: (MemberOf|[A-Z]{5,})|EMPTY CAPACITY PROVIDER|NO ACTIVE INSTANCES|MemberOf placement|VcpuLimit",
    "pull": r"CannotPull|pull access denied",
    "logging": r"log(ging)? driver|logger args|log stream|log group|awslogs",
    "init": r"ResourceInitializationError|pull secrets or registry auth|Fetching secret data|network interface|"
    r"EphemeralStorage provisioning",
    "start": r"Cannot(Start|Create|Inspect|Stop)\w*Error|CannotUpdateManagedAgents|DockerTimeoutError|DockerStateError|"
    r"ContainerRuntime(Timeout)?Error|Error response from daemon|Task ?[Ff]ailed ?[Tt]o ?[Ss]tart",
    "health": r"failed (ELB|container) health checks|is unhealthy in ",
    "instance": r"Host EC2|Spot ?(Task|Interruption)|spot interruption|instance (is )?(being )?(drain|deregist|terminat)|"
    r"maintenance on the underlying|Timed out waiting for Amazon ECS Agent|^InternalError|agent.*disconnected|task retirement",
    "exit": r"Essential container|OutOfMemory|exec format error|exit code",
    "rollback": r"deployment failed|rolling back to deployment|[Cc]ircuit breaker|consistently start tasks",
    "service": r"[Uu]nable to|failed to (launch|register|deregister|stop)|throttled|InvalidParameter",
}
# said before the cause itself, and true of several causes
BOILERPLATE = r"unable to pull secrets or registry auth:?|execution resource retrieval failed:?|service call has been retried"
# ECS's messages about tasks that were meant to stop
NORMAL = r"Scaling activity initiated by|Availability ?Zone rebalanc|Rebalancing"


def scope_of(message: str) -> str | None:
    """What a message is about: a key of SCOPES, None if it reports no problem."""
    return next((scope for scope, pattern in SCOPES.items() if re.search(pattern, message)), None)


def known_reason(message: str) -> Reason | None:
    """The cause of a message: the first reason of its scope whose pattern matches, else None."""
    scope = scope_of(message)
    said = re.sub(BOILERPLATE, "", message)
    return next((one for one in REASONS if scope in one.scopes.split() and re.search(one.pattern, said)), None)


def reasons_table() -> str:
    """Every cause by its scope, with what to do, as text."""
    lines = []
    for scope in SCOPES:
        lines += [scope, *(f"  {one.cause}\n    -> {one.advice}" for one in REASONS if scope in one.scopes.split())]
    return "\n".join(lines)


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
