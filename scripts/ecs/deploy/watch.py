"""Watching a service while it is deployed: prints what is new at each poll, waits for the verdict, and diagnoses a failure."""

from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

from tqdm import tqdm

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.deploy.verdict import Outcome, judge
from scripts.ecs.doctor.causes import Finding, explain, findings
from scripts.ecs.doctor.history import failed_activities, short
from scripts.ecs.doctor.reasons import count_by_reason
from scripts.ecs.doctor.service_state import SERVICE, Answer, State, add_details, cluster_and_name, read_state
from scripts.ecs.progress import Limit, log
from scripts.ecs.stack import POLL_S, physical, resources
from scripts.errors import SeeFoodError
from scripts.phrases import counted

TASK_DEFINITION = "AWS::ECS::TaskDefinition"


class DeployError(SeeFoodError):
    """A deployment failed; the message says why, what is served now, and what to do."""


class Watch:
    """Remembers all that it has seen, for the diagnosis: a service whose creation failed is deleted by then."""

    def __init__(self, aws: Aws, name: str) -> None:
        """`name` is the deployment's. AwsError."""
        self.aws, self.name = aws, name
        self.created: str | None = None  # the task definition that CloudFormation has created since
        self.state: State | None = None
        self._reported: set[str] = set()  # ids of events and activities, and parts that could not be checked
        self._last: dict[str, str] = {}  # the text last printed for each thing
        self._stopped: dict[str, Answer] = {}  # tasks by ARN
        self._counts: Counter[str] = Counter()
        self._unhealthy: dict[str, Answer] = {}  # targets, as of the last poll that had any
        self._events: list[Answer] = []  # oldest first
        self._failed_activities: list[Answer] = []
        self._service: Answer | None = None  # as last seen
        found = _resources(aws, f"{name}-service")
        self.place = cluster_and_name(found)  # known as soon as CloudFormation names it
        self.in_stack = next(iter(physical(found, TASK_DEFINITION)), None)
        if self.place is not None:
            self.state = read_state(aws, *self.place)
        before = self.state or State("", "")
        # what happened before is not reported
        self._reported |= {event["id"] for event in before.events} | {one["ActivityId"] for one in before.activities}
        self._tasks_before = {task["taskArn"] for task in before.stopped}
        self._deployments_before = {deployment["id"] for deployment in before.deployments}

    @property
    def desired(self) -> int | None:
        """How many tasks the service is set to run, by autoscaling or by hand; None if there is no service."""
        return int(self.state.service["desiredCount"]) if self.state and self.state.service else None

    @property
    def _primary(self) -> Answer:
        return (self.state.primary if self.state else None) or {}

    def poll(self, stack_events: list[dict[str, Any]]) -> str:
        """Print what is new. Returns the text beside the progress bar. AwsError if the credentials are no longer valid."""
        for event in stack_events:
            kind, physical_id = event["ResourceType"], event.get("PhysicalResourceId", "")
            if kind == SERVICE:
                self.place = cluster_and_name([event]) or self.place
            # the first one: a rollback restores the old one under the same logical name
            if kind == TASK_DEFINITION and event["ResourceStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                self.created = self.created or physical_id
        if self.place is None:
            return ""
        self.state = state = read_state(self.aws, *self.place)
        self._service = state.service or self._service
        self._report_events(state)
        self._report_stopped_tasks(state)
        self._report_deployments(state)
        self._report_targets(state)
        self._report_instances(state)
        for unchecked in state.unchecked:
            self._log_once(unchecked, f"not checked: {unchecked}")
        primary = self._primary
        return f"{primary.get('runningCount', 0)} of {counted(primary.get('desiredCount', 0), 'task')} running" if primary else ""

    def _report_events(self, state: State) -> None:
        for event in reversed(state.events):
            if self._log_once(event["id"], f"ECS: {event['message']}"):
                self._events.append(event)

    def _report_stopped_tasks(self, state: State) -> None:
        for task in state.stopped:
            if task["taskArn"] not in self._tasks_before:
                self._stopped[task["taskArn"]] = task
        counts = count_by_reason(self._stopped.values())
        for reason, count in counts.items():
            if count != self._counts[reason]:
                log(f"stopped: {counted(count, 'task')}: {reason}")
        self._counts = counts

    def _report_deployments(self, state: State) -> None:
        for deployment in reversed(state.deployments):
            running = f"{deployment['runningCount']} of {counted(deployment['desiredCount'], 'task')}"
            rollout = deployment.get("rolloutState", "state unknown")
            self._log_change(
                f"deployment of {short(deployment['taskDefinition'])} ({deployment['id']})",
                f"{deployment['status']}, {rollout}, {running}, {deployment.get('failedTasks', 0)} failed",
            )

    def _report_targets(self, state: State) -> None:
        healths = [target["TargetHealth"] for target in state.targets]
        states = Counter(health["State"] + (f" ({health['Reason']})" if health.get("Reason") else "") for health in healths)
        unhealthy = [target for target in state.targets if target["TargetHealth"]["State"] == "unhealthy"]
        # a task that is stopped takes its target with it, so the last ones are kept
        self._unhealthy = {target["Target"]["Id"]: target for target in unhealthy} or self._unhealthy
        self._log_change("targets", ", ".join(f"{count} {name}" for name, count in sorted(states.items())) or "none")

    def _report_instances(self, state: State) -> None:
        if state.instances is not None:
            connected = sum(bool(instance.get("agentConnected", True)) for instance in state.instances)
            self._log_change("container instances", f"{len(state.instances)} registered, {connected} connected")
        for activity in reversed(failed_activities(state.activities)):
            message = activity.get("StatusMessage") or activity.get("Description", "")
            if self._log_once(activity["ActivityId"], f"auto-scaling group: {activity['StatusCode']}: {message}"):
                self._failed_activities.append(activity)

    def _log_once(self, key: str, line: str) -> bool:
        """Whether it was new, and so printed."""
        if key in self._reported:
            return False
        self._reported.add(key)
        log(line)
        return True

    def _log_change(self, thing: str, text: str) -> None:
        if self._last.get(thing) != text:
            self._last[thing] = text
            log(f"{thing}: {text}")

    def settle(self, limit: Limit) -> str:
        """What runs, once the deployment has succeeded. DeployError if it failed, or is in progress at the limit."""
        if self.place is None:
            raise DeployError(f"CloudFormation created no service in {self.name}-service: check its template")
        try:
            with tqdm(unit="task", desc=self.name, disable=None, leave=False) as progress:
                while True:
                    self.poll([])
                    verdict = judge(self.state, self.created, self.in_stack, self._deployments_before)
                    primary = self._primary
                    if verdict.outcome is Outcome.SUCCEEDED:
                        running = f"{primary['runningCount']} of {counted(primary['desiredCount'], 'task')} running"
                        return f"{running}: {short(primary['taskDefinition'])}"
                    if verdict.outcome is Outcome.FAILED:
                        raise DeployError(f"{verdict.reason}\n{self.diagnosis()}")
                    if limit.left_s <= 0:
                        raise DeployError(f"not finished within {limit.seconds:g} s: {self._still_running()}\n{self.diagnosis()}")
                    progress.total = primary.get("desiredCount", 0)
                    progress.update(primary.get("runningCount", 0) - progress.n)
                    limit.sleep(POLL_S)
        except KeyboardInterrupt:
            log(self._still_running())
            raise

    def _still_running(self) -> str:
        running = f"{self._primary.get('runningCount', 0)} of {counted(self._primary.get('desiredCount', 0), 'task')} running"
        return f"{running}; AWS continues with the deployment. To check on it: make doctor STACK={self.name}"

    def diagnosis(self) -> str:
        """The causes found in all that has happened since the watch began, as text."""
        return f"Causes:\n{explain(self.findings())}\nTo check again later: make doctor STACK={self.name}"

    def findings(self) -> list[Finding]:
        """The same, as findings."""
        if self.state is None:
            return []
        state = replace(self.state, stopped=sorted(self._stopped.values(), key=_stopped_at, reverse=True))
        state.targets = [*self._unhealthy.values()] or state.targets
        state.activities = [*self._failed_activities] or state.activities
        if self._service:
            # causes.py ignores what is older than the last steady state: after a rollback that would be everything
            events = [event for event in self._events if "steady state" not in event["message"]]
            state.service = {**self._service, "events": events[::-1]}  # newest first, as ECS returns them
        try:
            add_details(self.aws, state, [])
        except AwsError as error:
            log(f"not checked: {error}")
        return findings(state)


def _stopped_at(task: Answer) -> datetime:
    at: datetime = task.get("stoppedAt") or task.get("stoppingAt") or task["createdAt"]
    return at


def _resources(aws: Aws, stack_name: str) -> list[dict[str, Any]]:
    """[] if there is no such stack."""
    try:
        return resources(aws, stack_name)
    except AwsError as error:
        if "does not exist" in str(error):
            return []
        raise
