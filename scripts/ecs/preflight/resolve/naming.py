"""What a reference to a resource becomes: its name, its ARN or an id, as text that can be compared.

Names and ARNs that can be predicted are written out, with this deployment's region and a made-up account. What only AWS can
know, such as a subnet's id, becomes the symbol «stack.LogicalId». So two references to one resource are the same text, whether
they come from !Ref, !GetAtt, !Sub, a parameter or an output of another stack.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Naming(NamedTuple):
    """How resources of a type are identified. `attributes` maps !Ref and !GetAtt attributes to name, arn, id or uri."""

    attributes: Mapping[str, str]
    name_property: str = ""
    arn: str = ""


def _id(attribute: str) -> Naming:
    return Naming({"Ref": "id", attribute: "id"})


_ARN = "arn:{partition}:"
_REGIONAL = "{region}:{account}:"
TYPES = {
    "AWS::ApplicationAutoScaling::ScalingPolicy": Naming({"Ref": "arn", "Arn": "arn"}, "PolicyName"),
    "AWS::ApplicationAutoScaling::ScalableTarget": _id("Id"),
    "AWS::AutoScaling::AutoScalingGroup": Naming({"Ref": "name"}, "AutoScalingGroupName"),
    "AWS::CloudWatch::Alarm": Naming({"Ref": "name", "Arn": "arn"}, "AlarmName", _ARN + "cloudwatch:" + _REGIONAL + "alarm:{name}"),
    "AWS::EC2::EIP": Naming({"Ref": "address", "PublicIp": "address", "AllocationId": "id"}),
    "AWS::EC2::InternetGateway": _id("InternetGatewayId"),
    "AWS::EC2::LaunchTemplate": Naming({"Ref": "id", "LaunchTemplateId": "id"}, "LaunchTemplateName"),
    "AWS::EC2::NatGateway": _id("NatGatewayId"),
    "AWS::EC2::RouteTable": _id("RouteTableId"),
    "AWS::EC2::SecurityGroup": _id("GroupId"),
    "AWS::EC2::Subnet": _id("SubnetId"),
    "AWS::EC2::VPC": _id("VpcId"),
    "AWS::ECR::Repository": Naming(
        {"Ref": "name", "Arn": "arn", "RepositoryUri": "uri"}, "RepositoryName", _ARN + "ecr:" + _REGIONAL + "repository/{name}"
    ),
    "AWS::ECS::CapacityProvider": Naming({"Ref": "name"}, "Name"),
    "AWS::ECS::Cluster": Naming({"Ref": "name", "Arn": "arn"}, "ClusterName", _ARN + "ecs:" + _REGIONAL + "cluster/{name}"),
    "AWS::ECS::Service": Naming({"Ref": "arn", "ServiceArn": "arn", "Name": "name"}, "ServiceName"),
    "AWS::ECS::TaskDefinition": Naming({"Ref": "arn", "TaskDefinitionArn": "arn"}, "Family"),
    "AWS::ElasticLoadBalancingV2::Listener": Naming({"Ref": "arn", "ListenerArn": "arn"}),
    "AWS::ElasticLoadBalancingV2::ListenerRule": Naming({"Ref": "arn", "RuleArn": "arn"}),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": Naming(
        {"Ref": "arn", "LoadBalancerArn": "arn", "LoadBalancerName": "name"}, "Name"
    ),
    "AWS::ElasticLoadBalancingV2::TargetGroup": Naming({"Ref": "arn", "TargetGroupArn": "arn", "TargetGroupName": "name"}, "Name"),
    "AWS::Events::Rule": Naming({"Ref": "name", "Arn": "arn"}, "Name", _ARN + "events:" + _REGIONAL + "rule/{name}"),
    # IAM ARNs have no region and contain the path
    "AWS::IAM::InstanceProfile": Naming(
        {"Ref": "name", "Arn": "arn"}, "InstanceProfileName", _ARN + "iam::{account}:instance-profile{path}{name}"
    ),
    "AWS::IAM::ManagedPolicy": Naming(
        {"Ref": "arn", "PolicyArn": "arn"}, "ManagedPolicyName", _ARN + "iam::{account}:policy{path}{name}"
    ),
    "AWS::IAM::OIDCProvider": Naming({"Ref": "arn", "Arn": "arn"}, "Url", _ARN + "iam::{account}:oidc-provider/{name}"),
    "AWS::IAM::Role": Naming({"Ref": "name", "Arn": "arn"}, "RoleName", _ARN + "iam::{account}:role{path}{name}"),
    "AWS::Logs::LogGroup": Naming({"Ref": "name", "Arn": "arn"}, "LogGroupName", _ARN + "logs:" + _REGIONAL + "log-group:{name}:*"),
    "AWS::S3::Bucket": Naming({"Ref": "name", "Arn": "arn"}, "BucketName", _ARN + "s3:::{name}"),
    "AWS::SNS::Topic": Naming(
        {"Ref": "arn", "TopicArn": "arn", "TopicName": "name"}, "TopicName", _ARN + "sns:" + _REGIONAL + "{name}"
    ),
    # AWS appends six random characters to a secret's ARN, so it cannot be predicted
    "AWS::SecretsManager::Secret": Naming({"Ref": "arn", "Id": "arn"}, "Name"),
    "AWS::SSM::Parameter": Naming({"Ref": "name"}, "Name", _ARN + "ssm:" + _REGIONAL + "parameter{name}"),
}
# !GetAtt of these returns the property as written
READ_BACK = ("AvailabilityZone", "CidrBlock", "VpcId")


def symbol(stack: str, logical_id: str, attribute: str = "") -> str:
    """A value that only AWS knows: «stack.LogicalId» for the resource itself, «stack.LogicalId.Attribute» for an attribute."""
    return f"«{stack}.{logical_id}{'.' if attribute else ''}{attribute}»"


def identifiers(
    kind: str, type_: str, logical_id: str, properties: Mapping[str, object], pseudo: Mapping[str, str]
) -> dict[str, str]:
    """The identifiers of a resource of this type by kind: name, arn, id, uri. `properties` are resolved ones."""
    naming = TYPES.get(type_, Naming({"Ref": "id"}))
    unknown = symbol(kind, logical_id)
    given = properties.get(naming.name_property)
    # the ARN of an OIDC provider contains its Url without the scheme
    name = str(given).removeprefix("https://") if given not in (None, "") else unknown
    found = {"id": unknown, "name": name, "arn": unknown}
    where = {"partition": pseudo["AWS::Partition"], "region": pseudo["AWS::Region"], "account": pseudo["AWS::AccountId"]}
    if naming.arn:
        found["arn"] = naming.arn.format(name=name, path=properties.get("Path", "/"), **where)
    if "uri" in naming.attributes.values():
        found["uri"] = f"{where['account']}.dkr.ecr.{where['region']}.{pseudo['AWS::URLSuffix']}/{name}"
    return {key: found[key] for key in {*naming.attributes.values(), "name"} if key in found}
