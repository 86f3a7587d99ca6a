"""Why a service is unhealthy: findings from its state, each with what to do. Pure: makes no calls of AWS."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from scripts.ecs.aws import CREATE_ECS_ROLE
from scripts.ecs.doctor.history import failed_activities, rollback_of, short, since
from scripts.ecs.doctor.reasons import count_by_reason, known_reason, scope_of, stop_reason, unexpected
from scripts.ecs.doctor.service_state import LONG_AGO, Answer, State
from scripts.ecs.stack import Stack
from scripts.phrases import counted

# EC2 has an error code and a wording for each kind of quota
QUOTA = ("VcpuLimitExceeded", "vCPU limit", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "exceeded your quota", "Quota")
LONG_S = 900.0  # a deployment in progress for so long will not complete by itself
SLOW_S = 60.0  # a load balancer takes up to this long to mark a target as unhealthy
TARGETS = {
    "Target.Timeout": "the security group of the tasks must allow the load balancer, on the health check's port too",
    "Target.ResponseCodeMismatch": "the task answers, but is not ready: /readyz says why, and so do its last log lines; "
    "a wrong health check path returns 404",
    "Target.FailedHealthChecks": "nothing listens on the health check's port: see the container's log",
    "Target.NotInUse": "the target's zone is not enabled for the load balancer, or no listener forwards to the target group",
    "Target.IpUnusable": "another resource uses the address",
    "Elb.InternalError": "an error within AWS: wait, then run make doctor again",
}
# after a rollback of an update the stack is complete, too, as it was before
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
UNITS = {"MEMORY": "MiB of memory", "CPU": "CPU units"}
# of these only a target that stays unused is a problem: its reason is Target.NotInUse
TRANSIENT = ("initial", "draining", "healthy", "unused")


class Finding(NamedTuple):
    """A problem, and what to do about it."""

    cause: str
    advice: str


def explain(found: list[Finding]) -> str:
    """The findings as a numbered list."""
    blocks = [f"{i}. {finding.cause}\n   -> {finding.advice}" for i, finding in enumerate(found, 1)]
    return "\n".join(blocks) or "no known cause found"


def findings(state: State) -> list[Finding]:
    """The problems, causes before their consequences; each once."""
    # several tasks or activities may come to the same finding
    return list(dict.fromkeys(finding for cause in CAUSES for finding in cause(state)))


def _stacks(state: State) -> Iterator[Finding]:
    for name, stack in state.stacks.items():
        if stack is None:
            yield Finding(f"the stack {name} does not exist", "make deploy creates it")
        elif stack.status in ("UPDATE_ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE") or stack.status.endswith("_FAILED"):
            yield Finding(f"the stack {name} is {stack.status}{_reasons(stack, state)}", "fix what it names, then run make deploy")


def _gone(state: State) -> Iterator[Finding]:
    complete = state.stacks and all(stack is not None and stack.status in DONE for stack in state.stacks.values())
    # if something is unchecked, the service may exist and be unreadable
    if complete and state.service is None and not state.unchecked:
        yield Finding("the stacks exist, but the service was deleted outside CloudFormation", "run make destroy, then make deploy")


def _reasons(stack: Stack, state: State) -> str:
    reasons = [*([stack.reason] if stack.reason else []), *state.stack_failures]
    return ": " + "; ".join(reasons) if reasons else ""


def _linked_role(state: State) -> Iterator[Finding]:
    if state.linked_role is False or any("service linked role" in failure.lower() for failure in state.stack_failures):
        yield Finding(
            "the account lacks the service-linked role of ECS",
            CREATE_ECS_ROLE,
        )


def _release(state: State) -> Iterator[Finding]:
    if state.has_release is False:
        yield Finding(
            "there is no release.json in the bucket, so no task can serve",
            "make deploy writes the first one for the newest archive; for another: make rollout RELEASE=s3://... VERSION=...",
        )


def _quota(state: State) -> Iterator[Finding]:
    for activity in failed_activities(state.activities):
        message = activity.get("StatusMessage") or activity.get("Description", "no reason given")
        if any(text in message for text in QUOTA):
            advice = "raise it in Service Quotas (EC2, on-demand instances), lower MaxInstances, or use a smaller InstanceType"
            yield Finding(f"the account's quota does not allow another instance: {message}", advice)
        elif "InsufficientInstanceCapacity" in message or "not have sufficient" in message:
            yield Finding(
                f"AWS has no capacity for this instance type: {message}", "another InstanceType, or more zones; else wait"
            )
        else:
            yield Finding(
                f"an activity of the auto-scaling group failed: {message}", "check the launch template in the cluster stack"
            )


def _instances(state: State) -> Iterator[Finding]:
    if state.instances is None:
        return
    # without a status it is active
    active = [instance for instance in state.instances if instance.get("status") in (None, "ACTIVE", "DRAINING")]
    wanted = (state.service or {}).get("desiredCount", 0)
    if not active and wanted:
        group = state.group or {}
        launched = len(group.get("Instances", []))
        cause = f"no container instance is registered in cluster {state.cluster}"
        if launched:
            advice = (
                f"the auto-scaling group has {launched}, so they cannot reach ECS: {_UNREACHABLE}. "
                "The agent's log: aws ec2 get-console-output --instance-id, or /var/log/ecs/ecs-agent.log on the instance"
            )
        elif group:
            limits = f"desired {group.get('DesiredCapacity')}, allowed {group.get('MinSize')} to {group.get('MaxSize')}"
            advice = (
                f"the auto-scaling group has no instance ({limits}): its activities say why; check MinInstances and MaxInstances"
            )
        else:
            advice = "the cluster has no capacity provider with an auto-scaling group: run make deploy ONLY=cluster"
        yield Finding(cause, advice)
    lost = [instance.get("ec2InstanceId", "?") for instance in active if not instance.get("agentConnected", True)]
    if lost:
        advice = f"replace them: aws ec2 terminate-instances --instance-ids {' '.join(lost)}; if all are affected, {_UNREACHABLE}"
        yield Finding(f"ECS has lost the agent of {len(lost)} of {counted(len(active), 'instance')}: {', '.join(lost)}", advice)


_UNREACHABLE = (
    "check the private subnet's NAT gateway or endpoints, the instance profile's permissions, and the cluster's name in ECS_CLUSTER"
)


def _size(state: State) -> Iterator[Finding]:
    """A task that does not fit even an empty instance."""
    task = state.task_definition or {}
    for name, key in (("MEMORY", "memory"), ("CPU", "cpu")):
        sizes = [
            int(resource["integerValue"])
            for instance in state.instances or []
            for resource in instance.get("registeredResources", [])
            if resource["name"] == name
        ]
        needed = int(task.get(key) or 0)
        if sizes and needed > max(sizes):
            yield Finding(
                f"a task needs {needed} {UNITS[name]}, but the largest instance has {max(sizes)} in total",
                "use a larger InstanceType, or lower TaskMemory or TaskCpu",
            )


def _rolled_back(state: State) -> Iterator[Finding]:
    reason = rollback_of(state)
    if reason is not None and state.primary is not None:
        restored = f"; {short(state.primary['taskDefinition'])} is running again"
        running = "" if state.primary.get("rolloutState") == "FAILED" else restored
        yield Finding(f"the last deployment failed: {reason}{running}", "fix the other causes listed here, then run make deploy")


def _placement(state: State) -> Iterator[Finding]:
    start = since(state)
    # ECS counts in milliseconds: what is as old as the steady state may have come after it
    messages = [event["message"] for event in state.events if event["createdAt"] >= start]
    for message in messages:
        # the others are consequences of what tasks, targets and deployments show
        reason = known_reason(message) if scope_of(message) in ("placement", "service") else None
        # only the newest: ECS repeats it at each attempt
        if reason is not None:
            yield Finding(f"{reason.cause}: {message}", reason.advice)
            return


def _stopped(state: State) -> Iterator[Finding]:
    start = since(state)
    tasks = [task for task in state.stopped if task.get("stoppedAt", LONG_AGO) >= start]
    for why, count in count_by_reason(tasks).most_common():
        task = next(task for task in tasks if unexpected(task) and stop_reason(task) == why)
        lines = state.logs.get(task["taskArn"], [])
        log = "".join(f"\n     {line}" for line in lines)
        stopped = f"{counted(count, 'task')} stopped: {why}"
        # ECS reports no more than exit code 255 for it
        reason = known_reason("\n".join([why, *(line for line in lines if "exec format error" in line)]))
        if "failed ELB health checks" in why:
            yield _failed_check(state, task, stopped, log)
        elif reason is not None and "exit" not in reason.scopes:
            yield Finding(f"{reason.cause}. {stopped}{log}", reason.advice)
        else:
            last = f" Its last log lines:{log}" if log else " It logged nothing."
            cause, advice = (f"{reason.cause}. ", f"{reason.advice}; ") if reason else ("", "")
            yield Finding(f"{cause}{stopped}.{last}", f"{advice}the whole log: {_log_command(state, task)}")


def _failed_check(state: State, task: Answer, stopped: str, log: str) -> Finding:
    grace_s = (state.service or {}).get("healthCheckGracePeriodSeconds") or 0
    ended = task.get("stoppingAt") or task.get("stoppedAt")
    lived_s = (ended - task["startedAt"]).total_seconds() if ended and task.get("startedAt") else None
    lines = f" Its last log lines:{log}" if log else ""
    # it has failed the very first checks that count
    if lived_s is not None and lived_s <= grace_s + SLOW_S:
        return Finding(
            f"{stopped}. It was stopped {lived_s:.0f} s after its start and was never ready; "
            f"the grace period is {grace_s} s.{lines}",
            "if it was still loading, the grace period is too short: raise HealthCheckGracePeriod above the time of a start; "
            "otherwise its log says why it is not ready",
        )
    after = f" {lived_s:.0f} s after its start" if lived_s is not None else ""
    return Finding(
        f"{stopped}. It was stopped{after}, beyond the grace period of {grace_s} s.{lines}", TARGETS["Target.ResponseCodeMismatch"]
    )


def _log_command(state: State, task: Answer) -> str:
    containers = (state.task_definition or {}).get("containerDefinitions", [])
    groups = [one.get("logConfiguration", {}).get("options", {}).get("awslogs-group") for one in containers]
    group = next((name for name in groups if name), "GROUP")
    return f"aws logs tail {group} --since 1h (task {task['taskArn'].rpartition('/')[2]})"


def _targets(state: State) -> Iterator[Finding]:
    unhealthy: dict[tuple[str, str], list[str]] = {}
    for target in state.targets:
        health = target["TargetHealth"]
        if health["State"] not in TRANSIENT or health.get("Reason") == "Target.NotInUse":
            key = (health.get("Reason") or health["State"], health.get("Description", ""))
            unhealthy.setdefault(key, []).append(target["Target"]["Id"])
    for (reason, description), ids in unhealthy.items():
        why = f"{reason}: {description}" if description else reason
        yield Finding(
            f"{len(ids)} of {len(state.targets)} targets unhealthy: {why} ({', '.join(ids)})",
            TARGETS.get(reason, "see the tasks' log"),
        )


def _alarms(state: State) -> Iterator[Finding]:
    service = state.service or {}
    high = [alarm["AlarmName"] for alarm in state.alarms if any(":scalingPolicy:" in one for one in alarm.get("AlarmActions", ()))]
    most = (state.scalable or {}).get("MaxCapacity")
    # such an alarm starts each scale-out, so it is a problem only where there is no task left to add
    if high and most is not None and service.get("desiredCount", 0) >= most:
        yield Finding(
            f"autoscaling is at its maximum of {counted(most, 'task')}, and the load is still above its target",
            "raise MaxTasks, and MaxInstances with it",
        )
    for alarm in state.alarms:
        if alarm["AlarmName"] not in high:
            why = alarm.get("StateReason", "no reason given")
            yield Finding(f"alarm {alarm['AlarmName']} is in ALARM: {why}", alarm.get("AlarmDescription") or "check its metric")


def _counts(state: State) -> Iterator[Finding]:
    """A consequence of the other causes, and the only sign of an unknown one."""
    service, primary = state.service, state.primary
    if service is None or primary is None:
        return
    desired, running = service["desiredCount"], service["runningCount"]
    if desired == 0:
        yield Finding("the service is set to run no tasks", "run make deploy: DesiredCount and MinTasks set the number")
    if primary.get("rolloutState", "COMPLETED") == "IN_PROGRESS":
        for_s = (datetime.now(UTC) - primary["createdAt"]).total_seconds()
        if for_s > LONG_S:
            yield Finding(
                f"a deployment has been in progress for {counted(round(for_s / 60), 'minute')}, "
                f"with {running} of {counted(desired, 'task')} running",
                _EVENTS,
            )
    elif running < desired:
        yield Finding(f"{running} of {counted(desired, 'task')} running", _EVENTS)
    # a deployment in progress needs instances even while all desired tasks are running
    group = state.group or {}
    missing = running < desired or primary["runningCount"] < primary["desiredCount"]
    if missing and group and group.get("DesiredCapacity", 0) >= group.get("MaxSize", 0):
        advice = "raise MaxInstances if there is no capacity for the missing tasks"
        yield Finding(f"the auto-scaling group is at its maximum of {group.get('MaxSize')} instances", advice)


_EVENTS = "if no other cause is listed here, see the service's events in the ECS console"
# in the order in which a person should fix them: the later ones often follow from the earlier
CAUSES: tuple[Callable[[State], Iterator[Finding]], ...] = (
    _stacks,
    _gone,
    _linked_role,
    _release,
    _quota,
    _instances,
    _size,
    _placement,
    _rolled_back,
    _stopped,
    _targets,
    _alarms,
    _counts,
)
