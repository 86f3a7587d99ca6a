"""Who may reach what: the rules of security groups, inside the group or as resources of their own."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import groups_of, launch_template_of, network_mode, number, task_of

GROUP = "AWS::EC2::SecurityGroup"
# EC2 takes a protocol by name or number; -1 is every protocol
TCP, ALL = ("tcp", "6"), ("-1", "all")


def ingress(stacks: Stacks, group: Resource) -> list[Mapping[str, Any]]:
    """The inbound rules of a group."""
    separate = [one.properties for one in stacks.of("EC2::SecurityGroupIngress") if one.get("GroupId") == group.identifiers["id"]]
    return [*group.list("SecurityGroupIngress"), *separate]


def egress(stacks: Stacks, group: Resource) -> list[Mapping[str, Any]] | None:
    """The outbound rules of a group, None if the group has none of its own: everything is allowed then."""
    inline = group.list("SecurityGroupEgress")
    separate = [one.properties for one in stacks.of("EC2::SecurityGroupEgress") if one.get("GroupId") == group.identifiers["id"]]
    # without rules in the group itself, EC2's default rule stays, which allows everything
    return [*inline, *separate] if inline else None


def covers(rule: Mapping[str, Any], port: int) -> bool:
    """Whether a rule applies to a TCP port."""
    protocol = str(rule.get("IpProtocol")).lower()
    if protocol in ALL:
        return True
    first, last = number(rule.get("FromPort")), number(rule.get("ToPort"))
    # EC2 refuses TCP without ports
    return protocol in TCP and first is not None and last is not None and first <= port <= last


def has_source(rule: Mapping[str, Any]) -> bool:
    """Whether a rule names a source: a group, a prefix list or valid addresses."""
    if rule.get("SourceSecurityGroupId") or rule.get("SourcePrefixListId"):
        return True
    try:
        return bool(ipaddress.ip_network(str(rule.get("CidrIp") or rule.get("CidrIpv6")), strict=False))
    except ValueError:
        return False


def reaches(stacks: Stacks, rule: Mapping[str, Any], other: Resource, side: str) -> bool:
    """Whether a rule's `side` ("Source" or "Destination") includes the members of another group."""
    if rule.get(f"{side}SecurityGroupId") == other.identifiers["id"]:
        return True
    return holds_network(rule, vpc_cidr(stacks, other.get("VpcId")))


def holds_network(rule: Mapping[str, Any], cidr: str) -> bool:
    """Whether a rule's addresses include a whole network."""
    try:
        return ipaddress.ip_network(cidr).subnet_of(ipaddress.ip_network(str(rule.get("CidrIp")), strict=False))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False


def vpc_cidr(stacks: Stacks, vpc_id: object) -> str:
    """A VPC's addresses. Those of an existing VPC are unknown, so it counts as all addresses."""
    vpc = stacks.find(vpc_id, "AWS::EC2::VPC")
    return str(vpc.get("CidrBlock")) if vpc and vpc.get("CidrBlock") else "0.0.0.0/0"


def groups_with(stacks: Stacks, ids: list[Any]) -> list[Resource]:
    """The groups of these stacks with these ids."""
    found = [stacks.find(one, GROUP, "id") for one in ids]
    return [one for one in found if one]


def task_groups(stacks: Stacks, service: Resource) -> list[Resource]:
    """The groups of a service's tasks: their own with awsvpc, otherwise the instances'."""
    task = task_of(stacks, service)
    if task and network_mode(task) == "awsvpc":
        return groups_with(stacks, service.list("NetworkConfiguration", "AwsvpcConfiguration", "SecurityGroups"))
    return instance_groups(stacks, service)


def instance_groups(stacks: Stacks, service: Resource) -> list[Resource]:
    """The groups of the instances that run a service's tasks."""
    return [found for group in groups_of(stacks, service) for found in _of_template(stacks, launch_template_of(stacks, group))]


def _of_template(stacks: Stacks, template: Resource | None) -> Iterator[Resource]:
    if template is None:
        return
    yield from groups_with(stacks, template.list("LaunchTemplateData", "SecurityGroupIds"))
    for interface in template.list("LaunchTemplateData", "NetworkInterfaces"):
        yield from groups_with(stacks, interface.get("Groups") or [])
