"""How the parts of a deployment are connected: from a service to its tasks, its instances and its load balancer.

Also what a rule is: a function of all stacks that yields a Finding for each thing that would fail.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.settings import Settings, ports_of

INSTANCE_TYPES = Path(__file__).with_name("instance_types.csv")
# the container's ports: callers and the load balancer's health check use the first, and nothing outside the rest
PORTS = ports_of(8080)
TRAFFIC_PORT = PORTS["inference"]
INTERNAL_PORTS = sorted(set(PORTS.values()) - {TRAFFIC_PORT})
# stands for the archive of any model: what a role may do must not depend on a model's name
ANY_ARCHIVE = "any-model-1.0.0.mar"
# from the container's start until it is ready: 20 to 40 s on two busy cores, including the model's download from S3
START_S = 40
# An instance registers less memory with ECS than is installed, as the kernel keeps a part. Karpenter assumes the same share by
# default (VM_MEMORY_OVERHEAD_PERCENT=0.075); an m4.large of 8192 MiB registers 7985.
KERNEL_SHARE = 0.075


class Finding(NamedTuple):
    """Something that would fail: where it is, what was found there, and what was expected."""

    where: str
    found: str
    expected: str


Rule = Callable[[Stacks], Iterator[Finding]]


class InstanceType(NamedTuple):
    """What an instance of a type offers to tasks. `memory_mib` is what it registers with ECS, before ECS_RESERVED_MEMORY."""

    name: str
    cpu_units: int
    memory_mib: int
    architecture: str
    network_interfaces: int
    gpus: int


@cache
def instance_types(path: Path = INSTANCE_TYPES) -> dict[str, InstanceType]:
    """The known types by name, with the values of EC2's DescribeInstanceTypes."""
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            memory_mib = int(int(row["memory_mib"]) * (1 - KERNEL_SHARE))
            cpu_units, interfaces, gpus = int(row["vcpus"]) * 1024, int(row["network_interfaces"]), int(row["gpus"])
            found[row["type"]] = InstanceType(row["type"], cpu_units, memory_mib, row["architecture"], interfaces, gpus)
    return found


# --- values ---
def number(value: object) -> float | None:
    """A number, written as one or as text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def number_or(value: object, default: float) -> float:
    """A number, or the default if it is not set. ValueError for anything else."""
    if value is None:
        return default
    found = number(value)
    if found is None:
        raise ValueError(f"{value!r} is not a number")
    return found


def is_true(value: object) -> bool:
    """Whether a switch is on, written as a boolean or as text."""
    return str(value).lower() == "true"


def shown(value: object) -> str:
    """A value as a finding prints it: "not set" for None."""
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def mib(task: Resource, container: Mapping[str, Any] | None = None) -> float | None:
    """The memory that a task takes of its instance: its own, or else the sum of its containers' reservations."""
    if number(task.get("Memory")) is not None:
        return number(task.get("Memory"))
    taken = [number(one.get("MemoryReservation")) or number(one.get("Memory")) for one in containers(task)]
    return sum(one for one in taken if one is not None) if any(taken) else None


# --- a service and what belongs to it ---
def services(stacks: Stacks) -> list[Resource]:
    """All services."""
    return stacks.of("ECS::Service")


def task_of(stacks: Stacks, service: Resource) -> Resource | None:
    """A service's task definition."""
    return stacks.find(service.get("TaskDefinition"), "AWS::ECS::TaskDefinition")


def containers(task: Resource) -> list[Mapping[str, Any]]:
    """A task definition's containers."""
    return [one for one in task.list("ContainerDefinitions") if isinstance(one, Mapping)]


def serving_container(stacks: Stacks, task: Resource) -> Mapping[str, Any] | None:
    """The serving container: the one behind the load balancer, else the one with our port, else the first."""
    named = {entry.get("ContainerName") for service in services(stacks) for entry in service.list("LoadBalancers")}
    found = containers(task)
    # sidecars may come first, or map a port as well
    by_name = [one for one in found if one.get("Name") in named]
    by_port = [one for one in found if any(TRAFFIC_PORT in ports for ports, _ in port_mappings(one))]
    return next(iter([*by_name, *by_port, *found]), None)


def port_mappings(container: Mapping[str, Any]) -> Iterator[tuple[range, Mapping[str, Any]]]:
    """Each port mapping of a container, with the container ports that it covers."""
    for mapping in container.get("PortMappings") or []:
        if "ContainerPortRange" in mapping:
            first, _, last = str(mapping["ContainerPortRange"]).partition("-")
            yield range(int(first), int(last or first) + 1), mapping
        else:
            port = int(number_or(mapping.get("ContainerPort"), 0))
            yield range(port, port + 1), mapping


def settings_of(container: Mapping[str, Any]) -> Settings:
    """The settings that the server will run with. ValueError if it would refuse them."""
    return Settings.from_environment(environment(container))


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """A container's environment variables."""
    return {str(one.get("Name")): str(one.get("Value", "")) for one in container.get("Environment") or []}


