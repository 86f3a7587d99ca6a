"""Rules about the service: how it is placed, how it deploys, and when a deployment is undone."""

import math
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    START_S,
    TARGET_GROUP,
    TRAFFIC_PORT,
    Finding,
    containers,
    forwarding,
    is_true,
    network_mode,
    number,
    number_or,
    port_mappings,
    services,
    shown,
    strategy,
    target_groups_of,
    task_of,
)
from scripts.ecs.preflight.rules.scaling import scaling_targets
from scripts.ecs.stacks import ORDER
from scripts.phrases import counted

ALARM, CLUSTER = "AWS::CloudWatch::Alarm", "AWS::ECS::Cluster"
ASSOCIATION = "AWS::ECS::ClusterCapacityProviderAssociations"


def service_asks_capacity_provider(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses LaunchType beside a strategy, and adds no instances without one: set CapacityProviderStrategy only."""
    for service in services(stacks):
        if service.get("LaunchType"):
            yield Finding(f"{service}", f"LaunchType is {service.get('LaunchType')}", "only a CapacityProviderStrategy")
        weights = [number_or(one.get("Weight"), 0) for one in service.list("CapacityProviderStrategy")]
        if not strategy(service):
            yield Finding(f"{service}", "CapacityProviderStrategy is not set", "the cluster's capacity provider")
        elif not any(weight > 0 for weight in weights):
            yield Finding(
                f"{service}", f"Weight is {', '.join(f'{one:g}' for one in weights)}", "1 or more, as weight 0 places no task"
            )
        if service.get("PlatformVersion"):
            yield Finding(f"{service}", f"PlatformVersion is {service.get('PlatformVersion')}", "not set, as it is for Fargate")
        # a daemon runs on every instance and ignores DesiredCount and scaling
        if service.get("SchedulingStrategy") not in (None, "REPLICA"):
            yield Finding(f"{service}", f"SchedulingStrategy is {service.get('SchedulingStrategy')}", "REPLICA")


def service_is_in_our_cluster(stacks: Stacks) -> Iterator[Finding]:
    """A service without Cluster goes to the cluster named default, which has no instances: name the cluster of these stacks."""
    for service in services(stacks):
        cluster = stacks.find(service.get("Cluster"), CLUSTER)
        if cluster is None:
            yield Finding(f"{service}", f"Cluster is {shown(service.get('Cluster'))}", "the cluster of these stacks")
    for association in stacks.of("ECS::ClusterCapacityProviderAssociations"):
        if stacks.find(association.get("Cluster"), CLUSTER) is None:
            yield Finding(f"{association}", f"Cluster is {shown(association.get('Cluster'))}", "the cluster of these stacks")


def grace_period_covers_start(stacks: Stacks) -> Iterator[Finding]:
    """ECS replaces a task that is unhealthy while its model loads: make the grace period cover the start and the first checks."""
    for service in services(stacks):
        given_s = number_or(service.get("HealthCheckGracePeriodSeconds"), 0)
        checks = [
            number_or(group.get("HealthCheckIntervalSeconds"), 30) * number_or(group.get("HealthyThresholdCount"), 5)
            for group in target_groups_of(stacks, service)
        ]
        # the load balancer calls a target healthy only after several checks in a row
        needed_s = START_S + max(checks, default=0)
        if given_s < needed_s:
            expected = f"{needed_s:g} or more: {START_S} s for the start, the rest for the first health checks"
            yield Finding(f"{service}", f"HealthCheckGracePeriodSeconds is {given_s:g}", expected)


def circuit_breaker_rolls_back(stacks: Stacks) -> Iterator[Finding]:
    """Without the circuit breaker ECS retries a broken revision forever: enable it with rollback, under ECS's own controller."""
    for service in services(stacks):
        for key in ("Enable", "Rollback"):
            value = service.get("DeploymentConfiguration", "DeploymentCircuitBreaker", key)
            if not is_true(value):
                yield Finding(f"{service}", f"DeploymentCircuitBreaker.{key} is {shown(value)}", "true")
        # CodeDeploy and external controllers ignore the circuit breaker
        controller = service.get("DeploymentController", "Type") or "ECS"
        if controller != "ECS":
            yield Finding(
                f"{service}", f"DeploymentController is {controller}", "ECS, as only its deployments have the circuit breaker"
            )
        kind = service.get("DeploymentConfiguration", "Strategy") or "ROLLING"
        if kind != "ROLLING":
            yield Finding(f"{service}", f"the deployment strategy is {kind}", "ROLLING, as make deploy watches no other")


def deployment_alarms_exist(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses alarms that do not exist, and without alarms a bad revision stays: name alarms created earlier, with rollback."""
    for service in services(stacks):
        for key in ("Enable", "Rollback"):
            switch = service.get("DeploymentConfiguration", "Alarms", key)
            if not is_true(switch):
                yield Finding(f"{service}", f"Alarms.{key} is {shown(switch)}", "true")
        names = service.list("DeploymentConfiguration", "Alarms", "AlarmNames")
        if not names:
            yield Finding(f"{service}", "Alarms.AlarmNames is empty", "the alarms that undo a deployment")
        for name in names:
            alarm = stacks.find(name, ALARM, "name")
            if alarm is None or ORDER.index(alarm.stack) > ORDER.index(service.stack):
                yield Finding(f"{service}", f"AlarmNames has {name}", "an alarm of this stack or an earlier one")
            elif alarm.stack == service.stack and alarm.name not in stacks.before(service):
                yield Finding(f"{service}", f"it does not wait for its alarm {alarm}", "!Ref of the alarm, or DependsOn")
            # ELB sends no data points without requests
            elif alarm.get("TreatMissingData") == "breaching":
                yield Finding(
                    f"{alarm}", "TreatMissingData is breaching", "notBreaching, or a deployment without traffic is undone"
                )
            # a new task is unhealthy while it starts, which must not undo its deployment
            elif alarm.get("MetricName") in ("UnHealthyHostCount", "HealthyHostCount"):
                times = number_or(alarm.get("DatapointsToAlarm") or alarm.get("EvaluationPeriods"), 1)
                window_s = times * number_or(alarm.get("Period"), 60)
                start_s = number_or(service.get("HealthCheckGracePeriodSeconds"), 0)
                if window_s < start_s:
                    yield Finding(
                        f"{alarm}",
                        f"it goes off after {window_s:g} s",
                        f"{start_s:g} s or more, the time that a task may take to start",
                    )


def deployment_can_progress(stacks: Stacks) -> Iterator[Finding]:
    """A deployment hangs if ECS may neither start nor stop a task: leave room for one more, and keep one serving."""
    for service in services(stacks):
        most = number_or(service.get("DeploymentConfiguration", "MaximumPercent"), 200)
        least = number_or(service.get("DeploymentConfiguration", "MinimumHealthyPercent"), 100)
        if not 0 <= least <= 100 <= most:
            yield Finding(
                f"{service}",
                f"the percentages are {least:g} to {most:g}",
                "MinimumHealthyPercent 0 to 100, MaximumPercent 100 or more",
            )
        for count in _counts(stacks, service):
            # ECS rounds the maximum down and the minimum up
            can_start = math.floor(count * most / 100) > count
            kept = math.ceil(count * least / 100)
            if not can_start and kept >= count:
                found = f"with {counted(count, 'task')} and {least:g} to {most:g} % it can neither start nor stop one"
                yield Finding(f"{service}", found, "MinimumHealthyPercent 100 and MaximumPercent 200")
                break
            if kept == 0:
                yield Finding(f"{service}", f"MinimumHealthyPercent is {least:g}", "100, or nothing serves during a deployment")
                break


def _counts(stacks: Stacks, service: Resource) -> list[int]:
    """The numbers of tasks that a service may have; of a wide range the first 200."""
    found = {int(number_or(service.get("DesiredCount"), 1))}
    for target in scaling_targets(stacks, service):
        least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
        if least is not None and most is not None:
            # percentages only fail for small numbers, so the first 200 are enough
            found |= set(range(int(least), min(int(most), int(least) + 200) + 1))
    return sorted(one for one in found if one > 0)


def service_waits_for_listener(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a target group that no listener uses yet: make the service depend on the listener or rule that forwards to it."""
    for service in services(stacks):
        for group in target_groups_of(stacks, service):
            found = list(forwarding(stacks, group))
            if not found:
                yield Finding(f"{group}", "no listener forwards to it", "a listener or a rule that does")
            before = stacks.before(service)
            # a listener in an earlier stack exists already
            if found and not any(one.stack != service.stack or one.name in before for one, _ in found):
                yield Finding(
                    f"{service}", f"DependsOn has no {found[0][0].name}", "the listener that forwards to its target group"
                )


def service_waits_for_capacity_provider(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a strategy until the cluster has its providers: make the service depend on their association."""
    for service in services(stacks):
        for association in stacks.of(ASSOCIATION):
            if stacks.find(association.get("Cluster"), CLUSTER) != stacks.find(service.get("Cluster"), CLUSTER):
                continue
            if ORDER.index(association.stack) > ORDER.index(service.stack):
                yield Finding(f"{service}", f"{association} is created later", "an association in an earlier stack")
            elif association.stack == service.stack and association.name not in stacks.before(service):
                yield Finding(f"{service}", f"DependsOn has no {association.name}", "the association, which is in the same stack")


def load_balancer_names_container(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a container name or port that the task does not have: name the serving container and its port."""
    for service in services(stacks):
        task, entries = task_of(stacks, service), service.list("LoadBalancers")
        if not entries:
            yield Finding(f"{service}", "LoadBalancers is empty", "target group, container and port")
        for entry in entries if task else []:
            assert task is not None
            by_name = {one.get("Name"): one for one in containers(task)}
            name, port = entry.get("ContainerName"), number(entry.get("ContainerPort"))
            if name not in by_name:
                yield Finding(f"{service}", f"ContainerName is {shown(name)}", f"one of {', '.join(map(str, by_name))}")
                continue
            mapped = [one for ports, _ in port_mappings(by_name[name]) for one in ports]
            protocols = [str(at.get("Protocol") or "tcp") for ports, at in port_mappings(by_name[name]) if port in ports]
            # a port mapping may be UDP, which ELB cannot use
            if any(protocol != "tcp" for protocol in protocols):
                yield Finding(f"{task}", f"Protocol of port {shown(port)} is {', '.join(protocols)}", "tcp")
            if port not in mapped or port != TRAFFIC_PORT:
                expected = f"{TRAFFIC_PORT}, where it serves, as a mapped port"
                yield Finding(
                    f"{service}", f"ContainerPort is {shown(entry.get('ContainerPort'))}, mapped ports {mapped}", expected
                )
            group = stacks.find(entry.get("TargetGroupArn"), TARGET_GROUP, "arn")
            if group is None:
                yield Finding(
                    f"{service}", f"TargetGroupArn is {shown(entry.get('TargetGroupArn'))}", "a target group of these stacks"
                )
            elif network_mode(task) == "awsvpc" and number(group.get("Port")) != port:
                yield Finding(f"{group}", f"Port is {shown(group.get('Port'))}", f"{shown(port)}, the service's ContainerPort")


def commands_can_run(stacks: Stacks) -> Iterator[Finding]:
    """ECS Exec needs a writable root file system, and ours is read-only: leave EnableExecuteCommand off."""
    for service in services(stacks):
        task = task_of(stacks, service)
        if task and is_true(service.get("EnableExecuteCommand")):
            for container in containers(task):
                if is_true(container.get("ReadonlyRootFilesystem")):
                    yield Finding(f"{service}", "EnableExecuteCommand is true", "false, as the root file system is read-only")


RULES = (
    service_asks_capacity_provider,
    service_is_in_our_cluster,
    grace_period_covers_start,
    circuit_breaker_rolls_back,
    deployment_alarms_exist,
    deployment_can_progress,
    service_waits_for_listener,
    service_waits_for_capacity_provider,
    load_balancer_names_container,
    commands_can_run,
)
