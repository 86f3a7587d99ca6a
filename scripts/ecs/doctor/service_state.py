"""The state of a service in ECS and around it, as far as the credentials can read it; causes.py explains it."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scripts.ecs.aws import ECS_ROLE, Aws, AwsError
from scripts.ecs.doctor.reasons import stop_reason, unexpected
from scripts.ecs.stack import Stack, physical

MAX_DESCRIBED = 100  # ECS's limit for one call
LOG_LINES, LOG_TASKS, LINE_LENGTH = 8, 3, 300
SERVICE = "AWS::ECS::Service"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

Answer = dict[str, Any]  # as boto3 returns it


@dataclass
class State:
    """None or an empty list where something does not exist, or could not be read; then `unchecked` names it."""

    cluster: str
    service_name: str
    service: Answer | None = None
    stopped: list[Answer] = field(default_factory=list)  # tasks of the last hour, newest first
    targets: list[Answer] = field(default_factory=list)
    instances: list[Answer] | None = None
    group: Answer | None = None
    activities: list[Answer] = field(default_factory=list)  # of the auto-scaling group, newest first
    # --- read by add_details, or by doctor alone ---
    task_definition: Answer | None = None
    logs: dict[str, list[str]] = field(default_factory=dict)  # last lines of stopped tasks, by ARN
    alarms: list[Answer] = field(default_factory=list)
    scalable: Answer | None = None
    linked_role: bool | None = None
    has_release: bool | None = None  # whether there is a release document
    stacks: dict[str, Stack | None] = field(default_factory=dict)
    stack_failures: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What cannot be read is noted, not fatal. AwsError if AWS rejects the credentials altogether."""
        try:
            yield
        except AwsError as error:
            if error.bad_credentials:
                raise
            self.unchecked.append(f"{name}: {error}".splitlines()[0])

    @property
    def deployments(self) -> list[Answer]:
        """Those that ECS still lists, PRIMARY first."""
        found = self.service["deployments"] if self.service else []
        return sorted(found, key=lambda deployment: deployment["status"] != "PRIMARY")

    @property
    def primary(self) -> Answer | None:
        """The deployment that ECS is carrying out, or has carried out."""
        return next((one for one in self.deployments if one["status"] == "PRIMARY"), None)

    @property
    def events(self) -> list[Answer]:
        """The service's own, newest first."""
        found: list[Answer] = self.service["events"] if self.service else []
        return sorted(found, key=lambda event: event["createdAt"], reverse=True)


def cluster_and_name(resources: list[Answer]) -> tuple[str, str] | None:
    """The cluster and name of the service among a stack's resources, None if there is none yet."""
    for arn in physical(resources, SERVICE):
        if arn.count("/") == 2:  # arn:aws:ecs:eu-central-1:111122223333:service/CLUSTER/NAME
            _, cluster, name = arn.split("/")
            return cluster, name
    return None


def read_state(aws: Aws, cluster: str, service_name: str) -> State:
    """What changes from second to second. AwsError only if AWS rejects the credentials."""
    state = State(cluster, service_name)
    with state.part("the service"):
        found = aws.call("ecs", "describe_services", cluster=cluster, services=[service_name])["services"]
        state.service = found[0] if found and found[0]["status"] != "INACTIVE" else None
    with state.part("stopped tasks"):
        stopped = {"cluster": cluster, "serviceName": service_name, "desiredStatus": "STOPPED"}
        arns = list(aws.pages("ecs", "list_tasks", "taskArns", **stopped))[:MAX_DESCRIBED]
        if arns:
            tasks = aws.call("ecs", "describe_tasks", cluster=cluster, tasks=arns)["tasks"]
            state.stopped = sorted(tasks, key=lambda task: task.get("stoppedAt", LONG_AGO), reverse=True)
    with state.part("targets"):
        for balancer in (state.service or {}).get("loadBalancers", []):
            health = aws.call("elbv2", "describe_target_health", TargetGroupArn=balancer["targetGroupArn"])
            state.targets += health["TargetHealthDescriptions"]
    with state.part("container instances"):
        arns = list(aws.pages("ecs", "list_container_instances", "containerInstanceArns", cluster=cluster))[:MAX_DESCRIBED]
        state.instances = []
        if arns:
            described = aws.call("ecs", "describe_container_instances", cluster=cluster, containerInstances=arns)
            state.instances = described["containerInstances"]
    with state.part("the auto-scaling group"):
        name = _group_name(aws, cluster)
        if name:
            groups = aws.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=[name])["AutoScalingGroups"]
            state.group = groups[0] if groups else None
            answer = aws.call("autoscaling", "describe_scaling_activities", AutoScalingGroupName=name, MaxRecords=20)
            state.activities = sorted(answer["Activities"], key=lambda activity: activity["StartTime"], reverse=True)
    return state


