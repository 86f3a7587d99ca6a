"""Rules about the stacks as a whole: every part is there, and each output is what later stacks expect."""

from collections.abc import Iterator

from scripts.ecs.preflight.resolve.templates import Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, containers, services, shown, task_of

# what later stacks and commands expect in each output
OUTPUTS = {
    "BucketName": ("S3::Bucket", "name"),
    "BucketArn": ("S3::Bucket", "arn"),
    "RepositoryName": ("ECR::Repository", "name"),
    "RepositoryUri": ("ECR::Repository", "uri"),
    "RepositoryArn": ("ECR::Repository", "arn"),
    "ExecutionRoleArn": ("IAM::Role", "arn"),
    "TaskRoleArn": ("IAM::Role", "arn"),
    "InstanceProfileArn": ("IAM::InstanceProfile", "arn"),
    "ServiceStackRoleArn": ("IAM::Role", "arn"),
    "ClusterName": ("ECS::Cluster", "name"),
    "CapacityProvider": ("ECS::CapacityProvider", "name"),
    "LogGroupName": ("Logs::LogGroup", "name"),
    "AlarmTopicArn": ("SNS::Topic", "arn"),
    "ServiceName": ("ECS::Service", "name"),
    "TargetGroupArn": ("ElasticLoadBalancingV2::TargetGroup", "arn"),
    "LoadBalancerArn": ("ElasticLoadBalancingV2::LoadBalancer", "arn"),
}


def parts_are_there(stacks: Stacks) -> Iterator[Finding]:
    """A service needs all its parts, and references that resolve: restore what was removed, renamed or never created."""
    for type_ in ("ECS::Cluster", "ECS::CapacityProvider", "ECS::TaskDefinition", "ECS::Service", "IAM::InstanceProfile"):
        if not stacks.of(type_):
            yield Finding("all stacks", f"there is no {type_}", "at least one")
    for type_ in ("AutoScaling::AutoScalingGroup", "EC2::LaunchTemplate", "ElasticLoadBalancingV2::LoadBalancer", "S3::Bucket"):
        if not stacks.of(type_):
            yield Finding("all stacks", f"there is no {type_}", "at least one")
    for stack, problem in stacks.problems:
        yield Finding(stack, problem, "a value that CloudFormation accepts")
    for service in services(stacks):
        if task_of(stacks, service) is None:
            found = f"TaskDefinition is {shown(service.get('TaskDefinition'))}"
            yield Finding(f"{service}", found, "a task definition of these stacks")
    for task in stacks.of("ECS::TaskDefinition"):
        if not containers(task):
            yield Finding(f"{task}", "it has no ContainerDefinitions", "the container that serves")
    for resource in stacks.resources:
        # DependsOn and !Ref cannot reach into another stack
        names = {other.name for other in stacks.resources if other.stack == resource.stack}
        for name in sorted(resource.needs - names):
            yield Finding(f"{resource}", f"it depends on {name}", "a resource of its stack")


def outputs_match_their_names(stacks: Stacks) -> Iterator[Finding]:
    """Later stacks and commands read outputs by name: each must exist, and hold what its name says."""
    for name, (type_, identifier) in OUTPUTS.items():
        value = stacks.outputs.get(name)
        # compared by kind, too: an output that exists may still hold another resource's value
        if stacks.find(value, f"AWS::{type_}", identifier) is None:
            yield Finding("outputs", f"{name} is {shown(value)}", f"the {identifier} of an {type_}")


RULES = (parts_are_there, outputs_match_their_names)
