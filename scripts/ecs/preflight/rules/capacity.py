"""Rules about room: that a task fits an instance, that a deployment does, and that instances grow in number when tasks wait."""

import math
import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import matches
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    INSTANCE_TYPES,
    Finding,
    InstanceType,
    agent_settings,
    containers,
    group_of,
    groups_of,
    instance_types,
    is_true,
    launch_template_of,
    mib,
    network_mode,
    number,
    number_or,
    port_mappings,
    services,
    shown,
    strategy,
    task_of,
    types_of,
)
from scripts.ecs.preflight.rules.instances import known_types, launch_templates
from scripts.paths import ROOT

PROVIDER = "AWS::ECS::CapacityProvider"
ASSOCIATION = "AWS::ECS::ClusterCapacityProviderAssociations"


def instance_type_is_known(stacks: Stacks) -> Iterator[Finding]:
    """Whether a task fits can only be told of a known type: correct the name, or add the type to instance_types.csv."""
    for _, group, template in launch_templates(stacks):
        names = types_of(stacks, group)
        for name in names:
            if name not in instance_types():
                yield Finding(f"{template}", f"InstanceType is {name}", f"a type of {INSTANCE_TYPES.relative_to(ROOT)}")
        if not names:
            yield Finding(f"{template}", "there is no InstanceType", "one, e.g. c7i.large")


def cpu_of(task: Resource) -> float:
    """The CPU units that a task takes."""
    own = task.get("Cpu")
    return number_or(own, 0) if own is not None else sum(number_or(one.get("Cpu"), 0) for one in containers(task))


def gpus_of(task: Resource) -> float:
    """The GPUs that a task takes."""
    wanted = [need for one in containers(task) for need in one.get("ResourceRequirements") or []]
    return sum(number_or(need.get("Value"), 0) for need in wanted if need.get("Type") == "GPU")


def reserved_mib(stacks: Stacks, group: Resource) -> float:
    """What ECS_RESERVED_MEMORY keeps from tasks."""
    template = launch_template_of(stacks, group)
    return number(agent_settings(template).get("ECS_RESERVED_MEMORY")) or 0 if template else 0


