"""Explain why a deployment is unhealthy: `python -m scripts.ecs.doctor.doctor NAME` lists each cause with what to do about it.

Read-only. Exit status 1 if there is a problem, or if something could not be checked.
"""

import sys

from scripts.command import parser, run
from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.doctor.causes import explain, findings
from scripts.ecs.doctor.history import short
from scripts.ecs.doctor.reasons import reasons_table
from scripts.ecs.doctor.service_state import State, add_details, cluster_and_name, read_state
from scripts.ecs.stack import RELEASE_KEY, find, last_failures, physical, resources
from scripts.ecs.stacks import ORDER, Deployment
from scripts.phrases import counted

ALARM = "AWS::CloudWatch::Alarm"


def examine(aws: Aws, deployment: Deployment) -> State:
    """The state of a deployment. AwsError if its stacks cannot be read."""
    stacks = {deployment.stack(kind): find(aws, deployment.stack(kind)) for kind in ORDER}
    found = {name: resources(aws, name) for name, stack in stacks.items() if stack is not None}
    service = cluster_and_name(found.get(deployment.stack("service"), []))
    state = State("", "")
    if service is not None:
        state = read_state(aws, *service)
        add_details(aws, state, [alarm for one in found.values() for alarm in physical(one, ALARM)])
    state.stacks = stacks
    storage = stacks[deployment.stack("storage")]
    if storage is not None and "BucketName" in storage.outputs:
        # without it every task fails at its start, and the logs of all of them say so
        with state.part("the release document"):
            state.has_release = _has_release(aws, storage.outputs["BucketName"])
    for name, stack in stacks.items():
        if stack is not None and ("ROLLBACK" in stack.status or stack.status.endswith("_FAILED")):
            state.stack_failures += last_failures(aws, name)
    return state


def _has_release(aws: Aws, bucket: str) -> bool:
    try:
        aws.call("s3", "head_object", Bucket=bucket, Key=RELEASE_KEY)
    except AwsError as error:
        # without s3:ListBucket S3 answers 403 for a missing object, too: then it counts as not checked
        if error.code != "404":
            raise
        return False
    return True


def summary(state: State) -> str:
    """What runs: operations in progress, deployments, targets and instances."""
    lines = [f"{name}: {stack.status}" for name, stack in state.stacks.items() if stack is not None and stack.in_progress]
    for deployment in state.deployments:
        lines.append(
            f"{short(deployment['taskDefinition'])}: {deployment['runningCount']} of "
            f"{counted(deployment['desiredCount'], 'task')} running, "
            f"{deployment['status']}, {deployment.get('rolloutState', 'state unknown')}"
        )
    # during a deployment the tasks of both versions are targets
    healthy = sum(target["TargetHealth"]["State"] == "healthy" for target in state.targets)
    if state.service:
        lines.append(
            f"{healthy} of {counted(len(state.targets), 'target')} healthy, "
            f"{counted(len(state.instances or []), 'container instance')} registered"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    command = parser(__doc__)
    command.add_argument("name", nargs="?", help="the name of a file in scripts/ecs/deployments, without .yaml")
    command.add_argument("--list", action="store_true", help="print each cause that a message of ECS may have, and what to do")
    args = command.parse_args(arguments)
    if args.list:
        print(reasons_table())
        return 0
    if args.name is None:
        command.error("name is required: a file in scripts/ecs/deployments")
    deployment = Deployment.load(args.name)
    state = examine(Aws(deployment.region), deployment)
    found = findings(state)
    print(summary(state))
    if found:
        print(explain(found))
    for unchecked in state.unchecked:
        print(f"not checked: {unchecked}")
    if not found and not state.unchecked:
        in_progress = any(one.get("rolloutState") == "IN_PROGRESS" for one in state.deployments)
        print("no problem found" + (" so far: a deployment is in progress" if in_progress else ""))
    return 1 if found or state.unchecked else 0


if __name__ == "__main__":
    sys.exit(run(main))
