"""Rules about the stacks as a whole: that every part is there, and that what one puts out is what a later one wants."""

from collections.abc import Iterator

from scripts.ecs.preflight.resolve.templates import Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, containers, services, shown, task_of

# what commands and later stacks take each output for, beside the roles
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
    """A service needs each of its parts, and values that lead to one: put back what was removed, renamed or never made."""
    for type_ in ("ECS::Cluster", "ECS::CapacityProvider", "ECS::TaskDefinition", "ECS::Service", "IAM::InstanceProfile"):
        if not stacks.of(type_):
            yield Finding("all stacks", f"there is no {type_}", "one")
    for type_ in ("AutoScaling::AutoScalingGroup", "EC2::LaunchTemplate", "ElasticLoadBalancingV2::LoadBalancer", "S3::Bucket"):
        if not stacks.of(type_):
            yield Finding("all stacks", f"there is no {type_}", "one")
    for stack, problem in stacks.problems:
        yield Finding(stack, problem, "a value that CloudFormation takes")
    for service in services(stacks):
        if task_of(stacks, service) is None:
            found = f"TaskDefinition is {shown(service.get('TaskDefinition'))}"
            yield Finding(f"{service}", found, "a task definition of these stacks")
    for task in stacks.of("ECS::TaskDefinition"):
        if not containers(task):
            yield Finding(f"{task}", "it has no ContainerDefinitions", "the container that serves")
    for resource in stacks.resources:
        names = {other.name for other in stacks.resources if other.stack == resource.stack}
        for name in sorted(resource.needs - names):
            yield Finding(f"{resource}", f"it needs {name}", "a resource that is made in its stack")


def outputs_are_what_they_say(stacks: Stacks) -> Iterator[Finding]:
    """Later stacks and commands take a value by the output's name: let each be there, and name what it is called after."""
    for name, (type_, what) in OUTPUTS.items():
        value = stacks.outputs.get(name)
        if stacks.find(value, f"AWS::{type_}", what) is None:
            yield Finding("outputs", f"{name} is {shown(value)}", f"the {what} of an {type_}")


RULES = (parts_are_there, outputs_are_what_they_say)
