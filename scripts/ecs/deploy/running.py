"""What a deployment runs, as lines for a workflow's $GITHUB_OUTPUT: `python -m scripts.ecs.deploy.running NAME`.

url=...          where clients send photos
repository=...   where images are pushed
release=...      the address of the release document
image=...        the tag of the image that the service runs; empty if there is no service yet
"""

import sys

from scripts.command import parser, run
from scripts.ecs.aws import Aws
from scripts.ecs.stack import RELEASE_KEY, find
from scripts.ecs.stacks import Deployment, DeploymentError

CONTAINER = "seefood"  # in the task definition of templates/service.yaml


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
    # a digest is not a tag, and neither is the port of a registry
    if not colon or "/" in tag or "@" in images[0]:
        raise DeploymentError(f"the image of {service!r} is {images[0]!r}, expected REPOSITORY:TAG")
    return str(tag)


def running(aws: Aws, deployment: Deployment) -> dict[str, str]:
    """The lines that the module's docstring describes. DeploymentError naming what is missing, AwsError."""
    domain = deployment.parameters.get("DomainName")
    if not domain:
        raise DeploymentError(f"deployments/{deployment.name}.yaml has no DomainName: HTTPS cannot be verified under another name")
    storage, cluster, service = (find(aws, deployment.stack(kind)) for kind in ("storage", "cluster", "service"))
    if storage is None:
        missing = deployment.stack("storage")
        raise DeploymentError(f"there is no stack {missing!r} in {aws.region}: make deploy STACK={deployment.name} creates it")
    image = ""
    # a stack whose creation was rolled back exists, without outputs
    if cluster and service and cluster.outputs and service.outputs:
        image = image_tag(aws, cluster.outputs["ClusterName"], service.outputs["ServiceName"])
    return {
        "url": f"https://{domain}",
        "repository": storage.outputs["RepositoryUri"],
        "release": f"s3://{storage.outputs['BucketName']}/{RELEASE_KEY}",
        "image": image,
    }


def main() -> None:
    """Command line; see the module's docstring."""
    command = parser(__doc__)
    command.add_argument("name", help="the name of a file in scripts/ecs/deployments, without .yaml")
    deployment = Deployment.load(command.parse_args().name)
    print("\n".join(f"{key}={value}" for key, value in running(Aws(deployment.region), deployment).items()))


if __name__ == "__main__":
    sys.exit(run(main))
