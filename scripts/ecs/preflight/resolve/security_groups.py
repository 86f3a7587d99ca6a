"""Who may reach what: the rules of security groups, written in the group or beside it."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import groups_of, launch_template_of, network_mode, number, task_of

GROUP = "AWS::EC2::SecurityGroup"
# by name or number, as EC2 takes both; -1 is every protocol
TCP, ALL = ("tcp", "6"), ("-1", "all")


def ingress(stacks: Stacks, group: Resource) -> list[Mapping[str, Any]]:
    """The rules that let into a group."""
    beside = [one.properties for one in stacks.of("EC2::SecurityGroupIngress") if one.get("GroupId") == group.identifiers["id"]]
    return [*group.list("SecurityGroupIngress"), *beside]


def egress(stacks: Stacks, group: Resource) -> list[Mapping[str, Any]] | None:
    """The rules that let out of a group, None where there is none in the group: all may go out then."""
    inline = group.list("SecurityGroupEgress")
    beside = [one.properties for one in stacks.of("EC2::SecurityGroupEgress") if one.get("GroupId") == group.identifiers["id"]]
    return [*inline, *beside] if inline else None


def covers(rule: Mapping[str, Any], port: int) -> bool:
    """Whether a rule speaks of a TCP port."""
    protocol = str(rule.get("IpProtocol")).lower()
    if protocol in ALL:
        return True
    first, last = number(rule.get("FromPort")), number(rule.get("ToPort"))
    # EC2 refuses TCP without ports
    return protocol in TCP and first is not None and last is not None and first <= port <= last


def has_source(rule: Mapping[str, Any]) -> bool:
    """Whether a rule lets anybody in: it names a group, a list, or addresses that are some."""
    if rule.get("SourceSecurityGroupId") or rule.get("SourcePrefixListId"):
        return True
    try:
        return bool(ipaddress.ip_network(str(rule.get("CidrIp") or rule.get("CidrIpv6")), strict=False))
    except ValueError:
        return False


def reaches(stacks: Stacks, rule: Mapping[str, Any], other: Resource, side: str) -> bool:
    """Whether a rule's other side ("Source" or "Destination") holds what is in another group."""
    if rule.get(f"{side}SecurityGroupId") == other.identifiers["id"]:
        return True
    return holds_network(rule, vpc_cidr(stacks, other.get("VpcId")))


def holds_network(rule: Mapping[str, Any], cidr: str) -> bool:
    """Whether a rule's addresses hold all of a network."""
    try:
        return ipaddress.ip_network(cidr).subnet_of(ipaddress.ip_network(str(rule.get("CidrIp")), strict=False))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False


def vpc_cidr(stacks: Stacks, vpc_id: object) -> str:
    """A network's addresses; of one that is not made here we know nothing, so all there are."""
    vpc = stacks.find(vpc_id, "AWS::EC2::VPC")
    return str(vpc.get("CidrBlock")) if vpc and vpc.get("CidrBlock") else "0.0.0.0/0"


def named(stacks: Stacks, ids: list[Any]) -> list[Resource]:
    """The groups of these stacks with these ids."""
    found = [stacks.find(one, GROUP, "id") for one in ids]
    return [one for one in found if one]


def task_groups(stacks: Stacks, service: Resource) -> list[Resource]:
    """The groups that a service's tasks are in: their own with awsvpc, else the instances'."""
    task = task_of(stacks, service)
    if task and network_mode(task) == "awsvpc":
        return named(stacks, service.list("NetworkConfiguration", "AwsvpcConfiguration", "SecurityGroups"))
    return instance_groups(stacks, service)


def instance_groups(stacks: Stacks, service: Resource) -> list[Resource]:
    """The groups that the instances of a service are in."""
    return [found for group in groups_of(stacks, service) for found in _of_template(stacks, launch_template_of(stacks, group))]


def _of_template(stacks: Stacks, template: Resource | None) -> Iterator[Resource]:
    if template is None:
        return
    yield from named(stacks, template.list("LaunchTemplateData", "SecurityGroupIds"))
    for interface in template.list("LaunchTemplateData", "NetworkInterfaces"):
        yield from named(stacks, interface.get("Groups") or [])
