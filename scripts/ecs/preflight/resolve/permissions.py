"""What the templates' roles may do: who may assume them, and whether their policies allow an action on a resource.

Decided as IAM does, as far as templates can show: wildcards, Deny before Allow, NotAction and NotResource, permissions
boundaries, and conditions on keys that the caller passes. Other conditions count as met. AWS's own policies are listed below.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from scripts.ecs.preflight.resolve.templates import Resource, Stacks

_PULL = ("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
_LOG = ("logs:CreateLogStream", "logs:PutLogEvents")
# what AWS's managed policies allow on any resource, as far as the rules ask for it
AWS_POLICIES = {
    "service-role/AmazonECSTaskExecutionRolePolicy": (*_PULL, *_LOG),
    "service-role/AmazonEC2ContainerServiceforEC2Role": (
        "ec2:DescribeTags",
        "ecs:CreateCluster",
        "ecs:DeregisterContainerInstance",
        "ecs:DiscoverPollEndpoint",
        "ecs:Poll",
        "ecs:RegisterContainerInstance",
        "ecs:StartTelemetrySession",
        "ecs:UpdateContainerInstancesState",
        "ecs:Submit*",
        *_PULL,
        *_LOG,
    ),
    "AmazonSSMManagedInstanceCore": (
        "ssm:UpdateInstanceInformation",
        "ssm:GetParameter",
        "ssm:GetParameters",
        "ssmmessages:*",
        "ec2messages:*",
    ),
    "AmazonEC2ContainerRegistryReadOnly": _PULL,
    "AmazonS3ReadOnlyAccess": ("s3:Get*", "s3:List*"),
    "AmazonS3FullAccess": ("s3:*",),
    "CloudWatchLogsFullAccess": ("logs:*",),
    "AdministratorAccess": ("*",),
}


def as_list(value: Any) -> list[Any]:
    """A policy's value as a list; it may be written as a single value."""
    return [] if value is None else value if isinstance(value, list) else [value]


def statements(document: Any) -> list[Mapping[str, Any]]:
    """The statements of a policy document."""
    found = as_list(document.get("Statement")) if isinstance(document, Mapping) else []
    return [one for one in found if isinstance(one, Mapping)]


def matches(pattern: object, text: str) -> bool:
    """Whether a text matches a pattern with * and ?."""
    return _expression(str(pattern)).fullmatch(text) is not None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    # not fnmatch, as brackets have no meaning in IAM
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def policies(stacks: Stacks, role: Resource) -> Iterator[Any]:
    """The policy documents attached to a role, inline or as resources of their own."""
    yield from (one.get("PolicyDocument") for one in role.list("Policies") if isinstance(one, Mapping))
    for resource in stacks.of("IAM::Policy", "IAM::RolePolicy", "IAM::ManagedPolicy"):
        if role.identifiers["name"] in resource.list("Roles") + resource.list("RoleName"):
            yield resource.get("PolicyDocument")
    for arn in role.list("ManagedPolicyArns"):
        yield _managed(stacks, arn)


def _managed(stacks: Stacks, arn: object) -> Any:
    # an AWS policy that is not listed above allows nothing here: a false alarm is safer than silence
    ours = stacks.find(arn, "AWS::IAM::ManagedPolicy", "arn")
    if ours:
        return ours.get("PolicyDocument")
    name = re.sub(r"^arn:aws[a-z-]*:iam::aws:policy/", "", str(arn))
    return {"Statement": [{"Effect": "Allow", "Action": list(AWS_POLICIES.get(name, ())), "Resource": "*"}]}


def may(stacks: Stacks, role: Resource, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Whether a role may perform an action on the resource with this ARN. `context` holds condition keys and their values."""
    documents = [*policies(stacks, role)]
    # a boundary grants nothing, it only limits what the policies grant
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
    """Whether a statement covers this action on this resource."""
    if "NotAction" in statement:
        # IAM compares actions without case, and resources with it
        acts = not any(matches(str(one).lower(), action.lower()) for one in as_list(statement["NotAction"]))
    else:
        acts = any(matches(str(one).lower(), action.lower()) for one in as_list(statement.get("Action")))
    if "NotResource" in statement:
        return acts and not any(matches(one, resource) for one in as_list(statement["NotResource"]))
    return acts and any(matches(one, resource) for one in as_list(statement.get("Resource")))


def _holds(statement: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    """Whether its conditions hold. With keys that the context lacks, an Allow counts as met and a Deny as not."""
    conditions = statement.get("Condition")
    if not isinstance(conditions, Mapping):
        return True
    for operator, keys in conditions.items():
        for key, values in keys.items():
            known = {name.lower(): value for name, value in context.items()}.get(key.lower())
            # the context holds only the keys that a rule is about; others are assumed to suit the caller
            if known is None:
                if statement.get("Effect") == "Deny":
                    return False
                continue
            met = any(matches(value, known) for value in as_list(values))
            if met == ("Not" in operator):
                return False
    return True


def trusts(stacks: Stacks, role: Resource, service: str) -> bool:
    """Whether an AWS service, e.g. ecs-tasks.amazonaws.com, may assume a role."""
    account, region = stacks.pseudo["AWS::AccountId"], stacks.pseudo["AWS::Region"]
    context = {"aws:SourceAccount": account}
    if service.startswith("ecs-tasks."):
        # with this ECS shows on whose behalf it assumes the role
        context["aws:SourceArn"] = f"arn:{stacks.pseudo['AWS::Partition']}:ecs:{region}:{account}:task/x"
    effects = []
    for statement in statements(role.get("AssumeRolePolicyDocument")):
        principal = statement.get("Principal")
        services = as_list(principal.get("Service")) if isinstance(principal, Mapping) else []
        acts = any(matches(str(one).lower(), "sts:assumerole") for one in as_list(statement.get("Action")))
        if service in services and acts and _holds(statement, context):
            effects.append(statement.get("Effect"))
    return "Allow" in effects and "Deny" not in effects