def _group_name(aws: Aws, cluster: str) -> str | None:
    """The auto-scaling group of the cluster's capacity provider."""
    clusters = aws.call("ecs", "describe_clusters", clusters=[cluster])["clusters"]
    providers = clusters[0].get("capacityProviders", []) if clusters else []
    if not providers:
        return None
    for provider in aws.call("ecs", "describe_capacity_providers", capacityProviders=providers)["capacityProviders"]:
        arn = provider.get("autoScalingGroupProvider", {}).get("autoScalingGroupArn", "")
        if arn:
            return str(arn).rpartition("autoScalingGroupName/")[2]
    return None


def add_details(aws: Aws, state: State, alarms: list[str]) -> None:
    """Add to a state what a diagnosis needs; `alarms` are the names of the deployment's own. AwsError as above."""
    # one task for each reason, the newest: the logs of the others say the same
    newest = {stop_reason(task): task for task in reversed(state.stopped) if unexpected(task)}
    samples = sorted(newest.values(), key=state.stopped.index)[:LOG_TASKS]
    with state.part("the task definition"):
        # of the newest deployment; after a rollback only its stopped tasks still name it
        arn = samples[0]["taskDefinitionArn"] if samples else (state.primary or {}).get("taskDefinition")
        if arn:
            answer = aws.call("ecs", "describe_task_definition", taskDefinition=arn)
            state.task_definition = answer["taskDefinition"]
    with state.part("logs"):
        for task in samples:
            state.logs[task["taskArn"]] = _last_lines(aws, state.task_definition, task)
    with state.part("alarms"):
        # not AlarmLow: it only says that there are few requests
        own = f"TargetTracking-service/{state.cluster}/{state.service_name}-AlarmHigh"
        queries: list[Answer] = [{"AlarmNamePrefix": own}, *([{"AlarmNames": alarms}] if alarms else [])]
        for query in queries:
            state.alarms += aws.pages("cloudwatch", "describe_alarms", "MetricAlarms", StateValue="ALARM", **query)
    with state.part("autoscaling"):
        ids = [f"service/{state.cluster}/{state.service_name}"]
        answer = aws.call("application-autoscaling", "describe_scalable_targets", ServiceNamespace="ecs", ResourceIds=ids)
        state.scalable = next(iter(answer["ScalableTargets"]), None)
    with state.part("the service-linked role"):
        try:
            aws.call("iam", "get_role", RoleName=ECS_ROLE)
            state.linked_role = True
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            state.linked_role = False


def _last_lines(aws: Aws, task_definition: Answer | None, task: Answer) -> list[str]:
    """The last log lines of a task's essential container, [] if it logged nothing. AwsError."""
    for container in (task_definition or {}).get("containerDefinitions", []):
        options = container.get("logConfiguration", {}).get("options", {})
        if not container.get("essential", True) or "awslogs-group" not in options:
            continue
        stream = f"{options.get('awslogs-stream-prefix', '')}/{container['name']}/{task['taskArn'].rpartition('/')[2]}"
        where = {"logGroupName": options["awslogs-group"], "logStreamName": stream}
        try:
            found = aws.call("logs", "get_log_events", **where, limit=LOG_LINES, startFromHead=False)["events"]
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                return []
            raise
        return [_plain(event["message"])[:LINE_LENGTH] for event in found]
    return []


def _plain(line: str) -> str:
    """A JSON line of scripts/steps.py as text, without what is for CloudWatch or long; any other as it is."""
    try:
        details = json.loads(line)
        step = details.pop("step")
        for name in ("at", "_aws", "traceback"):
            details.pop(name, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return line.strip()
    return f"{step}: {' '.join(f'{name}={value}' for name, value in details.items())}" if details else str(step)
