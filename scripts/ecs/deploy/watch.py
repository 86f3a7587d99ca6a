"""A deployment of a service, watched: what ECS says as it says it, and at the end whether what was asked for is what runs.

CloudFormation says UPDATE_COMPLETE of a deployment that ECS has rolled back, so its word is not enough: here a deployment has
succeeded if the PRIMARY one has the task definition that was asked for, is COMPLETED, and runs as many tasks as are desired.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.doctor.causes import Finding, explain, failed_activities, findings
from scripts.ecs.doctor.history import rollback_of, short
from scripts.ecs.doctor.reasons import grouped
from scripts.ecs.doctor.service_state import SERVICE, Answer, State, cluster_and_name, look, look_deeper
from scripts.ecs.progress import Limit, say
from scripts.ecs.stack import POLL_S, physical, resources

TASK_DEFINITION = "AWS::ECS::TaskDefinition"


class DeployError(RuntimeError):
    """A deployment failed; the message says why, what is served now, and what to do."""


class Watch:
    """Prints what is new at each look, and remembers it for the diagnosis: a service that could not be created is gone then."""

    def __init__(self, aws: Aws, name: str) -> None:
        """`name` is the deployment's. AwsError."""
        self.aws, self.name = aws, name
        self.asked: str | None = None  # the task definition that CloudFormation has made, None if it is to stay the same
        self.state: State | None = None
        self._told: set[str] = set()
        self._facts: dict[str, str] = {}
        self._stopped: dict[str, Answer] = {}
        self._counts: Counter[str] = Counter()
        self._ill: dict[str, Answer] = {}
        self._worst: dict[str, Answer] = {}  # events and activities by id
        self._service: Answer | None = None  # as it was last seen
        found = _resources(aws, f"{name}-service")
        self.place = cluster_and_name(found)  # as soon as CloudFormation names it
        self.stacked = next(iter(physical(found, TASK_DEFINITION)), None)
        if self.place is not None:
            self.state = look(aws, *self.place)
        # what was there before is no news
        self._told |= {event["id"] for event in self._events()} | {one["ActivityId"] for one in self._activities()}
        self._old_tasks = {task["taskArn"] for task in self.state.stopped} if self.state else set[str]()
        self._ids_before = {deployment["id"] for deployment in self.state.deployments} if self.state else set[str]()

    @property
    def desired(self) -> int | None:
        """How many tasks the service runs by its own or autoscaling's wish, None where there is no service."""
        return int(self.state.service["desiredCount"]) if self.state and self.state.service else None

    def _events(self) -> list[Answer]:
        return self.state.events if self.state else []

    def _activities(self) -> list[Answer]:
        return self.state.activities if self.state else []

    def look(self, stack_events: list[dict[str, Any]]) -> str:
        """Print what is new; a few words for the progress display. AwsError if there are no credentials any more."""
        for event in stack_events:
            kind, there = event["ResourceType"], event.get("PhysicalResourceId", "")
            if kind == SERVICE:
                self.place = cluster_and_name([event]) or self.place
            # the first one: a rollback brings the old one back under the same name
            if kind == TASK_DEFINITION and event["ResourceStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                self.asked = self.asked or there
        if self.place is None:
            return ""
        self.state = look(self.aws, *self.place)
        self._service = self.state.service or self._service
        self._tell_of_service()
        self._tell_of_surroundings()
        primary = self.state.primary or {}
        return f"{primary.get('runningCount', 0)} of {primary.get('desiredCount', 0)} tasks run" if primary else ""

    def _tell_of_service(self) -> None:
        assert self.state is not None
        for event in reversed(self.state.events):
            if event["id"] not in self._told:
                self._worst[event["id"]] = event
                self._once(event["id"], f"ECS: {event['message']}")
        for task in self.state.stopped:
            if task["taskArn"] not in self._old_tasks:
                self._stopped[task["taskArn"]] = task
        counts = grouped(self._stopped.values())
        for words, count in counts.items():
            if count != self._counts[words]:
                say(f"stopped: {count} task{'s' if count > 1 else ''}: {words}")
        self._counts = counts
        for deployment in reversed(self.state.deployments):
            words = f"{deployment['status']}, {deployment.get('rolloutState', 'state unknown')}, "
            words += (
                f"{deployment['runningCount']} of {deployment['desiredCount']} tasks, {deployment.get('failedTasks', 0)} failed"
            )
            self._when_changed(f"deployment of {short(deployment['taskDefinition'])} ({deployment['id']})", words)

    def _tell_of_surroundings(self) -> None:
        assert self.state is not None
        states = Counter(
            target["TargetHealth"]["State"] + (f" ({reason})" if (reason := target["TargetHealth"].get("Reason")) else "")
            for target in self.state.targets
        )
        self._ill = {
            target["Target"]["Id"]: target for target in self.state.targets if target["TargetHealth"]["State"] == "unhealthy"
        } or self._ill
        self._when_changed("targets", ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
        if self.state.instances is not None:
            connected = sum(bool(instance.get("agentConnected", True)) for instance in self.state.instances)
            self._when_changed("container instances", f"{len(self.state.instances)} registered, {connected} connected")
        for activity in reversed(failed_activities(self.state.activities)):
            if activity["ActivityId"] not in self._told:
                self._worst[activity["ActivityId"]] = activity
                said = activity.get("StatusMessage") or activity.get("Description", "")
                self._once(activity["ActivityId"], f"auto-scaling group: {activity['StatusCode']}: {said}")
        for unseen in self.state.unseen:
            self._once(unseen, f"not looked at: {unseen}")

    def _once(self, key: str, line: str) -> None:
        if key not in self._told:
            self._told.add(key)
            say(line)

    def _when_changed(self, what: str, words: str) -> None:
        if self._facts.get(what) != words:
            self._facts[what] = words
            say(f"{what}: {words}")

    def settle(self, limit: Limit) -> str:
        """What is served, once that is what was asked for. DeployError if ECS went back to something else, or at the limit."""
        if self.place is None:
            raise DeployError(f"CloudFormation has made no service in {self.name}-service: look at its template")
        try:
            with tqdm(unit="task", desc=self.name, disable=None, leave=False) as progress:
                while True:
                    self.look([])
                    verdict = self._verdict()
                    primary = (self.state.primary if self.state else None) or {}
                    if verdict == "served":
                        return (
                            f"{primary['runningCount']} of {primary['desiredCount']} tasks run {short(primary['taskDefinition'])}"
                        )
                    if verdict != "going":
                        raise DeployError(f"{verdict}\n{self.diagnosis()}")
                    if limit.left_s <= 0:
                        raise DeployError(f"not within {limit.seconds:g} s: {self._goes_on(primary)}\n{self.diagnosis()}")
                    progress.total = primary.get("desiredCount", 0)
                    progress.update(primary.get("runningCount", 0) - progress.n)
                    limit.sleep(POLL_S)
        except KeyboardInterrupt:
            primary = (self.state.primary if self.state else None) or {}
            raise DeployError(f"interrupted: {self._goes_on(primary)}") from None

    def _goes_on(self, primary: Answer) -> str:
        words = f"{primary.get('runningCount', 0)} of {primary.get('desiredCount', '?')} tasks run"
        return f"{words}; the deployment goes on in AWS by itself. To look at it: make doctor STACK={self.name}"

    def _verdict(self) -> str:
        """ "served", "going", or why what was asked for is not what will run."""
        state = self.state
        if state is None or state.primary is None:
            return "going"
        primary = state.primary
        # nothing new is asked for: then what the stack says, which is not what runs after a rollback that it does not know of
        asked = self.asked or self.stacked or primary["taskDefinition"]
        new_ones = [one for one in state.deployments if one["id"] not in self._ids_before]
        failed = [one for one in new_ones if one.get("rolloutState") == "FAILED" and one["taskDefinition"] == asked]
        why = failed[0].get("rolloutStateReason", "") if failed else rollback_of(state) or ""
        if primary["taskDefinition"] != asked:
            runs, wanted = short(primary["taskDefinition"]), short(asked)
            said = f"the deployment was rolled back: {runs} is served, and {wanted} was asked for. {why or 'ECS does not say why'}"
            cluster, name = state.cluster, state.service_name
            again = f"aws ecs update-service --cluster {cluster} --service {name} --task-definition {wanted}"
            return said if self.asked else f"{said}\nCloudFormation does not know that. Deploy another image, or try again: {again}"
        if failed:
            return f"the deployment of {short(asked)} failed: {why}"
        # without a new deployment, an old one's fate does not count
        if new_ones and "rolling back" in primary.get("rolloutStateReason", ""):
            return f"the deployment was rolled back: {why}"
        done = primary.get("rolloutState", "COMPLETED") == "COMPLETED"
        service = state.service or {}
        return "served" if done and service["runningCount"] >= service["desiredCount"] else "going"

    def diagnosis(self) -> str:
        """The causes to be seen in all that has happened since the watch began, as text."""
        found = self.findings()
        return f"Causes:\n{explain(found)}\nLater: make doctor STACK={self.name}"

    def findings(self) -> list[Finding]:
        """The same as findings."""
        if self.state is None:
            return []
        state = replace(self.state, stopped=sorted(self._stopped.values(), key=_stopped_at, reverse=True))
        state.targets = [*self._ill.values()] or state.targets
        state.activities = [one for key, one in self._worst.items() if "ActivityId" in one] or state.activities
        # what was said since the watch began, and no steady state that would end it
        events = [one for one in self._worst.values() if "message" in one and "steady state" not in one["message"]]
        if self._service:
            state.service = {**self._service, "events": events[::-1]}  # newest first, as ECS gives them
        try:
            look_deeper(self.aws, state, [])
        except AwsError as error:
            say(f"not looked at: {error}")
        return findings(state)


def _stopped_at(task: Answer) -> Any:
    return task.get("stoppedAt") or task.get("stoppingAt") or task["createdAt"]


def _resources(aws: Aws, stack_name: str) -> list[dict[str, Any]]:
    """[] where there is no such stack."""
    try:
        return resources(aws, stack_name)
    except AwsError as error:
        if "does not exist" in str(error):
            return []
        raise
