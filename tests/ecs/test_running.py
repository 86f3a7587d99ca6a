"""What the workflows read of a deployment, from its stacks and its service in moto's server."""

import json

import pytest

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.calls import calls_of
from scripts.ecs.deploy.running import running
from scripts.ecs.stacks import Deployment, DeploymentError
from tests.ecs.scripted_aws import Recorder, moto

REGION = "eu-central-1"
DEPLOYMENT = Deployment("seefood", REGION, {"DomainName": "food.example.com"})
REPOSITORY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/seefood-repository-x1"


@pytest.fixture
def aws():
    with moto() as aws:
        yield aws


@pytest.fixture
def recorder(aws):
    return Recorder()


def stack(aws, kind, **outputs):
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    aws.call("cloudformation", "create_stack", StackName=DEPLOYMENT.stack(kind), TemplateBody=json.dumps(template))


def task_definition(aws, image, container="seefood"):
    aws.call(
        "ecs",
        "register_task_definition",
        family="seefood",
        containerDefinitions=[
            {"name": "sidecar", "image": "elsewhere:1", "memory": 128},
            {"name": container, "image": image, "memory": 128},
        ],
    )


@pytest.fixture
def deployed(aws):
    """A service that runs the image of the tag abc-1.1."""
    stack(aws, "storage", RepositoryUri=REPOSITORY, BucketName="seefood-models")
    stack(aws, "cluster", ClusterName="seefood")
    stack(aws, "service", ServiceName="seefood")
    aws.call("ecs", "create_cluster", clusterName="seefood")
    task_definition(aws, f"{REPOSITORY}:abc-1.1")
    aws.call("ecs", "create_service", cluster="seefood", serviceName="seefood", taskDefinition="seefood", desiredCount=1)
    return aws


def test_registry_document_and_image_of_a_running_service(deployed):
    expected = {
        "url": "https://food.example.com",
        "repository": REPOSITORY,
        "release": "s3://seefood-models/release.json",
        "image": "abc-1.1",
    }
    assert running(deployed, DEPLOYMENT) == expected
    # registered, but not what the service runs
    task_definition(deployed, f"{REPOSITORY}:abc-2.1")
    assert running(deployed, DEPLOYMENT) == expected


def test_running_makes_the_listed_calls_and_no_others(recorder, deployed):
    recorder.on = True
    running(deployed, DEPLOYMENT)
    assert recorder.made == calls_of("running"), "correct scripts/ecs/calls.py"


def test_no_service_yet_is_no_image(aws):
    stack(aws, "storage", RepositoryUri=REPOSITORY, BucketName="seefood-models")
    assert running(aws, DEPLOYMENT)["image"] == ""
    stack(aws, "cluster", ClusterName="seefood")
    stack(aws, "service")
    assert running(aws, DEPLOYMENT)["image"] == ""


def test_a_deployment_without_a_name_for_https_is_refused(deployed):
    with pytest.raises(DeploymentError, match=r"deployments/seefood.yaml has no DomainName"):
        running(deployed, Deployment("seefood", REGION, {}))


def test_no_stacks_are_named_with_what_makes_them(aws):
    with pytest.raises(DeploymentError, match="no stack 'seefood-storage' in eu-central-1: make deploy STACK=seefood"):
        running(aws, DEPLOYMENT)


@pytest.mark.parametrize(
    ("image", "container", "message"),
    [
        (f"{REPOSITORY}@sha256:{'0' * 64}", "seefood", "expected REPOSITORY:TAG"),
        ("localhost:5000/seefood", "seefood", "expected REPOSITORY:TAG"),
        (f"{REPOSITORY}:abc-1.1", "other", "has no container 'seefood'"),
    ],
)
def test_an_image_without_a_tag_is_refused(deployed, image, container, message):
    task_definition(deployed, image, container)
    deployed.client("ecs").update_service(cluster="seefood", service="seefood", taskDefinition="seefood")
    with pytest.raises(DeploymentError, match=message):
        running(deployed, DEPLOYMENT)


@pytest.mark.slow  # the client tries again, with pauses
def test_another_error_is_not_taken_for_a_missing_stack(deployed, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:9")
    with pytest.raises(AwsError, match="cloudformation:DescribeStacks"):
        running(Aws(REGION), DEPLOYMENT)
