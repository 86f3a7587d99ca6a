"""Rules about roles: who may assume them, and that each allows what deploying and serving need, and no more."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.permissions import as_list, may, policies, statements, trusts
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import ANY_ARCHIVE, Finding, shown
from scripts.ecs.stacks import ORDER

ROLE = "AWS::IAM::Role"
GITHUB = "token.actions.githubusercontent.com"
# organisation and repository in full; the rest names a branch, tag, environment or pull request
SUBJECT = re.compile(r"repo:[^*?/:\s]+/[^*?/:\s]+:.+")
# what CloudFormation calls to create a resource of each type, with the role of the service stack
CALLS = {
    "AWS::ECS::TaskDefinition": ("ecs:RegisterTaskDefinition", "ecs:DeregisterTaskDefinition"),
    "AWS::ECS::Service": ("ecs:CreateService", "ecs:UpdateService", "ecs:DeleteService", "ecs:DescribeServices"),
    "AWS::ElasticLoadBalancingV2::LoadBalancer": (
        "elasticloadbalancing:CreateLoadBalancer",
        "elasticloadbalancing:DeleteLoadBalancer",
        "elasticloadbalancing:DescribeLoadBalancers",
        "elasticloadbalancing:ModifyLoadBalancerAttributes",
    ),
    "AWS::ElasticLoadBalancingV2::TargetGroup": (
        "elasticloadbalancing:CreateTargetGroup",
        "elasticloadbalancing:DeleteTargetGroup",
        "elasticloadbalancing:ModifyTargetGroup",
        "elasticloadbalancing:ModifyTargetGroupAttributes",
        "elasticloadbalancing:DescribeTargetGroups",
    ),
    "AWS::ElasticLoadBalancingV2::Listener": (
        "elasticloadbalancing:CreateListener",
        "elasticloadbalancing:DeleteListener",
        "elasticloadbalancing:ModifyListener",
        "elasticloadbalancing:DescribeListeners",
    ),
    "AWS::CloudWatch::Alarm": ("cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms"),
    "AWS::ApplicationAutoScaling::ScalableTarget": (
        "application-autoscaling:RegisterScalableTarget",
        "application-autoscaling:DeregisterScalableTarget",
        "application-autoscaling:DescribeScalableTargets",
    ),
    "AWS::ApplicationAutoScaling::ScalingPolicy": (
        "application-autoscaling:PutScalingPolicy",
        "application-autoscaling:DeleteScalingPolicy",
        "application-autoscaling:DescribeScalingPolicies",
    ),
}


def used_as(stacks: Stacks, output: str) -> Resource | None:
    """The role in a stack's output of this name."""
    return stacks.find(stacks.outputs.get(output), ROLE, "arn")


def roles_trust_their_service(stacks: Stacks) -> Iterator[Finding]:
    """A role is useless if its service cannot assume it: name that service in AssumeRolePolicyDocument."""
    wanted = [(used_as(stacks, "ServiceStackRoleArn"), "cloudformation.amazonaws.com")]
    for profile in stacks.of("IAM::InstanceProfile"):
        wanted += [(stacks.find(one, ROLE, "name"), "ec2.amazonaws.com") for one in profile.list("Roles")]
    for task in stacks.of("ECS::TaskDefinition"):
        wanted += [(stacks.find(task.get(key), ROLE), "ecs-tasks.amazonaws.com") for key in ("ExecutionRoleArn", "TaskRoleArn")]
    for role, service in wanted:
        if role and not trusts(stacks, role, service):
            found = [one.get("Principal") for one in statements(role.get("AssumeRolePolicyDocument"))]
            yield Finding(f"{role}", f"its trust policy has {shown(found)}", f"Service: {service}, with sts:AssumeRole")
    for role in stacks.of(ROLE):
        for statement in statements(role.get("AssumeRolePolicyDocument")):
            principal = statement.get("Principal")
            # IAM accepts both spellings of everybody
            everybody = principal == "*" or (isinstance(principal, Mapping) and "*" in as_list(principal.get("AWS")))
            if everybody and statement.get("Effect") == "Allow":
                yield Finding(f"{role}", "anybody may assume it", "the service that uses it")


def github_trust_names_repository(stacks: Stacks) -> Iterator[Finding]:
    """Without a condition on the subject any GitHub repository could deploy: compare sub and aud, without wildcards."""
    for provider in stacks.of("IAM::OIDCProvider"):
        if provider.get("Url") != f"https://{GITHUB}":
            yield Finding(f"{provider}", f"Url is {shown(provider.get('Url'))}", f"https://{GITHUB}")
        if "sts.amazonaws.com" not in provider.list("ClientIdList"):
            yield Finding(f"{provider}", f"ClientIdList is {provider.list('ClientIdList')}", "sts.amazonaws.com")
    for role in stacks.of(ROLE):
        for statement in statements(role.get("AssumeRolePolicyDocument")):
            principal = statement.get("Principal")
            federated = as_list(principal.get("Federated")) if isinstance(principal, Mapping) else []
            if federated and statement.get("Effect") == "Allow":
                for found, expected in _trust_faults(stacks, statement, federated):
                    yield Finding(f"{role}", found, expected)


