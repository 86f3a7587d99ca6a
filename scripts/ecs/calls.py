"""Every AWS call of each command, as IAM writes it: `python -m scripts.ecs.calls` prints the table for scripts/ecs/README.md.

Written by hand, and compared in tests/ecs with what the commands really call. Not in it: the calls that CloudFormation makes
for the resources of the templates.
"""

import sys

from scripts.command import parser, run

# what doctor/service_state.py reads; deploy reads it, too, to watch the service
SERVICE_STATE = (
    "application-autoscaling:DescribeScalableTargets",
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeScalingActivities",
    "cloudwatch:DescribeAlarms",
    "ecs:DescribeCapacityProviders",
    "ecs:DescribeClusters",
    "ecs:DescribeContainerInstances",
    "ecs:DescribeServices",
    "ecs:DescribeTaskDefinition",
    "ecs:DescribeTasks",
    "ecs:ListContainerInstances",
    "ecs:ListTasks",
    "elasticloadbalancing:DescribeTargetHealth",
    "iam:GetRole",
    "logs:GetLogEvents",
)
# what stack.py reads
STACKS = ("cloudformation:DescribeStackEvents", "cloudformation:DescribeStacks", "cloudformation:ListStackResources")
CALLS: dict[str, tuple[str, ...]] = {
    "preflight": (
        "acm:DescribeCertificate",
        "cloudformation:DescribeStackResource",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
        "iam:GetRole",
        "s3:HeadBucket",
        "servicequotas:GetAWSDefaultServiceQuota",
        "servicequotas:GetServiceQuota",
        "ssm:GetParameter",
        "sts:GetCallerIdentity",
    ),
    "deploy": (
        *SERVICE_STATE,
        *STACKS,
        "cloudformation:CreateChangeSet",
        "cloudformation:DeleteChangeSet",
        "cloudformation:DeleteStack",
        "cloudformation:DescribeChangeSet",
        "cloudformation:DescribeEvents",
        "cloudformation:ExecuteChangeSet",
        "ecr:DescribeImages",
        "ecr:GetAuthorizationToken",
        "s3:GetBucketVersioning",
        "s3:GetObject",
        "s3:HeadObject",
        "s3:PutObject",
        "sts:GetCallerIdentity",
    ),
    "doctor": (*SERVICE_STATE, *STACKS, "s3:HeadObject"),
    "destroy": (
        *STACKS,
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:SetInstanceProtection",
        "autoscaling:UpdateAutoScalingGroup",
        "cloudformation:DeleteStack",
        "ecr:DescribeImages",
        "s3:ListObjectVersions",
        "sts:GetCallerIdentity",
    ),
    "unapplied": ("cloudformation:DescribeStacks", "cloudformation:GetTemplate"),
    "running": ("cloudformation:DescribeStacks", "ecs:DescribeServices", "ecs:DescribeTaskDefinition"),
}
# `running` calls nothing that deploy does not call, and only workflows run it: no column of its own
SHOWN = ("preflight", "deploy", "unapplied", "doctor", "destroy")
# `docker push` makes these, with the login that ecr:GetAuthorizationToken returns
PUSH = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)
# the permission for a call where it has another name
PERMISSION = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectVersions": "s3:ListBucketVersions"}


def calls_of(command: str) -> set[str]:
    """Every call that a command can make, e.g. "deploy"."""
    return set(CALLS[command])


def calls_table() -> str:
    """All calls and the commands that make them, as a Markdown table."""
    all_calls = sorted({call for command in SHOWN for call in CALLS[command]})
    rows = [(call, ", ".join(command for command in SHOWN if call in CALLS[command])) for call in all_calls]
    rows += [(call, "deploy, by `docker push`") for call in PUSH]
    lines = ["| Call | Made by |", "|---|---|"]
    for call, commands in sorted(rows):
        needs = f" (permission {PERMISSION[call]})" if call in PERMISSION else ""
        lines.append(f"| {call}{needs} | {commands} |")
    return "\n".join(lines)


def main() -> None:
    """Command line; see the module's docstring."""
    parser(__doc__).parse_args()
    print(calls_table())


if __name__ == "__main__":
    sys.exit(run(main))
