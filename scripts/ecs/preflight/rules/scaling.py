"""Rules about auto scaling: it measures and scales this service, within valid limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    Finding,
    is_true,
    load_balancers_of,
    number,
    number_or,
    services,
    shown,
    target_groups_of,
)

CLUSTER = "AWS::ECS::Cluster"


def scaling_targets(stacks: Stacks, service: Resource) -> list[Resource]:
    """The targets that scale a service; all targets if none names it."""
    found = stacks.of("ApplicationAutoScaling::ScalableTarget")
    # a misspelt ResourceId has a rule of its own, and must not hide wrong limits
    named = [one for one in found if one.get("ResourceId") == resource_id(stacks, service)]
    return named or found


def resource_id(stacks: Stacks, service: Resource) -> str:
    """A service's id in Application Auto Scaling."""
    cluster = stacks.find(service.get("Cluster"), CLUSTER)
    return f"service/{cluster.identifiers['name'] if cluster else 'default'}/{service.identifiers['name']}"


def desired_count_is_within_limits(stacks: Stacks) -> Iterator[Finding]:
    """A deployment without a task proves nothing, and scaling undoes a count outside its limits: set 1 or more, within them."""
    for service in services(stacks):
        count = number_or(service.get("DesiredCount"), 1)
        if count < 1:
            yield Finding(f"{service}", f"DesiredCount is {count:g}", "1 or more")
        for target in scaling_targets(stacks, service):
            least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
            # invalid limits are reported by the next rule
            if least is not None and most is not None and least <= most and not least <= count <= most:
                yield Finding(f"{service}", f"DesiredCount is {count:g}", f"{least:g} to {most:g}, the limits of {target}")


def scaling_is_of_this_service(stacks: Stacks) -> Iterator[Finding]:
    """Scaling that names another service has no effect: use this service's ResourceId, dimension, limits and policies."""
    ids = [resource_id(stacks, service) for service in services(stacks)]
    targets = stacks.of("ApplicationAutoScaling::ScalableTarget")
    if not targets:
        yield Finding("all stacks", "there is no ScalableTarget", "one with policies on requests and CPU")
    for target in targets:
        wanted = {"ServiceNamespace": "ecs", "ScalableDimension": "ecs:service:DesiredCount"}
        for key, value in wanted.items():
            if target.get(key) != value:
                yield Finding(f"{target}", f"{key} is {shown(target.get(key))}", value)
        if target.get("ResourceId") not in ids:
            yield Finding(
                f"{target}", f"ResourceId is {shown(target.get('ResourceId'))}", ", ".join(ids) or "a service of these stacks"
            )
        for service in services(stacks):
            # registering a target before its service exists fails
            same = service.stack == target.stack and target.get("ResourceId") == resource_id(stacks, service)
            if same and service.name not in stacks.before(target):
                yield Finding(f"{target}", f"it does not wait for {service}", "its name by !GetAtt, or DependsOn")
        suspended = [key for key, value in (target.get("SuspendedState") or {}).items() if is_true(value)]
        if suspended:
            yield Finding(f"{target}", f"SuspendedState has {', '.join(suspended)}", "nothing suspended, or it never scales")
        least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
        if least is None or most is None or not 1 <= least <= most:
            found = f"MinCapacity is {shown(target.get('MinCapacity'))}, MaxCapacity {shown(target.get('MaxCapacity'))}"
            yield Finding(f"{target}", found, "1 <= MinCapacity <= MaxCapacity")


def scaling_policies_measure_this_service(stacks: Stacks) -> Iterator[Finding]:
    """A policy on another target group never scales this service: have one on its requests, and one on its CPU."""
    targets = stacks.of("ApplicationAutoScaling::ScalableTarget")
    policies = stacks.of("ApplicationAutoScaling::ScalingPolicy")
    for target in targets:
        if not any(stacks.find(one.get("ScalingTargetId"), target.type) == target for one in policies):
            yield Finding(f"{target}", "it has no policy", "a ScalingPolicy with its ScalingTargetId")
    # CPU alone reacts late, and requests alone miss large photos
    metrics = [_metric(one).get("PredefinedMetricType") for one in policies]
    for wanted in ("ALBRequestCountPerTarget", "ECSServiceAverageCPUUtilization"):
        if wanted not in metrics:
            yield Finding("all stacks", f"no policy uses {wanted}", "one on requests, and one on CPU")
    for policy in policies:
        named = stacks.find(policy.get("ScalingTargetId"), "AWS::ApplicationAutoScaling::ScalableTarget")
        if named is None and policy.get("ResourceId") not in [one.get("ResourceId") for one in targets]:
            yield Finding(f"{policy}", f"ScalingTargetId is {shown(policy.get('ScalingTargetId'))}", "the scaling target")
        if policy.get("PolicyType") == "StepScaling":
            yield from _step_faults(stacks, policy)
            continue
        tracking = policy.get("TargetTrackingScalingPolicyConfiguration") or {}
        if policy.get("PolicyType") != "TargetTrackingScaling":
            yield Finding(
                f"{policy}", f"PolicyType is {shown(policy.get('PolicyType'))}", "TargetTrackingScaling, or StepScaling of an alarm"
            )
        if number_or(tracking.get("TargetValue"), 0) <= 0:
            yield Finding(f"{policy}", f"TargetValue is {shown(tracking.get('TargetValue'))}", "more than 0")
        metric = _metric(policy)
        label = metric.get("ResourceLabel")
        if metric.get("PredefinedMetricType") == "ALBRequestCountPerTarget" and label not in _labels(stacks):
            yield Finding(f"{policy}", f"ResourceLabel is {shown(label)}", " or ".join(_labels(stacks)))
        # CPU is an average over tasks: above 95 it would practically never scale
        elif (
            metric.get("PredefinedMetricType") == "ECSServiceAverageCPUUtilization"
            and number_or(tracking.get("TargetValue"), 0) > 95
        ):
            yield Finding(
                f"{policy}", f"TargetValue is {tracking.get('TargetValue')} % of CPU", "at most 95, as it never exceeds 100"
            )


def _step_faults(stacks: Stacks, policy: Resource) -> Iterator[Finding]:
    """What is wrong with a policy that an alarm starts. It only adds tasks: the others remove them when there is less to do."""
    steps = policy.get("StepScalingPolicyConfiguration") or {}
    added = [number_or(one.get("ScalingAdjustment"), 0) for one in steps.get("StepAdjustments") or []]
    if steps.get("AdjustmentType") != "ChangeInCapacity" or not added or min(added) <= 0:
        found = f"AdjustmentType is {shown(steps.get('AdjustmentType'))}, its steps are {shown(added or None)}"
        yield Finding(f"{policy}", found, "ChangeInCapacity, by 1 or more tasks")
    if not any(policy.identifiers["arn"] in one.list("AlarmActions") for one in stacks.of("CloudWatch::Alarm")):
        yield Finding(f"{policy}", "no alarm starts it", "an alarm with it among its AlarmActions")


def _metric(policy: Resource) -> Mapping[str, Any]:
    return policy.get("TargetTrackingScalingPolicyConfiguration", "PredefinedMetricSpecification") or {}


def _labels(stacks: Stacks) -> list[str]:
    """The ResourceLabel of each target group of our services."""
    return [
        f"«{balancer}.LoadBalancerFullName»/«{group}.TargetGroupFullName»"
        for service in services(stacks)
        for group in target_groups_of(stacks, service)
        for balancer in load_balancers_of(stacks, service)
    ]


RULES = (
    desired_count_is_within_limits,
    scaling_is_of_this_service,
    scaling_policies_measure_this_service,
)
