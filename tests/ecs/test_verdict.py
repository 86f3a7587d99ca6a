"""What counts as a deployment that succeeded, failed or goes on, on states as ECS returns them."""

from datetime import UTC, datetime

import pytest

from scripts.ecs.deploy.verdict import Outcome, judge
from scripts.ecs.doctor.service_state import State

OLD, NEW = "arn:aws:ecs:x:1:task-definition/food:1", "arn:aws:ecs:x:1:task-definition/food:2"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def deployment(number, definition, status="PRIMARY", rollout="COMPLETED", reason=""):
    found = {"id": f"ecs-svc/{number}", "status": status, "taskDefinition": definition, "rolloutState": rollout}
    return {**found, "rolloutStateReason": reason or f"ECS deployment {rollout.lower()}."}


def state(*deployments, running=2, desired=2, events=()):
    messages = [{"id": str(number), "createdAt": AT, "message": message} for number, message in enumerate(events)]
    counts = {"runningCount": running, "desiredCount": desired}
    return State("cluster", "service", {"deployments": list(deployments), "events": messages, **counts})


CASES = {
    "nothing seen yet": (None, NEW, Outcome.IN_PROGRESS),
    "no deployment yet": (state(), NEW, Outcome.IN_PROGRESS),
    "not completed": (state(deployment(2, NEW, rollout="IN_PROGRESS")), NEW, Outcome.IN_PROGRESS),
    "tasks missing": (state(deployment(2, NEW), running=1), NEW, Outcome.IN_PROGRESS),
    "completed": (state(deployment(2, NEW)), NEW, Outcome.SUCCEEDED),
    "old one still draining": (state(deployment(2, NEW), deployment(1, OLD, "ACTIVE")), NEW, Outcome.SUCCEEDED),
    "rolled back": (state(deployment(1, OLD), deployment(2, NEW, "ACTIVE", "FAILED", "tasks")), NEW, Outcome.FAILED),
    "rolled back and forgotten": (state(deployment(1, OLD)), NEW, Outcome.FAILED),
    "failed without a rollback": (state(deployment(2, NEW, rollout="FAILED", reason="tasks")), NEW, Outcome.FAILED),
    "nothing changed": (state(deployment(1, OLD)), None, Outcome.SUCCEEDED),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict_on_a_deployment(case):
    seen, created, outcome = CASES[case]
    verdict = judge(seen, created, OLD, {"ecs-svc/1"})
    assert verdict.outcome is outcome
    assert bool(verdict.reason) == (outcome is Outcome.FAILED)


def test_outcome_of_an_earlier_deployment_does_not_count():
    failed = deployment(1, OLD, rollout="FAILED", reason="tasks failed to start")
    assert judge(state(failed, running=2), None, OLD, set()).outcome is Outcome.FAILED
    assert judge(state(failed, running=2), None, OLD, {"ecs-svc/1"}).outcome is Outcome.IN_PROGRESS


def test_rollback_that_cloudformation_did_not_notice_says_how_to_retry():
    verdict = judge(state(deployment(1, OLD)), None, NEW, {"ecs-svc/1"})
    assert "food:1 is running instead of food:2" in verdict.reason
    assert "aws ecs update-service --cluster cluster --service service --task-definition food:2" in verdict.reason
