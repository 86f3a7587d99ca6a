"""Why a service is not as it should be: findings from its state, each with what to do. Pure: nothing is asked of AWS here."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from scripts.ecs.doctor.history import rollback_of, short, since
from scripts.ecs.doctor.reasons import faulty, grouped, reason_of, words_of
from scripts.ecs.doctor.service_state import LONG_AGO, Answer, State
from scripts.ecs.stack import Stack

QUOTA = ("VcpuLimitExceeded", "vCPU limit", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "exceeded your quota", "Quota")
LONG_S = 900.0  # a deployment that goes on for so long does not end by itself
SLOW_S = 60.0  # a load balancer takes up to this long to call a target unhealthy
TARGETS = {
    "Target.Timeout": "the security group of the tasks must let the load balancer in, on the health check's port too",
    "Target.ResponseCodeMismatch": "the task answers, but is not ready: /readyz says why, and so do its last log lines; "
    "a wrong health check path answers 404",
    "Target.FailedHealthChecks": "nothing listens on the health check's port: the container's log says what it did instead",
    "Target.NotInUse": "the target's zone is not switched on at the load balancer, or no listener forwards to the target group",
    "Target.IpUnusable": "the address is taken by another resource",
    "Elb.InternalError": "the fault is in AWS: wait, and look again",
}
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
TRANSIENT = ("initial", "draining", "healthy", "unused")


class Finding(NamedTuple):
    """Something that is wrong, and what to do about it."""

    cause: str
    advice: str


def explain(found: list[Finding]) -> str:
    """The findings as a numbered list."""
    blocks = [f"{i}. {finding.cause}\n   -> {finding.advice}" for i, finding in enumerate(found, 1)]
    return "\n".join(blocks) or "no known cause is to be seen"


def findings(state: State) -> list[Finding]:
    """What is wrong, the causes before what follows from them; each once."""
    return list(dict.fromkeys(finding for cause in CAUSES for finding in cause(state)))


def _stacks(state: State) -> Iterator[Finding]:
    for name, stack in state.stacks.items():
        if stack is None:
            yield Finding(f"the stack {name} is not there", "make deploy creates it")
        elif stack.status in ("UPDATE_ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE") or stack.status.endswith("_FAILED"):
            yield Finding(f"the stack {name} is {stack.status}{_why(stack, state)}", "put right what it names, then make deploy")


def _gone(state: State) -> Iterator[Finding]:
    whole = state.stacks and all(stack is not None and stack.status in DONE for stack in state.stacks.values())
    if whole and state.service is None and not state.unseen:
        yield Finding("the stacks are there, and the service is not: somebody has deleted it", "make destroy, then make deploy")


def _why(stack: Stack, state: State) -> str:
    why = [*([stack.why] if stack.why else []), *state.stack_failures]
    return ": " + "; ".join(why) if why else ""


def _linked_role(state: State) -> Iterator[Finding]:
    if state.linked_role is False or any("service linked role" in why.lower() for why in state.stack_failures):
        yield Finding(
            "the account has no service-linked role of ECS",
            "aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com",
        )


def _release(state: State) -> Iterator[Finding]:
    if state.release is False:
        yield Finding(
            "there is no release.json in the bucket, so no task can serve",
            "make deploy writes the first one for the newest archive; make rollout RELEASE=s3://BUCKET/release.json VERSION=...",
        )


def _quota(state: State) -> Iterator[Finding]:
    for activity in failed_activities(state.activities):
        said = activity.get("StatusMessage") or activity.get("Description", "no reason given")
        if any(word in said for word in QUOTA):
            advice = "ask for more in Service Quotas (EC2, running on-demand instances), or lower MaxInstances or the InstanceType"
            yield Finding(f"the account's quota refuses another instance: {said}", advice)
        elif "InsufficientInstanceCapacity" in said or "not have sufficient" in said:
            yield Finding(f"AWS has no instance of that type to give: {said}", "another InstanceType, or more zones; else wait")
        else:
            yield Finding(
                f"the auto-scaling group could not do something: {said}", "look at the launch template in the stack of cluster"
            )


def failed_activities(activities: list[Answer]) -> list[Answer]:
    """Those of an auto-scaling group that failed, newest first; one that succeeded later has made them good."""
    failed = []
    for activity in activities:
        if activity["StatusCode"] == "Successful":
            break
        if activity["StatusCode"] in ("Failed", "Cancelled"):
            failed.append(activity)
    return failed


def _instances(state: State) -> Iterator[Finding]:
    if state.instances is None:
        return
    active = [instance for instance in state.instances if instance.get("status") in (None, "ACTIVE", "DRAINING")]
    wanted = (state.service or {}).get("desiredCount", 0)
    if not active and wanted:
        group = state.group or {}
        there = len(group.get("Instances", []))
        cause = f"no container instance is registered in cluster {state.cluster}"
        if there:
            advice = (
                f"the auto-scaling group has {there}, so they do not reach ECS: {_NO_WAY}. "
                "The agent's words: aws ec2 get-console-output --instance-id, or /var/log/ecs/ecs-agent.log on it"
            )
        elif group:
            limits = f"{group.get('DesiredCapacity')} wanted, {group.get('MinSize')} to {group.get('MaxSize')} allowed"
            advice = (
                f"the auto-scaling group has none ({limits}): its activities say why; MinInstances and MaxInstances set the limits"
            )
        else:
            advice = "the cluster has no capacity provider with an auto-scaling group: deploy the stack of cluster"
        yield Finding(cause, advice)
    lost = [instance.get("ec2InstanceId", "?") for instance in active if not instance.get("agentConnected", True)]
    if lost:
        advice = f"replace it: aws ec2 terminate-instances --instance-ids {' '.join(lost)}; if all are like that, {_NO_WAY}"
        yield Finding(f"ECS has no connection to the agent of {len(lost)} of {len(active)} instances: {', '.join(lost)}", advice)


_NO_WAY = "a private subnet needs a NAT gateway or endpoints, the instance profile its rights, and ECS_CLUSTER the cluster's name"


def _size(state: State) -> Iterator[Finding]:
    """A task that would not even fit an empty instance."""
    task = state.task_definition or {}
    for name, key in (("MEMORY", "memory"), ("CPU", "cpu")):
        has = [
            int(resource["integerValue"])
            for instance in state.instances or []
            for resource in instance.get("registeredResources", [])
            if resource["name"] == name
        ]
        wants = int(task.get(key) or 0)
        if has and wants > max(has):
            yield Finding(
                f"a task wants {wants} of {name}, and the largest instance has {max(has)} in all",
                "a larger InstanceType, or a smaller TaskMemory or TaskCpu",
            )


def _rolled_back(state: State) -> Iterator[Finding]:
    why = rollback_of(state)
    if why is not None and state.primary is not None:
        runs = (
            "" if state.primary.get("rolloutState") == "FAILED" else f"; {short(state.primary['taskDefinition'])} is served again"
        )
        yield Finding(f"the last deployment failed: {why}{runs}", "put right what is named here, then make deploy")


def _placement(state: State) -> Iterator[Finding]:
    start = since(state)
    told = [event["message"] for event in state.events if event["createdAt"] > start]
    said = [message for message in told if "unable to" in message or "was unable" in message]
    for message in said:
        reason = reason_of(message)
        if reason is not None:
            yield Finding(f"{reason.cause}: {message}", reason.advice)
            return


def _stopped(state: State) -> Iterator[Finding]:
    start = since(state)
    tasks = [task for task in state.stopped if task.get("stoppedAt", LONG_AGO) >= start]
    for words, count in grouped(tasks).most_common():
        task = next(task for task in tasks if faulty(task) and words_of(task) == words)
        lines = state.logs.get(task["taskArn"], [])
        last = "".join(f"\n     {line}" for line in lines)
        tasks_words = f"{count} task{'s' if count > 1 else ''} stopped"
        reason = reason_of("\n".join([words, *(line for line in lines if "exec format error" in line)]))
        if "failed ELB health checks" in words:
            yield _failed_check(state, task, f"{tasks_words}: {words}", last)
        elif reason is not None:
            yield Finding(f"{reason.cause}. {tasks_words}: {words}{last}", reason.advice)
        else:
            said = f" Its last log lines:{last}" if last else " It logged nothing."
            yield Finding(f"{tasks_words}: {words}.{said}", f"all of its log: {_log_command(state, task)}")


def _failed_check(state: State, task: Answer, said: str, last: str) -> Finding:
    grace_s = (state.service or {}).get("healthCheckGracePeriodSeconds") or 0
    ended = task.get("stoppingAt") or task.get("stoppedAt")
    lived_s = (ended - task["startedAt"]).total_seconds() if ended and task.get("startedAt") else None
    lines = f" Its last log lines:{last}" if last else ""
    if lived_s is not None and lived_s <= grace_s + SLOW_S:
        return Finding(
            f"{said}. It was ended {lived_s:.0f} s after its start, and never ready; the grace period is {grace_s} s.{lines}",
            "if it was still loading, the grace period is too short: raise HealthCheckGracePeriod above the time of a start; "
            "else its log says why it is not ready",
        )
    after = f" {lived_s:.0f} s after its start" if lived_s is not None else ""
    return Finding(
        f"{said}. It was ended{after}, beyond the grace period of {grace_s} s.{lines}", TARGETS["Target.ResponseCodeMismatch"]
    )


def _log_command(state: State, task: Answer) -> str:
    containers = (state.task_definition or {}).get("containerDefinitions", [])
    groups = [one.get("logConfiguration", {}).get("options", {}).get("awslogs-group") for one in containers]
    group = next((name for name in groups if name), "GROUP")
    return f"aws logs tail {group} --since 1h (task {task['taskArn'].rpartition('/')[2]})"


def _targets(state: State) -> Iterator[Finding]:
    ill: dict[tuple[str, str], list[str]] = {}
    for target in state.targets:
        health = target["TargetHealth"]
        if health["State"] not in TRANSIENT or health.get("Reason") == "Target.NotInUse":
            key = (health.get("Reason") or health["State"], health.get("Description", ""))
            ill.setdefault(key, []).append(target["Target"]["Id"])
    for (reason, description), ids in ill.items():
        why = f"{reason}: {description}" if description else reason
        yield Finding(
            f"{len(ids)} of {len(state.targets)} targets unhealthy: {why} ({', '.join(ids)})",
            TARGETS.get(reason, "the tasks' log says what they do"),
        )


def _alarms(state: State) -> Iterator[Finding]:
    service = state.service or {}
    high = [alarm["AlarmName"] for alarm in state.alarms if alarm["AlarmName"].startswith("TargetTracking-")]
    most = (state.scalable or {}).get("MaxCapacity")
    if high and most is not None and service.get("desiredCount", 0) >= most:
        yield Finding(
            f"autoscaling is at its maximum of {most} tasks, and still there is more load than the target",
            "raise MaxTasks, and MaxInstances with it",
        )
    for alarm in state.alarms:
        if alarm["AlarmName"] not in high:
            why = alarm.get("StateReason", "no reason given")
            yield Finding(
                f"alarm {alarm['AlarmName']} is in ALARM: {why}", alarm.get("AlarmDescription") or "look at what it measures"
            )


def _counts(state: State) -> Iterator[Finding]:
    """What follows from the other causes, and the only sign where none of them is known."""
    service, primary = state.service, state.primary
    if service is None or primary is None:
        return
    desired, running = service["desiredCount"], service["runningCount"]
    if desired == 0:
        yield Finding("the service is told to run no task", "make deploy: DesiredCount and MinTasks say how many")
    if primary.get("rolloutState", "COMPLETED") == "IN_PROGRESS":
        for_s = (datetime.now(UTC) - primary["createdAt"]).total_seconds()
        if for_s > LONG_S:
            yield Finding(f"a deployment has gone on for {for_s / 60:.0f} minutes, with {running} of {desired} tasks", _ROOM)
    elif running < desired:
        yield Finding(f"{running} of {desired} tasks run", _ROOM)
    group = state.group or {}
    lacking = running < desired or primary["runningCount"] < primary["desiredCount"]
    if lacking and group and group.get("DesiredCapacity", 0) >= group.get("MaxSize", 0):
        advice = "raise MaxInstances if the tasks that are lacking find no room"
        yield Finding(f"the auto-scaling group is at its maximum of {group.get('MaxSize')} instances", advice)


_ROOM = "if no other cause is named here, look at the service's events in the ECS console"
CAUSES: tuple[Callable[[State], Iterator[Finding]], ...] = (
    *(
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
    ),
)
