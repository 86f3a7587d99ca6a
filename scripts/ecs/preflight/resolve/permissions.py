"""What the roles of the templates may do: who may take one on, and whether its policies allow an action on a resource.

As IAM decides, as far as the templates tell: wildcards, Deny before Allow, NotAction and NotResource, permissions boundaries,
and those conditions whose keys the caller knows; other conditions are taken to hold. AWS's own policies are known by name below.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks

_PULL = ("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
_LOG = ("logs:CreateLogStream", "logs:PutLogEvents")
# what AWS's own policies allow, on any resource, of what the rules ask for
AWS_POLICIES = {
    "service-role/AmazonECSTaskExecutionRolePolicy": (*_PULL, *_LOG),
    "service-role/AmazonEC2ContainerServiceforEC2Role": (
        *("ec2:DescribeTags", "ecs:CreateCluster", "ecs:DeregisterContainerInstance", "ecs:DiscoverPollEndpoint", "ecs:Poll"),
        *("ecs:RegisterContainerInstance", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState", "ecs:Submit*"),
        *(*_PULL, *_LOG),
    ),
    "AmazonSSMManagedInstanceCore": (
        *("ssm:UpdateInstanceInformation", "ssm:GetParameter", "ssm:GetParameters", "ssmmessages:*", "ec2messages:*"),
    ),
    "AmazonEC2ContainerRegistryReadOnly": (*_PULL,),
    "AmazonS3ReadOnlyAccess": ("s3:Get*", "s3:List*"),
    "AmazonS3FullAccess": ("s3:*",),
    "CloudWatchLogsFullAccess": ("logs:*",),
    "AdministratorAccess": ("*",),
}


def as_list(value: Any) -> list[Any]:
    """A value of a policy, which may be one or a list, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def statements(document: Any) -> list[Mapping[str, Any]]:
    """The statements of a policy document."""
    found = as_list(document.get("Statement")) if isinstance(document, Mapping) else []
    return [one for one in found if isinstance(one, Mapping)]


def matches(pattern: object, text: str) -> bool:
    """Whether a pattern with * and ? is this text."""
    return _expression(str(pattern)).fullmatch(text) is not None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def policies(stacks: Stacks, role: Resource) -> Iterator[Any]:
    """The policy documents that hang on a role, wherever they are written."""
    yield from (one.get("PolicyDocument") for one in role.list("Policies") if isinstance(one, Mapping))
    for resource in stacks.of("IAM::Policy", "IAM::RolePolicy", "IAM::ManagedPolicy"):
        named = [*resource.list("Roles"), *resource.list("RoleName")]
        if role.identifiers["name"] in named:
            yield resource.get("PolicyDocument")
    for arn in role.list("ManagedPolicyArns"):
        yield _managed(stacks, arn)


def _managed(stacks: Stacks, arn: object) -> Any:
    ours = stacks.find(arn, "AWS::IAM::ManagedPolicy", "arn")
    if ours:
        return ours.get("PolicyDocument")
    name = re.sub(r"^arn:aws[a-z-]*:iam::aws:policy/", "", str(arn))
    return {"Statement": [{"Effect": "Allow", "Action": list(AWS_POLICIES.get(name, ())), "Resource": "*"}]}


def may(stacks: Stacks, role: Resource, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Whether a role may do this to the resource with that ARN."""
    documents = [*policies(stacks, role)]
    boundary = role.get("PermissionsBoundary")
    return _allowed(documents, action, resource, context) and (
        boundary is None or _allowed([_managed(stacks, boundary)], action, resource, context)
    )


def _allowed(documents: list[Any], action: str, resource: str, context: Mapping[str, str] | None) -> bool:
    found = [
        one.get("Effect")
        for document in documents
        for one in statements(document)
        if concerns(one, action, resource) and _holds(one, context or {})
    ]
    return "Allow" in found and "Deny" not in found


def concerns(statement: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether a statement speaks of this action on that resource."""
    if "NotAction" in statement:
        acts = not any(matches(str(one).lower(), action.lower()) for one in as_list(statement["NotAction"]))
    else:
        acts = any(matches(str(one).lower(), action.lower()) for one in as_list(statement.get("Action")))
    if "NotResource" in statement:
        return acts and not any(matches(one, resource) for one in as_list(statement["NotResource"]))
    return acts and any(matches(one, resource) for one in as_list(statement.get("Resource")))


def _holds(statement: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """Whether its conditions hold. Of keys that the context lacks we know nothing: an Allow is believed, a Deny is not."""
    conditions = statement.get("Condition")
    if not isinstance(conditions, Mapping):
        return True
    for operator, keys in conditions.items():
        for key, values in keys.items():
            known = {name.lower(): value for name, value in context.items()}.get(key.lower())
            if known is None:
                if statement.get("Effect") == "Deny":
                    return False
                continue
            met = any(matches(value, known) for value in as_list(values))
            if met == ("Not" in operator):
                return False
    return True


def trusts(stacks: Stacks, role: Resource, service: str) -> bool:
    """Whether a service of AWS, e.g. ecs-tasks.amazonaws.com, may take on a role."""
    account, region = stacks.pseudo["AWS::AccountId"], stacks.pseudo["AWS::Region"]
    context = {"aws:SourceAccount": account}
    if service.startswith("ecs-tasks."):
        context["aws:SourceArn"] = f"arn:{stacks.pseudo['AWS::Partition']}:ecs:{region}:{account}:task/x"
    effects = []
    for statement in statements(role.get("AssumeRolePolicyDocument")):
        principal = statement.get("Principal")
        services = as_list(principal.get("Service")) if isinstance(principal, Mapping) else []
        acts = any(matches(str(one).lower(), "sts:assumerole") for one in as_list(statement.get("Action")))
        if service in services and acts and _holds(statement, context):
            effects.append(statement.get("Effect"))
    return "Allow" in effects and "Deny" not in effects
