"""Whether a deployment of a service is in progress, has succeeded or has failed. Pure: works on a state that was read before.

CloudFormation reports UPDATE_COMPLETE for a deployment that ECS has rolled back, so its status is not enough: a deployment has
succeeded if the PRIMARY one has the requested task definition, is COMPLETED, and runs as many tasks as are desired.
"""

import enum
from collections.abc import Collection
from typing import NamedTuple

from scripts.ecs.doctor.history import rollback_of, short
from scripts.ecs.doctor.service_state import Answer, State


class Outcome(enum.Enum):
    """What became of a deployment."""

    IN_PROGRESS = enum.auto()
    SUCCEEDED = enum.auto()
    FAILED = enum.auto()


class Verdict(NamedTuple):
    """An outcome, with the reason if it is FAILED."""

    outcome: Outcome
    reason: str = ""


IN_PROGRESS, SUCCEEDED = Verdict(Outcome.IN_PROGRESS), Verdict(Outcome.SUCCEEDED)


def judge(state: State | None, created: str | None, in_stack: str | None, earlier: Collection[str]) -> Verdict:
    """The verdict on the service's newest deployment.

    `created` is the task definition that CloudFormation created since the watch began, None if it created none; `in_stack` is
    the one that the stack had before; `earlier` are the ids of the deployments from before.
    """
    if state is None or state.primary is None:
        return IN_PROGRESS
    primary = state.primary
    # without a new one, the stack's own counts: it differs from what runs after a rollback that CloudFormation did not notice
    requested = created or in_stack or primary["taskDefinition"]
    new = [one for one in state.deployments if one["id"] not in earlier]
    failed = [one for one in new if one.get("rolloutState") == "FAILED" and one["taskDefinition"] == requested]
    reason = failed[0].get("rolloutStateReason", "") if failed else rollback_of(state) or ""
    if primary["taskDefinition"] != requested:
        return Verdict(Outcome.FAILED, _rolled_back(state, primary, requested, reason, noticed=created is not None))
    if failed:
        return Verdict(Outcome.FAILED, f"the deployment of {short(requested)} failed: {reason}")
    # the outcome of an old deployment says nothing about this deploy
    if new and "rolling back" in primary.get("rolloutStateReason", ""):
        return Verdict(Outcome.FAILED, f"the deployment was rolled back: {reason}")
    service = state.service or {}
    completed = primary.get("rolloutState", "COMPLETED") == "COMPLETED"
    return SUCCEEDED if completed and service["runningCount"] >= service["desiredCount"] else IN_PROGRESS


def _rolled_back(state: State, primary: Answer, requested: str, reason: str, noticed: bool) -> str:
    running, wanted = short(primary["taskDefinition"]), short(requested)
    message = f"the deployment was rolled back: {running} is running instead of {wanted}. {reason or 'ECS gives no reason'}"
    if noticed:
        return message
    retry = f"aws ecs update-service --cluster {state.cluster} --service {state.service_name} --task-definition {wanted}"
    return f"{message}\nCloudFormation still reports success. Deploy another image, or retry: {retry}"
