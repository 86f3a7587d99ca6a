"""Rules about capacity: a task fits an instance, a deployment fits the group, and instances are added when tasks wait."""

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
    """Preflight can only size an instance type listed in instance_types.csv: correct the name, or add the type to the list."""
    for _, group, template in launch_templates(stacks):
        names = types_of(stacks, group)
        for name in names:
            if name not in instance_types():
                yield Finding(f"{template}", f"InstanceType is {name}", f"a type listed in {INSTANCE_TYPES.relative_to(ROOT)}")
        if not names:
            yield Finding(f"{template}", "InstanceType is not set", "a type, e.g. c7i.large")


def cpu_of(task: Resource) -> float:
    """The CPU units that a task takes."""
    own = task.get("Cpu")
    return number_or(own, 0) if own is not None else sum(number_or(one.get("Cpu"), 0) for one in containers(task))


def gpus_of(task: Resource) -> float:
    """The GPUs that a task takes."""
    wanted = [need for one in containers(task) for need in one.get("ResourceRequirements") or []]
    return sum(number_or(need.get("Value"), 0) for need in wanted if need.get("Type") == "GPU")


def image_is_built_for_its_task(stacks: Stacks) -> Iterator[Finding]:
    """make deploy builds by the deployment's file: CUDA (Gpu, torch) and Architecture there must be what the task takes."""
    build, where = stacks.deployment.build, f"deployments/{stacks.deployment.name}.yaml"
    for service in services(stacks):
        task = task_of(stacks, service)
        if task is None:
            continue
        has_gpu, cuda = gpus_of(task) > 0, build.torch.startswith("cu")
        if has_gpu != cuda:
            given = "a GPU" if has_gpu else "no GPU"
            yield Finding(
                f"{task}", f"it takes {given}, but {where} builds with TORCH={build.torch}", "CUDA exactly where there is a GPU"
            )
        architecture = str(task.get("RuntimePlatform", "CpuArchitecture") or "X86_64")
        if architecture != build.architecture:
            expected = f"{build.architecture}, the Architecture of {where}"
            yield Finding(f"{task}", f"CpuArchitecture is {architecture}", expected)


def reserved_mib(stacks: Stacks, group: Resource) -> float:
    """The memory that ECS_RESERVED_MEMORY withholds from tasks."""
    template = launch_template_of(stacks, group)
    return number(agent_settings(template).get("ECS_RESERVED_MEMORY")) or 0 if template else 0


