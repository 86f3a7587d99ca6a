"""What is deployed in tests of make deploy and make destroy, over scripted_aws.py; the fixtures are in deploy_fixtures.py."""

import json

from scripts.ecs.deploy.watch import TASK_DEFINITION
from scripts.ecs.stacks import Deployment
from tests.ecs.scripted_aws import (
    ACCOUNT,
    NAME,
    REGION,
    read_template,
)

HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
URI, BUCKET = f"{HOST}/{NAME}", "seefood-models"
OUTPUTS = {
    "network": dict.fromkeys(read_template("network")["Outputs"], "net-1"),
    "storage": {"BucketName": BUCKET, "BucketArn": "arn", "RepositoryName": NAME, "RepositoryUri": URI, "RepositoryArn": "arn"},
    "identity": dict.fromkeys(read_template("identity")["Outputs"], "arn:aws:iam::1:role/stack"),
    "cluster": dict.fromkeys(read_template("cluster")["Outputs"], NAME),
    "observability": dict.fromkeys(read_template("observability")["Outputs"], "x"),
    "service": dict.fromkeys(read_template("service")["Outputs"], "https://seefood.example.com"),
}
DEPLOYMENT = Deployment(NAME, REGION, {"CertificateArn": f"arn:aws:acm:{REGION}:1:certificate/1", "MaxTasks": "4"})
DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_CALLS"
case "$1" in
  login) cat > "$DOCKER_CALLS.password" ;;
  image) echo "${MACHINE:-amd64}" ;;
  push) exit "${PUSH_STATUS:-0}" ;;
esac
"""


def put_image(server, tag):
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": {"digest": tag}}
    server.call("ecr", "put_image", repositoryName=NAME, imageTag=tag, imageManifest=json.dumps(manifest))


def updating(scripted, fleet, then):
    """What becomes of an update of the service: a new task definition and deployment, then what `then` does step by step."""

    def script(one):
        scripted.begin(one)
        yield
        asked = fleet.register("new")
        scripted.event(one, TASK_DEFINITION, "TaskDefinition", "UPDATE_COMPLETE", physical=asked)
        fleet.deploy(asked, 0)
        fleet.add_event("has started 1 tasks: (task 1).")
        yield
        yield from then(one)

    scripted.on_execute["service"] = script
