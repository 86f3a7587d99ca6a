"""Rules about the network: instances and tasks reach AWS, callers reach the load balancer, and everything is in one VPC.

The templates know nothing about the subnets of an existing VPC: those are assumed to be right.
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
# the endpoints that agent, images and logs need without a route to the internet; S3 comes on top, usually as a gateway endpoint
SERVICES = ("ecs", "ecs-agent", "ecs-telemetry", "ecr.api", "ecr.dkr", "logs")


def subnets(stacks: Stacks, ids: list[object]) -> list[Resource]:
    """The subnets of these stacks with these ids."""
    found = [stacks.find(one, SUBNET, "id") for one in ids]
    return [one for one in found if one]


def private_subnets(stacks: Stacks) -> list[Resource]:
    """The subnets of instances and tasks."""
    ids: list[object] = []
    for service in services(stacks):
        ids += service.list("NetworkConfiguration", "AwsvpcConfiguration", "Subnets")
        for group in groups_of(stacks, service):
            ids += group.list("VPCZoneIdentifier")
    return subnets(stacks, list(dict.fromkeys(ids)))


def route_table(stacks: Stacks, subnet: Resource) -> str | None:
    """The id of a subnet's route table, None for the VPC's main one, which has no route to the internet."""
    for one in stacks.of("EC2::SubnetRouteTableAssociation"):
        if one.get("SubnetId") == subnet.identifiers["id"]:
            return str(one.get("RouteTableId"))
    return None


def default_route(stacks: Stacks, subnet: Resource) -> Resource | None:
    """A subnet's route to 0.0.0.0/0."""
    table = route_table(stacks, subnet)
    found = [one for one in stacks.of("EC2::Route") if table and one.get("RouteTableId") == table]
    return next((one for one in found if one.get("DestinationCidrBlock") == EVERYWHERE), None)


def is_public(stacks: Stacks, subnet: Resource) -> bool:
    """Whether a subnet routes to an internet gateway that is attached to its VPC."""
    route = default_route(stacks, subnet)
    gateway = stacks.find(route.get("GatewayId"), GATEWAY) if route else None
    return gateway is not None and any(
        one.get("InternetGatewayId") == gateway.identifiers["id"] and one.get("VpcId") == subnet.get("VpcId")
        for one in stacks.of("EC2::VPCGatewayAttachment")
    )


def instances_reach_aws(stacks: Stacks) -> Iterator[Finding]:
    """Without a route to ECS, ECR, logs and S3 no instance joins and no image is pulled: route 0.0.0.0/0 to a NAT gateway."""
    for subnet in private_subnets(stacks):
        route = default_route(stacks, subnet)
        nat = stacks.find(route.get("NatGatewayId"), NAT) if route else None
        if nat:
            behind = stacks.find(nat.get("SubnetId"), SUBNET)
            # a private NAT gateway reaches other VPCs, not the internet
            if nat.get("ConnectivityType") == "private" or not nat.get("AllocationId"):
                yield Finding(f"{nat}", "it has no public address", "ConnectivityType public and an AllocationId")
            elif stacks.find(nat.get("AllocationId"), "AWS::EC2::EIP", "id") is None:
                yield Finding(f"{nat}", f"AllocationId is {nat.get('AllocationId')}", "!GetAtt ADDRESS.AllocationId")
            if behind is None or not is_public(stacks, behind):
                found = f"it is in {behind or shown(nat.get('SubnetId'))}, which is not public"
                yield Finding(f"{nat}", found, "a subnet with a route to the internet gateway")
        elif route and route.get("GatewayId"):
            found = f"its route to 0.0.0.0/0 goes to {shown(route.get('GatewayId'))}"
            yield Finding(f"{subnet}", found, "a NAT gateway, as tasks on EC2 have no public address")
        # what is behind a transit gateway or appliance is outside the templates
        elif route and any(route.get(key) for key in ("TransitGatewayId", "NetworkInterfaceId", "VpcEndpointId")):
            continue
        elif _missing_endpoints(stacks, subnet):
            missing = ", ".join(_missing_endpoints(stacks, subnet))
            yield Finding(f"{subnet}", "it has no route to 0.0.0.0/0", f"a NAT gateway, or endpoints for {missing}")