def _trust_faults(stacks: Stacks, statement: Mapping[str, Any], federated: list[Any]) -> Iterator[tuple[str, str]]:
    if "sts:AssumeRoleWithWebIdentity" not in as_list(statement.get("Action")):
        yield f"Action is {shown(statement.get('Action'))}", "sts:AssumeRoleWithWebIdentity"
    for arn in federated:
        if not str(arn).endswith(f":oidc-provider/{GITHUB}"):
            yield f"Federated is {arn}", f"the OIDC provider of {GITHUB}"
    values = {"sub": _compared(statement, f"{GITHUB}:sub"), "aud": _compared(statement, f"{GITHUB}:aud")}
    # the trust must name the very repository that the deployment names
    given = stacks.parameters.get("identity", {}).get("GitHubSubject")
    if not values["sub"]:
        yield "it has no condition on the subject", f"StringEquals {GITHUB}:sub"
    for subject in values["sub"]:
        if not SUBJECT.fullmatch(subject):
            yield f"sub may be {subject}", "repo:ORGANISATION/REPOSITORY:..., both in full"
        elif given and subject not in (given, f"{given.partition(':environment:')[0]}:environment:retrain"):
            yield f"sub may be {subject}", f"GitHubSubject, {given}"
    if values["aud"] != ["sts.amazonaws.com"]:
        yield f"aud may be {shown(values['aud'] or None)}", "sts.amazonaws.com"


def _compared(statement: Mapping[str, Any], key: str) -> list[str]:
    """The values that a claim must equal; only conditions that fail without the claim count."""
    conditions = statement.get("Condition")
    found = []
    for operator, keys in conditions.items() if isinstance(conditions, Mapping) else ():
        plain = operator.removeprefix("ForAllValues:").removeprefix("ForAnyValue:")
        # ForAllValues also holds for a token without the claim
        if plain in ("StringEquals", "StringLike") and not operator.startswith("ForAllValues:"):
            found += [str(value) for name, values in keys.items() if name.lower() == key for value in as_list(values)]
    return found


def roles_are_narrow(stacks: Stacks) -> Iterator[Finding]:
    """With a role that may do everything, any hole in the server is one in the account: name the actions and resources it needs."""
    for role in stacks.of(ROLE):
        for arn in role.list("ManagedPolicyArns"):
            if re.search(r"/(AdministratorAccess|PowerUserAccess|IAMFullAccess|\w*FullAccess)$", str(arn)):
                yield Finding(f"{role}", f"ManagedPolicyArns has {arn}", "only the actions that it needs")
        for statement in (one for document in policies(stacks, role) for one in statements(document)):
            if statement.get("Effect") != "Allow":
                continue
            for action in as_list(statement.get("Action")):
                # service:* on one resource is acceptable, on all resources it is not
                everywhere = "*" in as_list(statement.get("Resource"))
                if action == "*" or (re.fullmatch(r"\w[\w-]*:\*", str(action)) and everywhere):
                    yield Finding(
                        f"{role}", f"it may call {action} on {shown(statement.get('Resource'))}", "only the actions that it needs"
                    )
                elif everywhere and str(action).lower() == "iam:passrole":
                    yield Finding(f"{role}", "it may pass every role", "only the roles that it passes")
            # these also allow what AWS adds later
            for key in ("NotAction", "NotResource"):
                if key in statement:
                    yield Finding(f"{role}", f"a statement allows all but {key}", "Action and Resource")


def stack_role_may_make_service(stacks: Stacks) -> Iterator[Finding]:
    """CloudFormation creates the service with ServiceStackRole and fails where that lacks a permission: allow what it calls."""
    role = used_as(stacks, "ServiceStackRoleArn")
    if role is None:
        yield Finding(
            "identity", f"ServiceStackRoleArn is {shown(stacks.outputs.get('ServiceStackRoleArn'))}", "the stack role's ARN"
        )
        return
    for task in stacks.of("ECS::TaskDefinition"):
        for key in ("ExecutionRoleArn", "TaskRoleArn"):
            passed = stacks.find(task.get(key), ROLE)
            context = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
            if passed and not may(stacks, role, "iam:PassRole", passed.identifiers["arn"], context):
                yield Finding(f"{role}", f"it may not pass {passed}", f"iam:PassRole on it, for {task}")
    for resource in stacks.resources:
        target = _arn(stacks, resource)
        # Describe calls have no resource, except that of services
        missing = [
            action
            for action in CALLS.get(resource.type, ())
            # the other stacks are created with the rights of whoever runs make deploy
            if resource.stack == "service"
            if not may(
                stacks, role, action, "*" if ":Describe" in action and not action.startswith("ecs:DescribeServices") else target
            )
        ]
        if missing:
            yield Finding(
                f"{role}", f"it may not call {', '.join(missing)} on {target}", f"a policy that allows it, for {resource}"
            )


