"""Rules about the service: how it is placed, deploys, gives up and goes back."""

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

ALARM, CLUSTER = "AWS::CloudWatch::Alarm", "AWS::ECS::Cluster"
ASSOCIATION = "AWS::ECS::ClusterCapacityProviderAssociations"
HERE = "DeploymentConfiguration"


def service_asks_capacity_provider(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses LaunchType beside a strategy, and without one no instance is added for a waiting task: give a strategy alone."""
    for service in services(stacks):
        if service.get("LaunchType"):
            yield Finding(f"{service}", f"LaunchType is {service.get('LaunchType')}", "none, beside a CapacityProviderStrategy")
        weights = [number_or(one.get("Weight"), 0) for one in service.list("CapacityProviderStrategy")]
        if not strategy(service):
            yield Finding(f"{service}", "there is no CapacityProviderStrategy", "the cluster's capacity provider")
        elif not any(weight > 0 for weight in weights):
            yield Finding(f"{service}", f"Weight is {', '.join(f'{one:g}' for one in weights)}", "1 or more, as 0 places nothing")
        if service.get("PlatformVersion"):
            yield Finding(f"{service}", f"PlatformVersion is {service.get('PlatformVersion')}", "none, as it is Fargate's")
        if service.get("SchedulingStrategy") not in (None, "REPLICA"):
            yield Finding(f"{service}", f"SchedulingStrategy is {service.get('SchedulingStrategy')}", "REPLICA")


def service_is_in_our_cluster(stacks: Stacks) -> Iterator[Finding]:
    """A service without a cluster goes to one called default, which has no instance: name the cluster of these stacks."""
    for service in services(stacks):
        cluster = stacks.find(service.get("Cluster"), CLUSTER)
        if cluster is None:
            yield Finding(f"{service}", f"Cluster is {shown(service.get('Cluster'))}", "the cluster of these stacks")
    for association in stacks.of("ECS::ClusterCapacityProviderAssociations"):
        if stacks.find(association.get("Cluster"), CLUSTER) is None:
            yield Finding(f"{association}", f"Cluster is {shown(association.get('Cluster'))}", "the cluster of these stacks")


def grace_period_covers_start(stacks: Stacks) -> Iterator[Finding]:
    """ECS kills a task that is unhealthy while its model still loads: let the grace period hold a start and the checks after it."""
    for service in services(stacks):
        given_s = number_or(service.get("HealthCheckGracePeriodSeconds"), 0)
        checks = [
            number_or(group.get("HealthCheckIntervalSeconds"), 30) * number_or(group.get("HealthyThresholdCount"), 5)
            for group in target_groups_of(stacks, service)
        ]
        needed_s = START_S + max(checks, default=0)
        if given_s < needed_s:
            expected = f"{needed_s:g} or more: {START_S} s for a start, the rest until the load balancer is sure"
            yield Finding(f"{service}", f"HealthCheckGracePeriodSeconds is {given_s:g}", expected)


def circuit_breaker_rolls_back(stacks: Stacks) -> Iterator[Finding]:
    """Without the circuit breaker ECS tries a broken revision for ever: enable it with rollback, and let ECS itself deploy."""
    for service in services(stacks):
        for key in ("Enable", "Rollback"):
            value = service.get(HERE, "DeploymentCircuitBreaker", key)
            if not is_true(value):
                yield Finding(f"{service}", f"DeploymentCircuitBreaker.{key} is {shown(value)}", "true")
        controller = service.get("DeploymentController", "Type") or "ECS"
        if controller != "ECS":
            yield Finding(f"{service}", f"DeploymentController is {controller}", "ECS, whose circuit breaker this is")
        kind = service.get(HERE, "Strategy") or "ROLLING"
        if kind != "ROLLING":
            yield Finding(f"{service}", f"Strategy of deployments is {kind}", "ROLLING, which make deploy watches")


def deployment_alarms_exist(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses alarms that do not exist, and without any a bad revision stays: name alarms made before it, with rollback."""
    for service in services(stacks):
        for key in ("Enable", "Rollback"):
            if not is_true(service.get(HERE, "Alarms", key)):
                yield Finding(f"{service}", f"Alarms.{key} is {shown(service.get(HERE, 'Alarms', key))}", "true")
        names = service.list(HERE, "Alarms", "AlarmNames")
        if not names:
            yield Finding(f"{service}", "Alarms.AlarmNames is empty", "the alarms that undo a deployment")
        for name in names:
            alarm = stacks.find(name, ALARM, "name")
            if alarm is None or ORDER.index(alarm.stack) > ORDER.index(service.stack):
                yield Finding(f"{service}", f"AlarmNames has {name}", "an alarm of this stack or an earlier one")
            elif alarm.stack == service.stack and alarm.name not in stacks.before(service):
                yield Finding(f"{service}", f"nothing makes it wait for its alarm {alarm}", "!Ref of the alarm, or DependsOn")
            elif alarm.get("TreatMissingData") == "breaching":
                yield Finding(f"{alarm}", "TreatMissingData is breaching", "notBreaching, or a service without traffic is undone")
            elif alarm.get("MetricName") in ("UnHealthyHostCount", "HealthyHostCount"):
                times = number_or(alarm.get("DatapointsToAlarm") or alarm.get("EvaluationPeriods"), 1)
                window_s = times * number_or(alarm.get("Period"), 60)
                start_s = number_or(service.get("HealthCheckGracePeriodSeconds"), 0)
                if window_s < start_s:
                    yield Finding(
                        f"{alarm}", f"it goes off after {window_s:g} s", f"{start_s:g} s or more, which a task may take to start"
                    )


def deployment_can_progress(stacks: Stacks) -> Iterator[Finding]:
    """ECS waits for ever if it may neither start nor stop a task: let the percentages leave room for one, and keep one serving."""
    for service in services(stacks):
        most = number_or(service.get(HERE, "MaximumPercent"), 200)
        least = number_or(service.get(HERE, "MinimumHealthyPercent"), 100)
        if not 0 <= least <= 100 <= most:
            yield Finding(f"{service}", f"the percentages are {least:g} to {most:g}", "0 to 100, and 100 or more")
        for count in _counts(stacks, service):
            can_start = math.floor(count * most / 100) > count
            kept = math.ceil(count * least / 100)
            if not can_start and kept >= count:
                found = f"with {count} tasks, {least:g} to {most:g} % lets it neither start nor stop one"
                yield Finding(f"{service}", found, "MinimumHealthyPercent 100 and MaximumPercent 200")
                break
            if kept == 0:
                yield Finding(f"{service}", f"MinimumHealthyPercent is {least:g}", "100, or nothing serves while it deploys")
                break


def _counts(stacks: Stacks, service: Resource) -> list[int]:
    """The numbers of tasks that a service may have."""
    found = {int(number_or(service.get("DesiredCount"), 1))}
    for target in scaling_targets(stacks, service):
        least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
        if least is not None and most is not None:
            found |= set(range(int(least), min(int(most), int(least) + 200) + 1))
    return sorted(one for one in found if one > 0)


def service_waits_for_listener(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a service whose target group no listener uses yet: let it depend on the listener or the rule that forwards."""
    for service in services(stacks):
        for group in target_groups_of(stacks, service):
            found = list(forwarding(stacks, group))
            if not found:
                yield Finding(f"{group}", "no listener forwards to it", "a listener, or a rule of one")
            before = stacks.before(service)
            if found and not any(one.stack != service.stack or one.name in before for one, _ in found):
                yield Finding(
                    f"{service}", f"DependsOn has no {found[0][0].name}", "the listener that forwards to its target group"
                )


def service_waits_for_capacity_provider(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a strategy until the cluster has its providers: let the service depend on their association."""
    for service in services(stacks):
        for association in stacks.of(ASSOCIATION):
            if stacks.find(association.get("Cluster"), CLUSTER) != stacks.find(service.get("Cluster"), CLUSTER):
                continue
            if ORDER.index(association.stack) > ORDER.index(service.stack):
                yield Finding(f"{service}", f"{association} is made later", "in an earlier stack")
            elif association.stack == service.stack and association.name not in stacks.before(service):
                yield Finding(f"{service}", f"DependsOn has no {association.name}", "the association, which is in the same stack")


def load_balancer_names_container(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses a load balancer's container or port that the task does not have: name the container that serves, and its port."""
    for service in services(stacks):
        task, entries = task_of(stacks, service), service.list("LoadBalancers")
        if not entries:
            yield Finding(f"{service}", "LoadBalancers is empty", "the target group, container and port")
        for entry in entries if task else []:
            assert task is not None
            by_name = {one.get("Name"): one for one in containers(task)}
            name, port = entry.get("ContainerName"), number(entry.get("ContainerPort"))
            if name not in by_name:
                yield Finding(f"{service}", f"ContainerName is {shown(name)}", f"one of {', '.join(map(str, by_name))}")
                continue
            mapped = [one for ports, _ in port_mappings(by_name[name]) for one in ports]
            protocols = [str(at.get("Protocol") or "tcp") for ports, at in port_mappings(by_name[name]) if port in ports]
            if any(protocol != "tcp" for protocol in protocols):
                yield Finding(f"{task}", f"Protocol of port {shown(port)} is {', '.join(protocols)}", "tcp")
            if port not in mapped or port != TRAFFIC_PORT:
                expected = f"{TRAFFIC_PORT}, on which it serves, and which it maps"
                yield Finding(f"{service}", f"ContainerPort is {shown(entry.get('ContainerPort'))}, mapped are {mapped}", expected)
            group = stacks.find(entry.get("TargetGroupArn"), TARGET_GROUP, "arn")
            if group is None:
                yield Finding(
                    f"{service}", f"TargetGroupArn is {shown(entry.get('TargetGroupArn'))}", "a target group of these stacks"
                )
            elif network_mode(task) == "awsvpc" and number(group.get("Port")) != port:
                yield Finding(f"{group}", f"Port is {shown(group.get('Port'))}", f"{shown(port)}, the service's ContainerPort")


def commands_can_run(stacks: Stacks) -> Iterator[Finding]:
    """ECS Exec needs a root file system that can be written, and ours cannot: leave EnableExecuteCommand off."""
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
