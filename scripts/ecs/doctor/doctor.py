"""Explain a deployment: `python -m scripts.ecs.doctor.doctor seefood` says what is wrong with it, and what to do about each cause.

Only looks. Exits with 1 if something is wrong, or could not be looked at.
"""

import argparse
import sys

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.doctor.causes import explain, findings
from scripts.ecs.doctor.history import short
from scripts.ecs.doctor.service_state import State, cluster_and_name, look, look_deeper
from scripts.ecs.stack import find, last_failures, physical, resources
from scripts.ecs.stacks import ORDER, Deployment, DeploymentError

ALARM = "AWS::CloudWatch::Alarm"


def examine(aws: Aws, deployment: Deployment) -> State:
    """All that can be seen of a deployment. AwsError if its stacks cannot be looked at."""
    stacks = {deployment.stack(kind): find(aws, deployment.stack(kind)) for kind in ORDER}
    found = {name: resources(aws, name) for name, stack in stacks.items() if stack is not None}
    service = cluster_and_name(found.get(deployment.stack("service"), []))
    state = State("", "")
    if service is not None:
        state = look(aws, *service)
        look_deeper(aws, state, [alarm for ones in found.values() for alarm in physical(ones, ALARM)])
    state.stacks = stacks
    storage = stacks[deployment.stack("storage")]
    if storage is not None and "BucketName" in storage.outputs:
        with state.part("the release document"):
            state.release = _has_release(aws, storage.outputs["BucketName"])
    for name, stack in stacks.items():
        if stack is not None and ("ROLLBACK" in stack.status or stack.status.endswith("_FAILED")):
            state.stack_failures += last_failures(aws, name)
    return state


def _has_release(aws: Aws, bucket: str) -> bool:
    try:
        aws.call("s3", "head_object", Bucket=bucket, Key="release.json")
    except AwsError as error:
        if error.code != "404":
            raise
        return False
    return True


def summary(state: State) -> str:
    """What runs, in a line for each thing."""
    lines = [f"{name}: {stack.status}" for name, stack in state.stacks.items() if stack is not None and stack.going]
    for deployment in state.deployments:
        lines.append(
            f"{short(deployment['taskDefinition'])}: {deployment['runningCount']} of {deployment['desiredCount']} tasks run, "
            f"{deployment['status']}, {deployment.get('rolloutState', 'state unknown')}"
        )
    healthy = sum(target["TargetHealth"]["State"] == "healthy" for target in state.targets)
    if state.service:
        lines.append(
            f"{healthy} of {len(state.targets)} targets healthy, {len(state.instances or [])} container instances registered"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the name of a file in scripts/ecs/deployments")
    args = parser.parse_args(arguments)
    try:
        deployment = Deployment.load(args.name)
        state = examine(Aws(deployment.region), deployment)
    except (DeploymentError, AwsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = findings(state)
    print(summary(state))
    if found:
        print(explain(found))
    for unseen in state.unseen:
        print(f"not looked at: {unseen}")
    if not found and not state.unseen:
        goes_on = any(one.get("rolloutState") == "IN_PROGRESS" for one in state.deployments)
        print("nothing is wrong" + (" so far: a deployment goes on" if goes_on else ""))
    return 1 if found or state.unseen else 0


if __name__ == "__main__":
    sys.exit(main())
