"""Rules about the network: that instances and tasks reach AWS, callers reach the load balancer, and all is in one network.

Of a network that exists already the templates tell nothing: its subnets are taken to be as they should.
"""

import ipaddress
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import concerns, statements
from scripts.ecs.preflight.resolve.security_groups import covers, egress, holds_network, instance_groups, task_groups, vpc_cidr
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import LOAD_BALANCER, TARGET_GROUP, Finding, groups_of, services, shown

SUBNET, VPC, ROUTE_TABLE = "AWS::EC2::Subnet", "AWS::EC2::VPC", "AWS::EC2::RouteTable"
GATEWAY, NAT = "AWS::EC2::InternetGateway", "AWS::EC2::NatGateway"
EVERYWHERE = "0.0.0.0/0"
# what agent, image and log need of AWS in a network without a way out; S3 is a gateway endpoint as a rule
SERVICES = ("ecs", "ecs-agent", "ecs-telemetry", "ecr.api", "ecr.dkr", "logs")


def subnets(stacks: Stacks, ids: list[object]) -> list[Resource]:
    """The subnets of these stacks with these ids."""
    found = [stacks.find(one, SUBNET, "id") for one in ids]
    return [one for one in found if one]


def private_subnets(stacks: Stacks) -> list[Resource]:
    """Where instances and tasks are."""
    ids: list[object] = []
    for service in services(stacks):
        ids += service.list("NetworkConfiguration", "AwsvpcConfiguration", "Subnets")
        for group in groups_of(stacks, service):
            ids += group.list("VPCZoneIdentifier")
    return subnets(stacks, list(dict.fromkeys(ids)))


def route_table(stacks: Stacks, subnet: Resource) -> str | None:
    """The id of the table that a subnet's traffic follows, None for the network's main one, which has no way out."""
    for one in stacks.of("EC2::SubnetRouteTableAssociation"):
        if one.get("SubnetId") == subnet.identifiers["id"]:
            return str(one.get("RouteTableId"))
    return None


def way_out(stacks: Stacks, subnet: Resource) -> Resource | None:
    """The route of a subnet to everywhere."""
    table = route_table(stacks, subnet)
    found = [one for one in stacks.of("EC2::Route") if table and one.get("RouteTableId") == table]
    return next((one for one in found if one.get("DestinationCidrBlock") == EVERYWHERE), None)


def is_public(stacks: Stacks, subnet: Resource) -> bool:
    """Whether a subnet's way out is an internet gateway that is attached to its network."""
    route = way_out(stacks, subnet)
    gateway = stacks.find(route.get("GatewayId"), GATEWAY) if route else None
    return gateway is not None and any(
        one.get("InternetGatewayId") == gateway.identifiers["id"] and one.get("VpcId") == subnet.get("VpcId")
        for one in stacks.of("EC2::VPCGatewayAttachment")
    )


def instances_reach_aws(stacks: Stacks) -> Iterator[Finding]:
    """Without a way to ECS, ECR, logs and S3 no instance joins and no image comes: route 0.0.0.0/0 to a public NAT gateway."""
    for subnet in private_subnets(stacks):
        route = way_out(stacks, subnet)
        nat = stacks.find(route.get("NatGatewayId"), NAT) if route else None
        if nat:
            behind = stacks.find(nat.get("SubnetId"), SUBNET)
            if nat.get("ConnectivityType") == "private" or not nat.get("AllocationId"):
                yield Finding(f"{nat}", "it has no public address", "ConnectivityType public and an AllocationId")
            elif stacks.find(nat.get("AllocationId"), "AWS::EC2::EIP", "id") is None:
                yield Finding(f"{nat}", f"AllocationId is {nat.get('AllocationId')}", "!GetAtt ADDRESS.AllocationId")
            if behind is None or not is_public(stacks, behind):
                found = f"it is in {behind or shown(nat.get('SubnetId'))}, which is not public"
                yield Finding(f"{nat}", found, "a subnet with a route to the internet gateway")
        elif route and route.get("GatewayId"):
            found = f"its way out is {shown(route.get('GatewayId'))}"
            yield Finding(f"{subnet}", found, "a NAT gateway, as tasks on EC2 have no public address")
        elif route and any(route.get(key) for key in ("TransitGatewayId", "NetworkInterfaceId", "VpcEndpointId")):
            continue
        elif _missing_endpoints(stacks, subnet):
            missing = ", ".join(_missing_endpoints(stacks, subnet))
            yield Finding(f"{subnet}", "it has no route to everywhere", f"a NAT gateway, or endpoints for {missing}")


def _missing_endpoints(stacks: Stacks, subnet: Resource) -> list[str]:
    """The services of AWS that a subnet without a way out has no endpoint for."""
    there = []
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        name = str(endpoint.get("ServiceName")).removeprefix(f"com.amazonaws.{stacks.deployment.region}.")
        gateway = (endpoint.get("VpcEndpointType") or "Gateway") == "Gateway"
        table = route_table(stacks, subnet)
        if endpoint.get("VpcId") == subnet.get("VpcId") and (
            table in endpoint.list("RouteTableIds") if gateway else str(endpoint.get("PrivateDnsEnabled")).lower() == "true"
        ):
            there.append(name)
    return [name for name in (*SERVICES, "s3") if name not in there]


