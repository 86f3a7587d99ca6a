"""Deleting one CloudFormation stack, watched."""

from scripts.ecs.aws import Aws
from scripts.ecs.progress import Limit
from scripts.ecs.stack import Events, Stack, StackError, wait


def delete(aws: Aws, stack: Stack, limit: Limit) -> None:
    """Return when the stack is gone; what its template retains stays. StackError with each resource that could not go, AwsError."""
    events = Events(aws, stack.id)
    if stack.status != "DELETE_IN_PROGRESS":
        aws.call("cloudformation", "delete_stack", StackName=stack.id)
    ended, failed = wait(aws, stack, events, limit)
    if ended.status == "DELETE_COMPLETE":
        return
    why = "\n".join(failed) or ended.why or "CloudFormation gives no reason"
    raise StackError(
        f"{stack.name} is {ended.status}: not all of it could be deleted\n{why}\n"
        "Remove what is in the way, then the same command again; or leave a resource in AWS for good: "
        f"aws cloudformation delete-stack --region {aws.region} --stack-name {stack.name} --retain-resources NAME"
    )