def _missing_endpoints(stacks: Stacks, subnet: Resource) -> list[str]:
    """The AWS services that a subnet without a route to the internet has no endpoint for."""
    present = []
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        name = str(endpoint.get("ServiceName")).removeprefix(f"com.amazonaws.{stacks.deployment.region}.")
        gateway = (endpoint.get("VpcEndpointType") or "Gateway") == "Gateway"
        table = route_table(stacks, subnet)
        # without private DNS the public name still leads past an interface endpoint
        if endpoint.get("VpcId") == subnet.get("VpcId") and (
            table in endpoint.list("RouteTableIds") if gateway else str(endpoint.get("PrivateDnsEnabled")).lower() == "true"
        ):
            present.append(name)
    return [name for name in (*SERVICES, "s3") if name not in present]


def load_balancer_is_reachable(stacks: Stacks) -> Iterator[Finding]:
    """A load balancer needs subnets in two zones, public ones if it faces the internet: give it two with a route to a gateway."""
    for balancer in stacks.of(LOAD_BALANCER):
        mappings = [one.get("SubnetId") for one in balancer.list("SubnetMappings")]
        ids = [*balancer.list("Subnets"), *mappings]
        found = subnets(stacks, ids)
        zones = [one.get("AvailabilityZone") for one in found]
        if str(balancer.get("Type") or "application") != "application":
            yield Finding(f"{balancer}", f"Type is {balancer.get('Type')}", "application")
        if len(set(ids)) < 2:
            yield Finding(f"{balancer}", f"number of subnets is {len(set(ids))}", "2 or more, in different zones")
        # ELB takes one subnet per zone
        elif None in zones or len(set(zones)) < len(zones):
            yield Finding(f"{balancer}", f"its subnets are in {', '.join(map(shown, zones))}", "one subnet in each zone")
        scheme = balancer.get("Scheme") or "internet-facing"
        if scheme not in ("internet-facing", "internal"):
            yield Finding(f"{balancer}", f"Scheme is {scheme}", "internet-facing or internal")
        for subnet in private_subnets(stacks) if found else []:
            if subnet.get("AvailabilityZone") not in zones:
                expected = f"one of the load balancer's zones, {', '.join(map(shown, zones))}, as targets elsewhere get no requests"
                yield Finding(f"{subnet}", f"AvailabilityZone is {shown(subnet.get('AvailabilityZone'))}", expected)
        if scheme != "internet-facing":
            continue
        for subnet in found:
            if not is_public(stacks, subnet):
                yield Finding(f"{balancer}", f"{subnet} has no route to an internet gateway", "public subnets")


def zones_do_not_share_a_nat_gateway(stacks: Stacks) -> Iterator[Finding]:
    """A second NAT gateway is of use only if each zone has its own: put it into that zone, and route the zone's subnet to it."""
    if len(stacks.of("EC2::NatGateway")) < 2:
        return
    for subnet in private_subnets(stacks):
        route = default_route(stacks, subnet)
        gateway = stacks.find(route.get("NatGatewayId"), NAT, "id") if route else None
        if gateway is None:
            continue
        zones = [one.get("AvailabilityZone") for one in subnets(stacks, [gateway.get("SubnetId")])]
        if zones != [subnet.get("AvailabilityZone")]:
            found = f"its NAT gateway {gateway.name} is in {', '.join(map(shown, zones)) or 'no subnet of these stacks'}"
            yield Finding(f"{subnet}", found, f"one in its own zone, {shown(subnet.get('AvailabilityZone'))}")