def load_balancer_is_reachable(stacks: Stacks) -> Iterator[Finding]:
    """A load balancer needs subnets in two zones, and one for the internet public ones: two subnets with a route to a gateway."""
    for balancer in stacks.of(LOAD_BALANCER):
        mappings = [one.get("SubnetId") for one in balancer.list("SubnetMappings")]
        ids = [*balancer.list("Subnets"), *mappings]
        found = subnets(stacks, ids)
        zones = [one.get("AvailabilityZone") for one in found]
        if str(balancer.get("Type") or "application") != "application":
            yield Finding(f"{balancer}", f"Type is {balancer.get('Type')}", "application")
        if len(set(ids)) < 2:
            yield Finding(f"{balancer}", f"it has {len(set(ids))} subnet", "two or more, in different zones")
        elif None in zones or len(set(zones)) < len(zones):
            yield Finding(f"{balancer}", f"its subnets are in {', '.join(map(shown, zones))}", "one subnet in each zone")
        scheme = balancer.get("Scheme") or "internet-facing"
        if scheme not in ("internet-facing", "internal"):
            yield Finding(f"{balancer}", f"Scheme is {scheme}", "internet-facing or internal")
        for subnet in private_subnets(stacks) if found else []:
            if subnet.get("AvailabilityZone") not in zones:
                expected = f"one of the load balancer's, {', '.join(map(shown, zones))}: targets elsewhere get nothing"
                yield Finding(f"{subnet}", f"AvailabilityZone is {shown(subnet.get('AvailabilityZone'))}", expected)
        if scheme != "internet-facing":
            continue
        for subnet in found:
            if not is_public(stacks, subnet):
                yield Finding(f"{balancer}", f"{subnet} has no route to an internet gateway", "public subnets")


