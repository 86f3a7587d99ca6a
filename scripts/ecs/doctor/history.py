"""What a service's deployments and events tell of its past: whether the last one was rolled back, and since when it is ill."""

from datetime import datetime

from scripts.ecs.doctor.service_state import LONG_AGO, State


def since(state: State) -> datetime:
    """Since when something may still be wrong: the last steady state; the one before, if a deployment was rolled back since."""
    undone = [name for name, stack in state.stacks.items() if stack and stack.status == "UPDATE_ROLLBACK_COMPLETE"]
    rolled_back = rollback_of(state) is not None or bool(undone)
    for event in state.events:
        if "rolling back to deployment" in event["message"]:
            rolled_back = False  # the next steady state is older than what failed
        elif "has reached a steady state" in event["message"] and not rolled_back:
            return event["createdAt"] if isinstance(event["createdAt"], datetime) else LONG_AGO
    return LONG_AGO


def rollback_of(state: State) -> str | None:
    """ECS's words if what runs now is what ECS went back to, else None."""
    primary = state.primary
    if primary is None:
        return None
    for deployment in state.deployments:
        if deployment.get("rolloutState") == "FAILED":
            return str(deployment.get("rolloutStateReason") or f"deployment {deployment['id']} failed")
    said = [str(event["message"]) for event in state.events]
    for i, message in enumerate(said):
        if f"rolling back to deployment {primary['id']}" in message:
            return next((other for other in said[i:] if "deployment failed" in other), message)
    why = str(primary.get("rolloutStateReason", ""))
    return why if "rolling back" in why else None


def short(arn: str) -> str:
    """seefood:7 of a task definition's ARN."""
    return arn.rpartition("/")[2]