def _arn(stacks: Stacks, resource: Resource) -> str:
    """The ARN, as far as it can be foreseen, that IAM is asked about when a resource is made."""
    here = f"{stacks.pseudo['AWS::Region']}:{stacks.pseudo['AWS::AccountId']}"
    prefix, name = f"arn:{stacks.pseudo['AWS::Partition']}:", resource.identifiers.get("name", "x")
    balancers = [one.identifiers["name"] for one in stacks.of("ElasticLoadBalancingV2::LoadBalancer")] or ["x"]
    clusters = [one.identifiers["name"] for one in stacks.of("ECS::Cluster")] or ["x"]
    return {
        "AWS::ECS::Service": f"{prefix}ecs:{here}:service/{clusters[0]}/{name}",
        "AWS::ElasticLoadBalancingV2::LoadBalancer": f"{prefix}elasticloadbalancing:{here}:loadbalancer/app/{name}/1",
        "AWS::ElasticLoadBalancingV2::TargetGroup": f"{prefix}elasticloadbalancing:{here}:targetgroup/{name}/1",
        "AWS::ElasticLoadBalancingV2::Listener": f"{prefix}elasticloadbalancing:{here}:listener/app/{balancers[0]}/1/2",
        "AWS::CloudWatch::Alarm": f"{prefix}cloudwatch:{here}:alarm:{name}",
        "AWS::ApplicationAutoScaling::ScalableTarget": f"{prefix}application-autoscaling:{here}:scalable-target/1",
        "AWS::ApplicationAutoScaling::ScalingPolicy": f"{prefix}application-autoscaling:{here}:scalable-target/1",
    }.get(resource.type, "*")


def deploy_role_may_deploy(stacks: Stacks) -> Iterator[Finding]:
    """A workflow stops halfway where its role lacks a permission: allow image pushes, changes to the service stack and releases."""
    role = used_as(stacks, "DeployRoleArn")
    stack_role, prefix = used_as(stacks, "ServiceStackRoleArn"), f"arn:{stacks.pseudo['AWS::Partition']}:"
    if role is None:
        if "DeployRoleArn" in stacks.outputs or stacks.parameters.get("identity", {}).get("GitHubSubject"):
            yield Finding("identity", f"DeployRoleArn is {shown(stacks.outputs.get('DeployRoleArn'))}", "the deploy role's ARN")
        return
    here = f"{stacks.pseudo['AWS::Region']}:{stacks.pseudo['AWS::AccountId']}"
    # a stack's ARN ends with an id that AWS makes up: any will do, as policies end with a wildcard
    stack = f"{prefix}cloudformation:{here}:stack/{stacks.deployment.stack('service')}/1"
    changes = (
        "CreateChangeSet",
        "DescribeChangeSet",
        "ExecuteChangeSet",
        "DeleteChangeSet",
        "DescribeStacks",
        "DescribeStackEvents",
    )
    wanted = [("ecr:GetAuthorizationToken", "*"), *[(f"cloudformation:{change}", stack) for change in changes]]
    # what the other stacks lack is shown, not applied
    others = [stack.replace(stacks.deployment.stack("service"), stacks.deployment.stack(kind)) for kind in ORDER]
    wanted += [(f"cloudformation:{call}", other) for other in others for call in ("DescribeStacks", "GetTemplate")]
    pushes = ("InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage", "BatchCheckLayerAvailability")
    for repository in stacks.of("ECR::Repository"):
        wanted += [(f"ecr:{action}", repository.identifiers["arn"]) for action in pushes]
    for bucket in stacks.of("S3::Bucket"):
        arn = bucket.identifiers["arn"]
        wanted += [(action, f"{arn}/release.json") for action in ("s3:GetObject", "s3:PutObject")]
        wanted += [("s3:PutObject", f"{arn}/{ANY_ARCHIVE}"), ("s3:GetObject", f"{arn}/release.status/x.json")]
        wanted += [(action, arn) for action in ("s3:ListBucket", "s3:GetBucketVersioning")]
    wanted += [("iam:PassRole", stack_role.identifiers["arn"])] if stack_role else []
    context = {"iam:PassedToService": "cloudformation.amazonaws.com"}
    context |= {"cloudformation:RoleArn": stack_role.identifiers["arn"]} if stack_role else {}
    for action, resource in wanted:
        if not may(stacks, role, action, resource, context):
            yield Finding(f"{role}", f"it may not call {action} on {resource}", "a policy that allows it")


RULES = (
    roles_trust_their_service,
    github_trust_names_repository,
    roles_are_narrow,
    stack_role_may_make_service,
    deploy_role_may_deploy,
)