def network_mode(task: Resource) -> str:
    """A task definition's network mode; the default on EC2 is bridge."""
    return str(task.get("NetworkMode") or "bridge")


def strategy(service: Resource) -> list[str]:
    """The names of a service's capacity providers."""
    return [str(one.get("CapacityProvider")) for one in service.list("CapacityProviderStrategy")]


def groups_of(stacks: Stacks, service: Resource) -> list[Resource]:
    """The auto-scaling groups that run a service's tasks; all groups if its strategy leads to none."""
    found = []
    for name in strategy(service):
        provider = stacks.find(name, "AWS::ECS::CapacityProvider", "name")
        group = group_of(stacks, provider) if provider else None
        found += [group] if group else []
    return found or stacks.of("AutoScaling::AutoScalingGroup")


def group_of(stacks: Stacks, provider: Resource) -> Resource | None:
    """A capacity provider's auto-scaling group."""
    arn = provider.get("AutoScalingGroupProvider", "AutoScalingGroupArn")
    return stacks.find(arn, "AWS::AutoScaling::AutoScalingGroup")


def launch_template_of(stacks: Stacks, group: Resource) -> Resource | None:
    """The launch template of a group's instances."""
    for path in (("LaunchTemplate",), ("MixedInstancesPolicy", "LaunchTemplate", "LaunchTemplateSpecification")):
        for key, identifier in (("LaunchTemplateId", "id"), ("LaunchTemplateName", "name")):
            found = stacks.find(group.get(*path, key), "AWS::EC2::LaunchTemplate", identifier)
            if found:
                return found
    return None


def types_of(stacks: Stacks, group: Resource) -> list[str]:
    """The names of the instance types that a group may start."""
    overrides = group.list("MixedInstancesPolicy", "LaunchTemplate", "Overrides")
    found = [str(one["InstanceType"]) for one in overrides if "InstanceType" in one]
    template = launch_template_of(stacks, group)
    written = template.get("LaunchTemplateData", "InstanceType") if template else None
    return found or ([str(written)] if written else [])


def agent_settings(template: Resource) -> dict[str, str]:
    """The ECS agent's settings in a launch template's user data: ECS_CLUSTER and so on. The last value of a name counts."""
    found = {}
    for line in user_data(template).splitlines():
        # a setting in a comment has no effect
        code = re.sub(r"(^|\s)#.*", "", line)
        for name, value in re.findall(r"(?<![\w$])(ECS_[A-Z0-9_]+)=(\"[^\"]*\"|'[^']*'|[^\s\"'>|;\\]*)", code):
            found[name] = value.strip("\"'")
    return found


def user_data(template: Resource) -> str:
    """A launch template's user data as the instance receives it, "" if there is none."""
    data = template.get("LaunchTemplateData", "UserData")
    return str(data["Fn::Base64"]) if isinstance(data, Mapping) and "Fn::Base64" in data else ""


# --- load balancer ---
def target_groups_of(stacks: Stacks, service: Resource) -> list[Resource]:
    """The target groups that a service registers its tasks with."""
    found = [stacks.find(one.get("TargetGroupArn"), TARGET_GROUP, "arn") for one in service.list("LoadBalancers")]
    return [one for one in found if one]


TARGET_GROUP = "AWS::ElasticLoadBalancingV2::TargetGroup"
LISTENER = "AWS::ElasticLoadBalancingV2::Listener"
LOAD_BALANCER = "AWS::ElasticLoadBalancingV2::LoadBalancer"


def forwarded_to(actions: list[Any]) -> list[object]:
    """The ARNs of the target groups that the actions of a listener or rule forward to."""
    found: list[object] = []
    for action in actions:
        if action.get("Type") == "forward":
            found.append(action.get("TargetGroupArn"))
            groups = (action.get("ForwardConfig") or {}).get("TargetGroups") or []
            found += [one.get("TargetGroupArn") for one in groups if number(one.get("Weight", 1)) != 0]
    return [one for one in found if one]


def forwarding(stacks: Stacks, target_group: Resource) -> Iterator[tuple[Resource, Resource]]:
    """Each listener, or rule of one, that forwards to a target group, with its listener."""
    arn = target_group.identifiers["arn"]
    for listener in stacks.of(LISTENER):
        if arn in forwarded_to(listener.list("DefaultActions")):
            yield listener, listener
    for rule in stacks.of("ElasticLoadBalancingV2::ListenerRule"):
        listener_of_rule = stacks.find(rule.get("ListenerArn"), LISTENER, "arn")
        if listener_of_rule and arn in forwarded_to(rule.list("Actions")):
            yield rule, listener_of_rule


def load_balancers_of(stacks: Stacks, service: Resource) -> list[Resource]:
    """The load balancers in front of a service; all load balancers if no listener leads to it."""
    found = []
    for target_group in target_groups_of(stacks, service):
        for _, listener in forwarding(stacks, target_group):
            balancer = stacks.find(listener.get("LoadBalancerArn"), LOAD_BALANCER, "arn")
            found += [balancer] if balancer and balancer not in found else []
    return found or stacks.of(LOAD_BALANCER)
