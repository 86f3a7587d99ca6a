"""What a deployment has and runs, as lines for a workflow's $GITHUB_OUTPUT: `python -m scripts.ecs.deploy.running seefood`.

url=...          what clients send photos to
repository=...   what images are pushed to
release=...      the address of the release document
image=...        the tag of the image that the service runs; empty while there is no service
"""

import argparse
import sys

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.stacks import Deployment, DeploymentError

CONTAINER = "seefood"


def outputs(aws: Aws, stack: str) -> dict[str, str] | None:
    """What a stack puts out, None if there is no such stack. AwsError."""
    try:
        described = aws.call("cloudformation", "describe_stacks", StackName=stack)["Stacks"][0]
    except AwsError as error:
        if error.code == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    return {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])}


def image_tag(aws: Aws, cluster: str, service: str) -> str:
    """The tag of the image in the task definition that a service runs. DeploymentError if it has none, AwsError."""
    found = aws.call("ecs", "describe_services", cluster=cluster, services=[service])["services"]
    if not found:
        raise DeploymentError(f"there is no service {service!r} in the cluster {cluster!r}")
    task = aws.call("ecs", "describe_task_definition", taskDefinition=found[0]["taskDefinition"])["taskDefinition"]
    images = [container["image"] for container in task["containerDefinitions"] if container["name"] == CONTAINER]
    if not images:
        raise DeploymentError(f"the task definition of {service!r} has no container {CONTAINER!r}")
    _, colon, tag = images[0].rpartition(":")
    if not colon or "/" in tag or "@" in images[0]:
        raise DeploymentError(f"the image of {service!r} is {images[0]!r}, expected REPOSITORY:TAG")
    return str(tag)


def running(aws: Aws, deployment: Deployment) -> dict[str, str]:
    """The lines that the module's docstring describes. DeploymentError naming what is missing, AwsError."""
    domain = deployment.parameters.get("DomainName")
    if not domain:
        raise DeploymentError(f"deployments/{deployment.name}.yaml has no DomainName, and by no other name could HTTPS be trusted")
    stack = deployment.stack("storage")
    storage = outputs(aws, stack)
    if storage is None:
        raise DeploymentError(f"there is no stack {stack!r} in {aws.region}: make deploy STACK={deployment.name} makes it")
    cluster, service = (outputs(aws, deployment.stack(kind)) for kind in ("cluster", "service"))
    return {
        "url": f"https://{domain}",
        "repository": storage["RepositoryUri"],
        "release": f"s3://{storage['BucketName']}/release.json",
        # a stack whose first create was rolled back puts out nothing
        "image": image_tag(aws, cluster["ClusterName"], service["ServiceName"]) if cluster and service else "",
    }


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", help="the name of a file in scripts/ecs/deployments")
    args = parser.parse_args()
    try:
        deployment = Deployment.load(args.stack)
        found = running(Aws(deployment.region), deployment)
    except (DeploymentError, AwsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{name}={value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
