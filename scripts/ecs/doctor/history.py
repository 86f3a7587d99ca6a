"""The past of a service: whether the last deployment was rolled back, the last steady state, and failed activities since."""

from datetime import datetime

from scripts.ecs.doctor.service_state import LONG_AGO, Answer, State


def since(state: State) -> datetime:
    """The time since which something may be wrong: the last steady state; the one before, if a deployment was rolled back since."""
    # CloudFormation rolls back by another deployment, which ends in a steady state like any other
    undone = [name for name, stack in state.stacks.items() if stack and stack.status == "UPDATE_ROLLBACK_COMPLETE"]
    rolled_back = rollback_of(state) is not None or bool(undone)
    for event in state.events:
        if "rolling back to deployment" in event["message"]:
            rolled_back = False  # the next steady state is older than what failed
        elif "has reached a steady state" in event["message"] and not rolled_back:
            return event["createdAt"] if isinstance(event["createdAt"], datetime) else LONG_AGO
    return LONG_AGO


def rollback_of(state: State) -> str | None:
    """ECS's message about the rollback if what runs now is the result of one, else None."""
    primary = state.primary
    if primary is None:
        return None
    for deployment in state.deployments:
        if deployment.get("rolloutState") == "FAILED":
            return str(deployment.get("rolloutStateReason") or f"deployment {deployment['id']} failed")
    messages = [str(event["message"]) for event in state.events]
    for i, message in enumerate(messages):
        if f"rolling back to deployment {primary['id']}" in message:
            return next((other for other in messages[i:] if "deployment failed" in other), message)
    reason = str(primary.get("rolloutStateReason", ""))
    return reason if "rolling back" in reason else None


def short(arn: str) -> str:
    """Family and revision in a task definition's ARN, e.g. seefood:7."""
    return arn.rpartition("/")[2]


def failed_activities(activities: list[Answer]) -> list[Answer]:
    """Those of an auto-scaling group that failed since the last success, newest first."""
    failed = []
    for activity in activities:
        if activity["StatusCode"] == "Successful":
            break
        if activity["StatusCode"] in ("Failed", "Cancelled"):
            failed.append(activity)
    return failed
