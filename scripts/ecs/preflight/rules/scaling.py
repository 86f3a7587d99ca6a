"""Rules about scaling: that it measures and changes this service, within limits that make sense."""

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
    """What scales a service: those that name it, and all if none does."""
    found = stacks.of("ApplicationAutoScaling::ScalableTarget")
    named = [one for one in found if one.get("ResourceId") == resource_id(stacks, service)]
    return named or found


def resource_id(stacks: Stacks, service: Resource) -> str:
    """What application auto scaling calls a service."""
    cluster = stacks.find(service.get("Cluster"), CLUSTER)
    return f"service/{cluster.identifiers['name'] if cluster else 'default'}/{service.identifiers['name']}"


def desired_count_is_within_limits(stacks: Stacks) -> Iterator[Finding]:
    """With no task a deployment tells nothing, and scaling undoes what is outside its limits: let it be 1 or more, within them."""
    for service in services(stacks):
        count = number_or(service.get("DesiredCount"), 1)
        if count < 1:
            yield Finding(f"{service}", f"DesiredCount is {count:g}", "1 or more")
        for target in scaling_targets(stacks, service):
            least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
            if least is not None and most is not None and least <= most and not least <= count <= most:
                yield Finding(f"{service}", f"DesiredCount is {count:g}", f"{least:g} to {most:g}, as {target} has it")


def scaling_is_of_this_service(stacks: Stacks) -> Iterator[Finding]:
    """Scaling that names another service does nothing: let ResourceId, dimension, limits and policies be those of this service."""
    ids = [resource_id(stacks, service) for service in services(stacks)]
    targets = stacks.of("ApplicationAutoScaling::ScalableTarget")
    if not targets:
        yield Finding("all stacks", "there is no ScalableTarget", "one, with policies for requests and CPU")
    for target in targets:
        wanted = {"ServiceNamespace": "ecs", "ScalableDimension": "ecs:service:DesiredCount"}
        for key, value in wanted.items():
            if target.get(key) != value:
                yield Finding(f"{target}", f"{key} is {shown(target.get(key))}", value)
        if target.get("ResourceId") not in ids:
            yield Finding(f"{target}", f"ResourceId is {shown(target.get('ResourceId'))}", ", ".join(ids) or "a service")
        for service in services(stacks):
            same = service.stack == target.stack and target.get("ResourceId") == resource_id(stacks, service)
            if same and service.name not in stacks.before(target):
                yield Finding(f"{target}", f"nothing makes it wait for {service}", "its name by !GetAtt, or DependsOn")
        suspended = [key for key, value in (target.get("SuspendedState") or {}).items() if is_true(value)]
        if suspended:
            yield Finding(f"{target}", f"SuspendedState has {', '.join(suspended)}", "none, or it never scales")
        least, most = number(target.get("MinCapacity")), number(target.get("MaxCapacity"))
        if least is None or most is None or not 1 <= least <= most:
            found = f"MinCapacity is {shown(target.get('MinCapacity'))}, MaxCapacity {shown(target.get('MaxCapacity'))}"
            yield Finding(f"{target}", found, "1 or more, and not less than that")


def scaling_policies_measure_this_service(stacks: Stacks) -> Iterator[Finding]:
    """A policy for another target group, or without a target, never scales: let one be by this service's requests, one by CPU."""
    targets = stacks.of("ApplicationAutoScaling::ScalableTarget")
    policies = stacks.of("ApplicationAutoScaling::ScalingPolicy")
    for target in targets:
        if not any(stacks.find(one.get("ScalingTargetId"), target.type) == target for one in policies):
            yield Finding(f"{target}", "no policy scales it", "a ScalingPolicy with its ScalingTargetId")
    metrics = [_metric(one).get("PredefinedMetricType") for one in policies]
    for wanted in ("ALBRequestCountPerTarget", "ECSServiceAverageCPUUtilization"):
        if wanted not in metrics:
            yield Finding("all stacks", f"no policy is by {wanted}", "one by requests, and one by CPU")
    for policy in policies:
        named = stacks.find(policy.get("ScalingTargetId"), "AWS::ApplicationAutoScaling::ScalableTarget")
        if named is None and policy.get("ResourceId") not in [one.get("ResourceId") for one in targets]:
            yield Finding(f"{policy}", f"ScalingTargetId is {shown(policy.get('ScalingTargetId'))}", "the scaling target")
        tracking = policy.get("TargetTrackingScalingPolicyConfiguration") or {}
        if policy.get("PolicyType") != "TargetTrackingScaling":
            yield Finding(f"{policy}", f"PolicyType is {shown(policy.get('PolicyType'))}", "TargetTrackingScaling")
        if number_or(tracking.get("TargetValue"), 0) <= 0:
            yield Finding(f"{policy}", f"TargetValue is {shown(tracking.get('TargetValue'))}", "more than 0")
        metric = _metric(policy)
        label = metric.get("ResourceLabel")
        if metric.get("PredefinedMetricType") == "ALBRequestCountPerTarget" and label not in _labels(stacks):
            yield Finding(f"{policy}", f"ResourceLabel is {shown(label)}", " or ".join(_labels(stacks)))
        elif (
            metric.get("PredefinedMetricType") == "ECSServiceAverageCPUUtilization"
            and number_or(tracking.get("TargetValue"), 0) > 95
        ):
            yield Finding(
                f"{policy}", f"TargetValue is {tracking.get('TargetValue')} % of CPU", "95 at most, as it is never above 100"
            )


def _metric(policy: Resource) -> Mapping[str, Any]:
    return policy.get("TargetTrackingScalingPolicyConfiguration", "PredefinedMetricSpecification") or {}


def _labels(stacks: Stacks) -> list[str]:
    """What application auto scaling calls the target groups of our services."""
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
