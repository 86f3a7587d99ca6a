"""A deployment that ECS undid while nobody watched: its event against the rule's pattern, and the message that people get.

The events are the examples of docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_service_deployment_events.html, with this
service's ARN and an id in place of theirs. moto evaluates the pattern.
"""

import json
import re

import boto3
import pytest
from moto.events.models import EventPattern

from scripts.ecs.preflight.resolve.permissions import statements
from tests.ecs.scripted_aws import moto_server
from tests.ecs.test_templates import resource, stacks

SERVICE = "arn:aws:ecs:eu-central-1:111122223333:service/seefood/seefood"


def event(name, reason, type_="INFO", service=SERVICE, detail_type="ECS Deployment State Change"):
    detail = {
        "eventType": type_,
        "eventName": name,
        "deploymentId": "ecs-svc/123",
        "updatedAt": "2020-05-23T11:11:11Z",
        "reason": reason,
    }
    return {
        "version": "0",
        "id": "ddca6449-b258-46c0-8653-e0e3aEXAMPLE",
        "detail-type": detail_type,
        "source": "aws.ecs",
        "account": "111122223333",
        "time": "2020-05-23T12:31:14Z",
        "region": "eu-central-1",
        "resources": [service],
        "detail": detail,
    }


STARTED = event("SERVICE_DEPLOYMENT_IN_PROGRESS", "ECS deployment ecs-svc/123 in progress.")
UNDONE = event("SERVICE_DEPLOYMENT_IN_PROGRESS", "ECS deployment circuit breaker: rolling back to deploymentId ecs-svc/122.")
COMPLETED = event("SERVICE_DEPLOYMENT_COMPLETED", "ECS deployment ecs-svc/123 completed.")
FAILED = event("SERVICE_DEPLOYMENT_FAILED", "ECS deployment circuit breaker: task failed to start.", "ERROR")
EVENTS = {
    "failed": (FAILED, True),
    "undone": (UNDONE, True),
    "undone by an alarm": (event("SERVICE_DEPLOYMENT_IN_PROGRESS", "alarm detected: rolling back to ecs-svc/122."), True),
    "started": (STARTED, False),
    "completed": (COMPLETED, False),
    "another service's": (event("SERVICE_DEPLOYMENT_FAILED", "x", service=SERVICE + "-2"), False),
    "of another kind": (event("SERVICE_DEPLOYMENT_FAILED", "x", detail_type="ECS Service Action"), False),
}


def rule():
    return resource(stacks(), "DeploymentFailed")


@pytest.mark.parametrize("name", EVENTS)
def test_rule_takes_what_failed_of_this_service_and_nothing_else(name):
    given, expected = EVENTS[name]
    assert EventPattern.load(json.dumps(rule().get("EventPattern"))).matches_event(given) is expected


def test_message_is_one_json_text_that_says_what_happened_and_what_to_do():
    target = rule().get("Targets", 0)
    paths, template = target["InputTransformer"]["InputPathsMap"], target["InputTransformer"]["InputTemplate"]
    for key, path in paths.items():
        found = FAILED
        for step in path.removeprefix("$.").split("."):
            found = found[step]
        template = template.replace(f"<{key}>", found)
    message = json.loads(template)  # EventBridge refuses what is no JSON
    assert not re.search(r"[<>]|\$\{", message)
    assert message.startswith(
        "seefood: SERVICE_DEPLOYMENT_FAILED of ecs-svc/123 at 2020-05-23T12:31:14Z. ECS deployment circuit breaker"
    )
    assert "make doctor STACK=seefood" in message


def test_only_this_rule_and_this_deployments_alarms_may_publish():
    found = stacks()
    events, alarms = statements(resource(found, "AlarmTopicPolicy").get("PolicyDocument"))
    assert events["Condition"] == {"ArnEquals": {"aws:SourceArn": rule().identifiers["arn"]}}
    allowed = alarms["Condition"]["ArnLike"]["aws:SourceArn"].removesuffix("*")
    assert all(one.identifiers["arn"].startswith(allowed) for one in found.of("CloudWatch::Alarm"))


def test_of_the_events_of_a_deployment_one_comes_through():
    """Through moto's EventBridge, with the rule as the template has it, to a queue: moto has no topics as targets."""
    with moto_server():
        events, sqs = boto3.client("events"), boto3.client("sqs")
        queue = sqs.create_queue(QueueName="people")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_rule(Name="failed", EventPattern=json.dumps(rule().get("EventPattern")))
        events.put_targets(Rule="failed", Targets=[{"Id": "people", "Arn": arn}])
        for one in (STARTED, FAILED, COMPLETED):
            entry = {"Source": one["source"], "DetailType": one["detail-type"], "Detail": json.dumps(one["detail"])}
            events.put_events(Entries=[entry | {"Resources": one["resources"]}])
        (got,) = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert json.loads(got["Body"])["detail"] == FAILED["detail"]
