"""Rules about events: somebody hears of a deployment that ECS undid while nobody watched."""

from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.permissions import as_list, statements
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, services, shown
from scripts.ecs.preflight.rules.alarms import ALARM, TOPIC

# docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_service_deployment_events.html
SOURCE, DETAIL_TYPE, FAILED = "aws.ecs", "ECS Deployment State Change", "SERVICE_DEPLOYMENT_FAILED"


def failed_deployments_notify_someone(stacks: Stacks) -> Iterator[Finding]:
    """ECS undoes a failed deployment in silence: send its event to the alarm topic, and let events and alarms publish there."""
    for service in services(stacks):
        arn = _service_arn(stacks, service)
        rules = [one for one in stacks.of("Events::Rule") if _matches(one, arn)]
        if not rules:
            yield Finding(f"{service}", f"no rule for {FAILED} of {arn}", "an enabled AWS::Events::Rule for this service alone")
        for rule in rules:
            topics = [topic for one in rule.list("Targets") if (topic := stacks.find(one.get("Arn"), TOPIC, "arn"))]
            if not topics:
                yield Finding(f"{rule}", f"Targets is {shown(rule.get('Targets'))}", "the alarm topic")
            for topic in topics:
                if not any(_is_from(one, rule.identifiers["arn"]) for one in _allowed(stacks, topic, "events.amazonaws.com")):
                    yield Finding(f"{topic}", f"{rule} may not publish, or others may, too", "a policy with its aws:SourceArn")
    for topic in stacks.of(TOPIC):
        alarms = [one for one in stacks.of(ALARM) if topic.identifiers["arn"] in one.list("AlarmActions")]
        # a policy of its own replaces the topic's first one, which lets the whole account publish
        if alarms and _policies(stacks, topic) and not list(_allowed(stacks, topic, "cloudwatch.amazonaws.com")):
            yield Finding(f"{topic}", "alarms may not publish", "a statement of its policy for cloudwatch.amazonaws.com")


def _service_arn(stacks: Stacks, service: Resource) -> str:
    """Its ARN, of which a template knows all parts: the cluster's name and its own."""
    where = ":".join(stacks.pseudo[f"AWS::{one}"] for one in ("Region", "AccountId"))
    return f"arn:{stacks.pseudo['AWS::Partition']}:ecs:{where}:service/{service.get('Cluster')}/{service.identifiers['name']}"


def _matches(rule: Resource, service_arn: str) -> bool:
    pattern: Mapping[str, Any] = rule.get("EventPattern") or {}
    detail = pattern.get("detail") or {}
    names = [name for one in [detail, *as_list(detail.get("$or") or [])] for name in as_list(one.get("eventName") or [])]
    return (
        rule.get("State") != "DISABLED"
        and SOURCE in as_list(pattern.get("source") or [])
        and DETAIL_TYPE in as_list(pattern.get("detail-type") or [])
        and as_list(pattern.get("resources") or []) == [service_arn]
        and FAILED in names
    )


def _policies(stacks: Stacks, topic: Resource) -> list[Resource]:
    return [one for one in stacks.of("SNS::TopicPolicy") if topic.identifiers["arn"] in one.list("Topics")]


def _allowed(stacks: Stacks, topic: Resource, principal: str) -> Iterator[Mapping[str, Any]]:
    """The statements that let a service of AWS publish."""
    for policy in _policies(stacks, topic):
        for one in statements(policy.get("PolicyDocument")):
            publishes = one.get("Effect") == "Allow" and "sns:Publish" in as_list(one.get("Action") or [])
            if publishes and (one.get("Principal") or {}).get("Service") == principal:
                yield one


def _is_from(statement: Mapping[str, Any], rule_arn: str) -> bool:
    return any(given.get("aws:SourceArn") == rule_arn for given in (statement.get("Condition") or {}).values())


RULES = (failed_deployments_notify_someone,)