def task_fits_instance(stacks: Stacks) -> Iterator[Finding]:
    """A task larger than an instance is never placed: keep CPU, memory and GPUs within what an instance offers to tasks."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            for one in known_types(stacks, group):
                room = one.memory_mib - reserved_mib(stacks, group)
                if mib(task) is None or (mib(task) or 0) > room:
                    expected = f"at most {room:g} MiB: {one.name} registers {one.memory_mib}, minus ECS_RESERVED_MEMORY"
                    yield Finding(f"{task}", f"Memory is {shown(mib(task))}", expected)
                if cpu_of(task) == 0:
                    yield Finding(f"{task}", "Cpu is not set", "the CPU units of a task, or several would share the same cores")
                if cpu_of(task) > one.cpu_units:
                    yield Finding(f"{task}", f"Cpu is {cpu_of(task):g}", f"at most the {one.cpu_units} units of {one.name}")
                if gpus_of(task) > one.gpus:
                    yield Finding(f"{task}", f"it requires {gpus_of(task):g} GPU", f"at most the {one.gpus} of {one.name}")
                # a GPU that no task uses costs money and speeds up nothing
                if one.gpus and not gpus_of(task):
                    yield Finding(
                        f"{task}", "it requires no GPU", f"ResourceRequirements of type GPU, as {one.name} has {one.gpus}"
                    )


def tasks_per_instance(stacks: Stacks, group: Resource, task: Resource, one: InstanceType) -> int:
    """The number of tasks that fit an instance by memory, CPU, GPUs, fixed ports and, with awsvpc, network interfaces."""
    # max: a missing size has a rule of its own, and must not divide by zero here
    limits = [(one.memory_mib - reserved_mib(stacks, group)) / max(1, mib(task) or 1), one.cpu_units / max(1, cpu_of(task))]
    if gpus_of(task):
        limits.append(one.gpus / gpus_of(task))
    if network_mode(task) == "awsvpc":
        limits.append(one.network_interfaces - 1)  # the first one is the instance's own
    elif network_mode(task) == "host" or any(number(at.get("HostPort")) for c in containers(task) for _, at in port_mappings(c)):
        limits.append(1)
    return math.floor(min(limits))


def deployment_has_room(stacks: Stacks) -> Iterator[Finding]:
    """A deployment runs old and new tasks side by side, up to MaximumPercent: allow more instances, or larger ones."""
    for service in services(stacks):
        task = task_of(stacks, service)
        # scaling may have raised the number of tasks when a deployment begins
        limits = [number(target.get("MaxCapacity")) for target in stacks.of("ApplicationAutoScaling::ScalableTarget")]
        tasks = max([number_or(service.get("DesiredCount"), 1), *(one for one in limits if one is not None)])
        most = math.floor(tasks * number_or(service.get("DeploymentConfiguration", "MaximumPercent"), 200) / 100)
        one_each = any(one.get("Type") == "distinctInstance" for one in service.list("PlacementConstraints"))
        room, groups = 0.0, []
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            each = [tasks_per_instance(stacks, group, task, one) for one in known_types(stacks, group)]
            # the smallest type counts, as the group may start that one only
            instances, fit = number_or(group.get("MaxSize"), 0), min([*each, 1] if one_each and each else each, default=0)
            room += instances * fit
            groups.append(f"{group} has at most {instances:g} instances with {fit} tasks each")
        if task and room < most:
            yield Finding(
                f"{service}", f"there is room for {room:g} tasks: {'; '.join(groups)}", f"room for {most} during a deployment"
            )


def placement_can_be_met(stacks: Stacks) -> Iterator[Finding]:
    """A task whose placement constraint no instance meets is never placed: use constraints that our instances meet, or none."""
    for service in services(stacks):
        task = task_of(stacks, service)
        constraints = [*service.list("PlacementConstraints"), *(task.list("PlacementConstraints") if task else [])]
        types = [one for group in groups_of(stacks, service) for one in known_types(stacks, group)]
        zones = [one.get("AvailabilityZone") for one in stacks.of("EC2::Subnet")]
        # the attributes that ECS sets on every instance; others would need an agent setting
        has = {"instance-type": {one.name for one in types}, "cpu-architecture": {one.architecture for one in types}}
        has |= {"os-type": {"linux"}, "availability-zone": {str(one) for one in zones if one}}
        for one in constraints:
            expression = str(one.get("Expression"))
            match = re.fullmatch(r"attribute:ecs\.([a-z-]+)\s*(==|=~|in)\s*\[?([^\]]*)\]?", expression)
            wanted = re.split(r"\s*,\s*", match[3].strip()) if match else []
            met = match and any(matches(pattern, value) for pattern in wanted for value in has.get(match[1], ()))
            if one.get("Type") == "memberOf" and not met:
                yield Finding(f"{service}", f"a placement constraint requires {expression}", "a constraint that our instances meet")


def scaling_out_is_managed(stacks: Stacks) -> Iterator[Finding]:
    """Only managed scaling starts an instance for a waiting task: set ManagedScaling.Status to ENABLED."""
    for provider in stacks.of(PROVIDER):
        group, scaling = group_of(stacks, provider), ("AutoScalingGroupProvider", "ManagedScaling")
        if group is None:
            yield Finding(f"{provider}", "its AutoScalingGroupArn is not in these stacks", "the auto-scaling group of these stacks")
        if provider.get(*scaling, "Status") != "ENABLED":
            yield Finding(f"{provider}", f"ManagedScaling.Status is {shown(provider.get(*scaling, 'Status'))}", "ENABLED")
        target = number_or(provider.get(*scaling, "TargetCapacity"), 100)
        if not 1 <= target <= 100:
            yield Finding(f"{provider}", f"TargetCapacity is {target:g}", "1 to 100")
        # 10000 is AWS's default and its limit
        step = number_or(provider.get(*scaling, "MaximumScalingStepSize"), 10000)
        if not 1 <= number_or(provider.get(*scaling, "MinimumScalingStepSize"), 1) <= step <= 10000:
            yield Finding(f"{provider}", f"MaximumScalingStepSize is {step:g}", "MinimumScalingStepSize or more")


def scaling_in_spares_tasks(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses termination protection unless new instances are protected from scale-in: enable both, and managed draining."""
    for provider in stacks.of(PROVIDER):
        group = group_of(stacks, provider)
        protection = provider.get("AutoScalingGroupProvider", "ManagedTerminationProtection")
        # ECS enables draining unless it is switched off
        draining = provider.get("AutoScalingGroupProvider", "ManagedDraining") or "ENABLED"
        if protection != "ENABLED":
            yield Finding(
                f"{provider}", f"ManagedTerminationProtection is {shown(protection)}", "ENABLED, or scale-in kills running tasks"
            )
        if group and not is_true(group.get("NewInstancesProtectedFromScaleIn")):
            found = f"NewInstancesProtectedFromScaleIn is {shown(group.get('NewInstancesProtectedFromScaleIn'))}"
            yield Finding(f"{group}", found, f"true, as {provider} protects its instances")
        if draining != "ENABLED":
            yield Finding(f"{provider}", f"ManagedDraining is {draining}", "ENABLED, or scale-in kills running tasks")


def capacity_provider_is_the_clusters(stacks: Stacks) -> Iterator[Finding]:
    """A service may only use its cluster's capacity providers: list them in the association of that cluster."""
    for service in services(stacks):
        cluster = stacks.find(service.get("Cluster"), "AWS::ECS::Cluster")
        has = [str(one) for one in cluster.list("CapacityProviders")] if cluster else []
        for association in stacks.of(ASSOCIATION):
            if cluster and stacks.find(association.get("Cluster"), "AWS::ECS::Cluster") == cluster:
                has += map(str, association.list("CapacityProviders"))
        for provider in stacks.of(PROVIDER):
            # CloudFormation derives a missing name from the stack's
            name = provider.get("Name") or stacks.deployment.stack(provider.stack)
            # ECS reserves these prefixes
            if str(name).lower().startswith(("aws", "ecs", "fargate")):
                yield Finding(f"{provider}", f"its name is {name}", "a name that does not begin with aws, ecs or fargate")
        for name in strategy(service):
            if name not in has or stacks.find(name, PROVIDER, "name") is None:
                yield Finding(
                    f"{service}",
                    f"CapacityProviderStrategy has {name}",
                    f"a capacity provider of its cluster: {', '.join(has) or 'none'}",
                )
    for association in stacks.of(ASSOCIATION):
        for entry in association.list("DefaultCapacityProviderStrategy"):
            if entry.get("CapacityProvider") not in association.list("CapacityProviders"):
                found = f"DefaultCapacityProviderStrategy has {entry.get('CapacityProvider')}"
                yield Finding(f"{association}", found, "one of its CapacityProviders")


RULES = (
    image_is_built_for_its_task,
    instance_type_is_known,
    task_fits_instance,
    deployment_has_room,
    placement_can_be_met,
    scaling_out_is_managed,
    scaling_in_spares_tasks,
    capacity_provider_is_the_clusters,
)