def task_fits_instance(stacks: Stacks) -> Iterator[Finding]:
    """A task that is larger than an instance is never placed: let CPU, memory and GPUs fit what an instance has left for tasks."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            for one in known_types(stacks, group):
                room = one.memory_mib - reserved_mib(stacks, group)
                if mib(task) is None or (mib(task) or 0) > room:
                    expected = f"{room:g} MiB at most: {one.name} registers {one.memory_mib}, less ECS_RESERVED_MEMORY"
                    yield Finding(f"{task}", f"Memory is {shown(mib(task))}", expected)
                if cpu_of(task) == 0:
                    yield Finding(f"{task}", "Cpu is nothing", "what a task needs, or two share the same cores")
                if cpu_of(task) > one.cpu_units:
                    yield Finding(f"{task}", f"Cpu is {cpu_of(task):g}", f"{one.cpu_units} units at most, as {one.name} has")
                if gpus_of(task) > one.gpus:
                    yield Finding(f"{task}", f"it wants {gpus_of(task):g} GPU", f"{one.gpus} at most, as {one.name} has")
                if one.gpus and not gpus_of(task):
                    yield Finding(f"{task}", "it wants no GPU", f"ResourceRequirements of type GPU, as {one.name} has {one.gpus}")


def tasks_per_instance(stacks: Stacks, group: Resource, task: Resource, one: InstanceType) -> int:
    """How many of a task an instance takes, by memory, CPU, GPUs, fixed ports and, with awsvpc, network interfaces."""
    limits = [(one.memory_mib - reserved_mib(stacks, group)) / max(1, mib(task) or 1), one.cpu_units / max(1, cpu_of(task))]
    if gpus_of(task):
        limits.append(one.gpus / gpus_of(task))
    if network_mode(task) == "awsvpc":
        limits.append(one.network_interfaces - 1)  # the first one is the instance's own
    elif network_mode(task) == "host" or any(number(at.get("HostPort")) for c in containers(task) for _, at in port_mappings(c)):
        limits.append(1)
    return math.floor(min(limits))


def deployment_has_room(stacks: Stacks) -> Iterator[Finding]:
    """A deployment runs old and new tasks at once, by MaximumPercent: let instances be enough and large enough."""
    for service in services(stacks):
        task = task_of(stacks, service)
        limits = [number(target.get("MaxCapacity")) for target in stacks.of("ApplicationAutoScaling::ScalableTarget")]
        tasks = max([number_or(service.get("DesiredCount"), 1), *(one for one in limits if one is not None)])
        most = math.floor(tasks * number_or(service.get("DeploymentConfiguration", "MaximumPercent"), 200) / 100)
        alone = any(one.get("Type") == "distinctInstance" for one in service.list("PlacementConstraints"))
        room, why = 0.0, []
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            each = [tasks_per_instance(stacks, group, task, one) for one in known_types(stacks, group)]
            instances, fit = number_or(group.get("MaxSize"), 0), min([*each, 1] if alone and each else each, default=0)
            room += instances * fit
            why.append(f"{group} has {instances:g} instances at most, with {fit} tasks on each")
        if task and room < most:
            yield Finding(f"{service}", f"there is room for {room:g} tasks: {'; '.join(why)}", f"room for {most}, while it deploys")


def placement_can_be_met(stacks: Stacks) -> Iterator[Finding]:
    """A task with a constraint that no instance meets is never placed: let each hold for our instances, or leave it out."""
    for service in services(stacks):
        task = task_of(stacks, service)
        constraints = [*service.list("PlacementConstraints"), *(task.list("PlacementConstraints") if task else [])]
        types = [one for group in groups_of(stacks, service) for one in known_types(stacks, group)]
        zones = [one.get("AvailabilityZone") for one in stacks.of("EC2::Subnet")]
        has = {"instance-type": {one.name for one in types}, "cpu-architecture": {one.architecture for one in types}}
        has |= {"os-type": {"linux"}, "availability-zone": {str(one) for one in zones if one}}
        for one in constraints:
            expression = str(one.get("Expression"))
            match = re.fullmatch(r"attribute:ecs\.([a-z-]+)\s*(==|=~|in)\s*\[?([^\]]*)\]?", expression)
            wanted = re.split(r"\s*,\s*", match[3].strip()) if match else []
            met = match and any(matches(pattern, value) for pattern in wanted for value in has.get(match[1], ()))
            if one.get("Type") == "memberOf" and not met:
                yield Finding(
                    f"{service}", f"a placement constraint wants {expression}", "one that our instances are known to meet"
                )


def scaling_out_is_managed(stacks: Stacks) -> Iterator[Finding]:
    """Nothing starts an instance for a waiting task unless the capacity provider scales: ManagedScaling.Status is to be ENABLED."""
    for provider in stacks.of(PROVIDER):
        group, scaling = group_of(stacks, provider), ("AutoScalingGroupProvider", "ManagedScaling")
        if group is None:
            yield Finding(f"{provider}", "its AutoScalingGroupArn is none of these stacks", "an auto-scaling group")
        if provider.get(*scaling, "Status") != "ENABLED":
            yield Finding(f"{provider}", f"ManagedScaling.Status is {shown(provider.get(*scaling, 'Status'))}", "ENABLED")
        target = number_or(provider.get(*scaling, "TargetCapacity"), 100)
        if not 1 <= target <= 100:
            yield Finding(f"{provider}", f"TargetCapacity is {target:g}", "1 to 100")
        step = number_or(provider.get(*scaling, "MaximumScalingStepSize"), 10000)
        if not 1 <= number_or(provider.get(*scaling, "MinimumScalingStepSize"), 1) <= step <= 10000:
            yield Finding(f"{provider}", f"MaximumScalingStepSize is {step:g}", "MinimumScalingStepSize or more")


def scaling_in_spares_tasks(stacks: Stacks) -> Iterator[Finding]:
    """Termination protection needs scale-in protection of new instances, or ECS refuses it: switch on both, and draining."""
    for provider in stacks.of(PROVIDER):
        group = group_of(stacks, provider)
        protection = provider.get("AutoScalingGroupProvider", "ManagedTerminationProtection")
        draining = provider.get("AutoScalingGroupProvider", "ManagedDraining") or "ENABLED"
        if protection != "ENABLED":
            yield Finding(f"{provider}", f"ManagedTerminationProtection is {shown(protection)}", "ENABLED, or tasks are cut off")
        if group and not is_true(group.get("NewInstancesProtectedFromScaleIn")):
            found = f"NewInstancesProtectedFromScaleIn is {shown(group.get('NewInstancesProtectedFromScaleIn'))}"
            yield Finding(f"{group}", found, f"true, as {provider} protects its instances")
        if draining != "ENABLED":
            yield Finding(f"{provider}", f"ManagedDraining is {draining}", "ENABLED, or tasks are cut off")


def capacity_provider_is_the_clusters(stacks: Stacks) -> Iterator[Finding]:
    """A service may only use providers that its cluster has: name them in the association of that very cluster."""
    for service in services(stacks):
        cluster = stacks.find(service.get("Cluster"), "AWS::ECS::Cluster")
        has = [str(one) for one in cluster.list("CapacityProviders")] if cluster else []
        for association in stacks.of(ASSOCIATION):
            if cluster and stacks.find(association.get("Cluster"), "AWS::ECS::Cluster") == cluster:
                has += map(str, association.list("CapacityProviders"))
        for provider in stacks.of(PROVIDER):
            # without a name of its own it is called after its stack
            name = provider.get("Name") or stacks.deployment.stack(provider.stack)
            if str(name).lower().startswith(("aws", "ecs", "fargate")):
                yield Finding(f"{provider}", f"it is called {name}", "a name that does not begin with aws, ecs or fargate")
        for name in strategy(service):
            if name not in has or stacks.find(name, PROVIDER, "name") is None:
                yield Finding(
                    f"{service}", f"its strategy names {name}", f"a capacity provider of its cluster: {', '.join(has) or 'none'}"
                )
    for association in stacks.of(ASSOCIATION):
        for entry in association.list("DefaultCapacityProviderStrategy"):
            if entry.get("CapacityProvider") not in association.list("CapacityProviders"):
                found = f"DefaultCapacityProviderStrategy names {entry.get('CapacityProvider')}"
                yield Finding(f"{association}", found, "one of its CapacityProviders")


RULES = (
    instance_type_is_known,
    task_fits_instance,
    deployment_has_room,
    placement_can_be_met,
    scaling_out_is_managed,
    scaling_in_spares_tasks,
    capacity_provider_is_the_clusters,
)