def gateway_is_attached_first(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses a route to an internet gateway that is not attached yet: attach it, and let route and address depend on that."""
    for gateway in stacks.of(GATEWAY):
        attached = [
            one for one in stacks.of("EC2::VPCGatewayAttachment") if one.get("InternetGatewayId") == gateway.identifiers["id"]
        ]
        if not attached:
            yield Finding(f"{gateway}", "it is attached to no network", "a VPCGatewayAttachment")
        for route in stacks.of("EC2::Route"):
            waits = [one for one in attached if one.stack == route.stack and one.name in stacks.before(route)]
            if route.get("GatewayId") == gateway.identifiers["id"] and attached and not waits:
                yield Finding(f"{route}", f"DependsOn has no {attached[0].name}", "the gateway's attachment")
        for address in stacks.of("EC2::EIP"):
            if attached and not any(one.stack == address.stack and one.name in stacks.before(address) for one in attached):
                yield Finding(f"{address}", f"DependsOn has no {attached[0].name}", "the gateway's attachment")


def zones_and_addresses_are_apart(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses subnets that overlap, or lie outside their network or the region: give each its own part, and a zone of here."""
    for vpc in stacks.of(VPC):
        whole = ipaddress.ip_network(str(vpc.get("CidrBlock")))
        seen: list[tuple[Resource, ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
        for subnet in stacks.of(SUBNET):
            if subnet.get("VpcId") != vpc.identifiers["id"]:
                continue
            block = ipaddress.ip_network(str(subnet.get("CidrBlock")))
            if not block.subnet_of(whole):  # type: ignore[arg-type]
                yield Finding(f"{subnet}", f"CidrBlock is {block}", f"a part of {whole}")
            for other, taken in seen:
                if block.overlaps(taken):
                    yield Finding(f"{subnet}", f"CidrBlock is {block}", f"one apart from that of {other}, {taken}")
            seen.append((subnet, block))
            zone = str(subnet.get("AvailabilityZone") or stacks.deployment.region)
            if not zone.startswith(stacks.deployment.region):
                yield Finding(f"{subnet}", f"AvailabilityZone is {zone}", f"one of {stacks.deployment.region}")


def names_are_resolved(stacks: Stacks) -> Iterator[Finding]:
    """Without DNS nothing finds ECS, ECR or S3: leave EnableDnsSupport true, and EnableDnsHostnames with endpoints."""
    for vpc in stacks.of(VPC):
        private = [one for one in stacks.of("EC2::VPCEndpoint") if str(one.get("PrivateDnsEnabled")).lower() == "true"]
        if str(vpc.get("EnableDnsSupport")).lower() == "false":
            yield Finding(f"{vpc}", "EnableDnsSupport is false", "true")
        if private and str(vpc.get("EnableDnsHostnames")).lower() != "true":
            yield Finding(f"{vpc}", f"EnableDnsHostnames is {shown(vpc.get('EnableDnsHostnames'))}", f"true, for {private[0]}")


def all_is_in_one_network(stacks: Stacks) -> Iterator[Finding]:
    """ECS and Elastic Load Balancing refuse parts of different networks: let groups, subnets and target group name the same VPC."""
    parts = [*stacks.of(TARGET_GROUP, "EC2::SecurityGroup", SUBNET, ROUTE_TABLE, "EC2::VPCEndpoint", "EC2::VPCGatewayAttachment")]
    ids = [stacks.outputs.get("VpcId"), *[one.identifiers["id"] for one in stacks.of(VPC)]]
    wanted = next((one for one in ids if one), None)
    for part in parts:
        if part.get("VpcId") != wanted:
            yield Finding(f"{part}", f"VpcId is {shown(part.get('VpcId'))}", f"{wanted}, as of the others")


def groups_are_those_of_the_network(stacks: Stacks) -> Iterator[Finding]:
    """A group or subnet that is none of these stacks keeps traffic out, unseen: name those that the network stack puts out."""
    made_here = bool(stacks.of(VPC))
    for service in services(stacks):
        here = ("NetworkConfiguration", "AwsvpcConfiguration")
        for key, type_ in (("SecurityGroups", "AWS::EC2::SecurityGroup"), ("Subnets", SUBNET)):
            for one in service.list(*here, key):
                if stacks.find(one, type_, "id") is None and (made_here or key == "SecurityGroups"):
                    yield Finding(f"{service}", f"{key} has {one}", f"a {type_} of these stacks")
        for group in groups_of(stacks, service):
            for one in group.list("VPCZoneIdentifier"):
                if made_here and stacks.find(one, SUBNET, "id") is None:
                    yield Finding(f"{group}", f"VPCZoneIdentifier has {one}", "a subnet of these stacks")
        if not instance_groups(stacks, service):
            yield Finding("launch template", "its SecurityGroupIds are none of these stacks", "the instances' group")
    for balancer in stacks.of(LOAD_BALANCER):
        for one in balancer.list("Subnets"):
            if made_here and stacks.find(one, SUBNET, "id") is None:
                yield Finding(f"{balancer}", f"Subnets has {one}", "a subnet of these stacks")


def instances_may_call_out(stacks: Stacks) -> Iterator[Finding]:
    """An instance or task that may not send to port 443 reaches no service of AWS: let both groups out to everywhere on it."""
    for service in services(stacks):
        for group in {str(one): one for one in [*instance_groups(stacks, service), *task_groups(stacks, service)]}.values():
            rules = egress(stacks, group)
            if rules is None:
                continue
            out = any(
                covers(rule, 443) and (holds_network(rule, EVERYWHERE) or _to_endpoints(stacks, rule, group)) for rule in rules
            )
            if not out:
                yield Finding(f"{group}", "it lets nothing out on port 443", f"TCP 443 to {EVERYWHERE}")


def _to_endpoints(stacks: Stacks, rule: object, group: Resource) -> bool:
    """Whether a rule lets out to a network that has endpoints instead of a way out."""
    assert isinstance(rule, dict)
    private = [one for one in stacks.of("EC2::VPCEndpoint") if one.get("VpcEndpointType") == "Interface"]
    return bool(private) and holds_network(rule, vpc_cidr(stacks, group.get("VpcId")))


def endpoints_are_used(stacks: Stacks) -> Iterator[Finding]:
    """An endpoint of another region is refused, and one that no route table has does nothing: name service and tables of here."""
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        name, prefix = str(endpoint.get("ServiceName")), f"com.amazonaws.{stacks.deployment.region}."
        if not name.startswith(prefix):
            yield Finding(f"{endpoint}", f"ServiceName is {name}", f"one that begins with {prefix}")
        tables = [stacks.find(one, ROUTE_TABLE, "id") for one in endpoint.list("RouteTableIds")]
        if (endpoint.get("VpcEndpointType") or "Gateway") == "Gateway" and (not tables or None in tables):
            yield Finding(f"{endpoint}", f"RouteTableIds is {shown(endpoint.get('RouteTableIds'))}", "the private route tables")


def endpoint_lets_images_through(stacks: Stacks) -> Iterator[Finding]:
    """ECR's layers lie in a bucket of AWS's, which an S3 endpoint's policy must let through: allow it, or leave the policy out."""
    region, partition = stacks.deployment.region, stacks.pseudo["AWS::Partition"]
    layers = f"arn:{partition}:s3:::prod-{region}-starport-layer-bucket/x"
    models = [f"{one.identifiers['arn']}/release.json" for one in stacks.of("S3::Bucket")]
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        policy = endpoint.get("PolicyDocument")
        if not policy or not str(endpoint.get("ServiceName")).endswith(".s3"):
            continue
        for resource in (layers, *models):
            found = [one.get("Effect") for one in statements(policy) if concerns(one, "s3:GetObject", resource)]
            if "Allow" not in found or "Deny" in found:
                yield Finding(f"{endpoint}", f"its policy does not let s3:GetObject of {resource} through", "that it does")


RULES = (
    instances_reach_aws,
    load_balancer_is_reachable,
    gateway_is_attached_first,
    zones_and_addresses_are_apart,
    names_are_resolved,
    all_is_in_one_network,
    groups_are_those_of_the_network,
    instances_may_call_out,
    endpoints_are_used,
    endpoint_lets_images_through,
)