def gateway_is_attached_first(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses routes and addresses before the internet gateway is attached: attach it, and make them depend on that."""
    for gateway in stacks.of(GATEWAY):
        attached = [
            one for one in stacks.of("EC2::VPCGatewayAttachment") if one.get("InternetGatewayId") == gateway.identifiers["id"]
        ]
        if not attached:
            yield Finding(f"{gateway}", "it is not attached to a VPC", "a VPCGatewayAttachment")
        for route in stacks.of("EC2::Route"):
            # CloudFormation sees no reference from the route to the attachment
            waits = [one for one in attached if one.stack == route.stack and one.name in stacks.before(route)]
            if route.get("GatewayId") == gateway.identifiers["id"] and attached and not waits:
                yield Finding(f"{route}", f"DependsOn has no {attached[0].name}", "the gateway's attachment")
        for address in stacks.of("EC2::EIP"):
            if attached and not any(one.stack == address.stack and one.name in stacks.before(address) for one in attached):
                yield Finding(f"{address}", f"DependsOn has no {attached[0].name}", "the gateway's attachment")


def zones_and_addresses_are_apart(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses subnets that overlap, or lie outside their VPC or region: give each its own block, and a zone of this region."""
    for vpc in stacks.of(VPC):
        whole = ipaddress.ip_network(str(vpc.get("CidrBlock")))
        seen: list[tuple[Resource, ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
        for subnet in stacks.of(SUBNET):
            if subnet.get("VpcId") != vpc.identifiers["id"]:
                continue
            block = ipaddress.ip_network(str(subnet.get("CidrBlock")))
            if not block.subnet_of(whole):  # type: ignore[arg-type]
                yield Finding(f"{subnet}", f"CidrBlock is {block}", f"a block within {whole}")
            for other, taken in seen:
                if block.overlaps(taken):
                    yield Finding(f"{subnet}", f"CidrBlock is {block}", f"a block that does not overlap {taken} of {other}")
            seen.append((subnet, block))
            # without a zone AWS chooses one of the region
            zone = str(subnet.get("AvailabilityZone") or stacks.deployment.region)
            if not zone.startswith(stacks.deployment.region):
                yield Finding(f"{subnet}", f"AvailabilityZone is {zone}", f"a zone of {stacks.deployment.region}")


def names_are_resolved(stacks: Stacks) -> Iterator[Finding]:
    """Without DNS nothing finds ECS, ECR or S3: keep EnableDnsSupport on, and EnableDnsHostnames with interface endpoints."""
    for vpc in stacks.of(VPC):
        # an endpoint with private DNS answers under the service's public name
        private = [one for one in stacks.of("EC2::VPCEndpoint") if str(one.get("PrivateDnsEnabled")).lower() == "true"]
        # EC2 resolves names unless told not to, but gives host names only on request
        if str(vpc.get("EnableDnsSupport")).lower() == "false":
            yield Finding(f"{vpc}", "EnableDnsSupport is false", "true")
        if private and str(vpc.get("EnableDnsHostnames")).lower() != "true":
            yield Finding(f"{vpc}", f"EnableDnsHostnames is {shown(vpc.get('EnableDnsHostnames'))}", f"true, for {private[0]}")


def everything_is_in_one_network(stacks: Stacks) -> Iterator[Finding]:
    """ECS and ELB refuse parts of different VPCs: put security groups, subnets and target group into the same one."""
    parts = [*stacks.of(TARGET_GROUP, "EC2::SecurityGroup", SUBNET, ROUTE_TABLE, "EC2::VPCEndpoint", "EC2::VPCGatewayAttachment")]
    ids = [stacks.outputs.get("VpcId"), *[one.identifiers["id"] for one in stacks.of(VPC)]]
    # an existing VPC is an output, too, but not a resource
    wanted = next((one for one in ids if one), None)
    for part in parts:
        if part.get("VpcId") != wanted:
            yield Finding(f"{part}", f"VpcId is {shown(part.get('VpcId'))}", f"{wanted}, like the other parts")


def groups_are_those_of_the_network(stacks: Stacks) -> Iterator[Finding]:
    """A security group or subnet from elsewhere blocks traffic silently: use those of the network stack."""
    own_vpc = bool(stacks.of(VPC))
    for service in services(stacks):
        for key, type_ in (("SecurityGroups", "AWS::EC2::SecurityGroup"), ("Subnets", SUBNET)):
            for one in service.list("NetworkConfiguration", "AwsvpcConfiguration", key):
                if stacks.find(one, type_, "id") is None and (own_vpc or key == "SecurityGroups"):
                    yield Finding(f"{service}", f"{key} has {one}", f"a {type_} of these stacks")
        for group in groups_of(stacks, service):
            for one in group.list("VPCZoneIdentifier"):
                if own_vpc and stacks.find(one, SUBNET, "id") is None:
                    yield Finding(f"{group}", f"VPCZoneIdentifier has {one}", "a subnet of these stacks")
        if not instance_groups(stacks, service):
            yield Finding("launch template", "its SecurityGroupIds are not in these stacks", "the instances' security group")
    for balancer in stacks.of(LOAD_BALANCER):
        for one in balancer.list("Subnets"):
            if own_vpc and stacks.find(one, SUBNET, "id") is None:
                yield Finding(f"{balancer}", f"Subnets has {one}", "a subnet of these stacks")


def instances_may_call_out(stacks: Stacks) -> Iterator[Finding]:
    """Instances and tasks reach no AWS service without outbound port 443: allow it to 0.0.0.0/0 in both groups."""
    for service in services(stacks):
        for group in {str(one): one for one in [*instance_groups(stacks, service), *task_groups(stacks, service)]}.values():
            rules = egress(stacks, group)
            # a group without outbound rules of its own allows everything
            if rules is None:
                continue
            out = any(
                covers(rule, 443) and (holds_network(rule, EVERYWHERE) or _to_endpoints(stacks, rule, group)) for rule in rules
            )
            if not out:
                yield Finding(f"{group}", "it blocks outbound port 443", f"TCP 443 to {EVERYWHERE}")


def _to_endpoints(stacks: Stacks, rule: object, group: Resource) -> bool:
    """Whether a rule allows traffic to a VPC with endpoints, which needs no route to the internet."""
    assert isinstance(rule, dict)
    private = [one for one in stacks.of("EC2::VPCEndpoint") if one.get("VpcEndpointType") == "Interface"]
    return bool(private) and holds_network(rule, vpc_cidr(stacks, group.get("VpcId")))


def endpoints_are_used(stacks: Stacks) -> Iterator[Finding]:
    """EC2 refuses an endpoint of another region, and one without route tables has no effect: name this region and our tables."""
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        name, prefix = str(endpoint.get("ServiceName")), f"com.amazonaws.{stacks.deployment.region}."
        if not name.startswith(prefix):
            yield Finding(f"{endpoint}", f"ServiceName is {name}", f"a name that begins with {prefix}")
        tables = [stacks.find(one, ROUTE_TABLE, "id") for one in endpoint.list("RouteTableIds")]
        if (endpoint.get("VpcEndpointType") or "Gateway") == "Gateway" and (not tables or None in tables):
            yield Finding(f"{endpoint}", f"RouteTableIds is {shown(endpoint.get('RouteTableIds'))}", "the private route tables")


def endpoint_allows_image_layers(stacks: Stacks) -> Iterator[Finding]:
    """Image layers come from a bucket owned by AWS, which an S3 endpoint's policy must allow: add it, or drop the policy."""
    region, partition = stacks.deployment.region, stacks.pseudo["AWS::Partition"]
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
    layers = f"arn:{partition}:s3:::prod-{region}-starport-layer-bucket/x"
    models = [f"{one.identifiers['arn']}/release.json" for one in stacks.of("S3::Bucket")]
    for endpoint in stacks.of("EC2::VPCEndpoint"):
        policy = endpoint.get("PolicyDocument")
        if not policy or not str(endpoint.get("ServiceName")).endswith(".s3"):
            continue
        for resource in (layers, *models):
            found = [one.get("Effect") for one in statements(policy) if concerns(one, "s3:GetObject", resource)]
            if "Allow" not in found or "Deny" in found:
                yield Finding(f"{endpoint}", f"its policy blocks s3:GetObject on {resource}", "a policy that allows it")


RULES = (
    zones_do_not_share_a_nat_gateway,
    instances_reach_aws,
    load_balancer_is_reachable,
    gateway_is_attached_first,
    zones_and_addresses_are_apart,
    names_are_resolved,
    everything_is_in_one_network,
    groups_are_those_of_the_network,
    instances_may_call_out,
    endpoints_are_used,
    endpoint_allows_image_layers,
)
