"""AWS for tests of make deploy, doctor and destroy: moto's server, whose ECS is edited here, and CloudFormation by script.

moto's CloudFormation knows no updates by change sets, so its calls are answered in process, by the hook that botocore's Stubber
uses, and like there each answer is checked against botocore's model of the service. None of this is AWS: what is shown is that
the commands do the right thing with such answers.
"""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import boto3
import httpx
import pytest
from botocore.awsrequest import AWSResponse
from botocore.validate import validate_parameters
from moto.backends import get_backend
from moto.ecs.models import Task
from moto.elbv2.models import FakeHealthStatus
from moto.server import ThreadedMotoServer

from scripts.ecs import stacks
from scripts.ecs.aws import ECS_ROLE, PREFIX, Aws
from scripts.ecs.stack import STACK

REGION, ACCOUNT = "eu-central-1", "123456789012"
NAME = "seefood"
SERVICE_ARN = f"arn:aws:ecs:{REGION}:{ACCOUNT}:service/{NAME}/{NAME}"
# read once: it takes long
read_template = cache(stacks.read_template)
NUMBERS = itertools.count(1)
DONE = {"CREATE": "CREATE_COMPLETE", "UPDATE": "UPDATE_COMPLETE"}


def now() -> datetime:
    return datetime.now(UTC)


@contextlib.contextmanager
def moto_server(region: str = REGION) -> Iterator[None]:
    """moto's server in this process, empty, to which all calls go; the only credentials are made-up ones."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", region)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # at each reset, and that takes long
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        # what other tests made is there, too: moto has one memory for all its servers
        httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
        yield
    server.stop()


@contextlib.contextmanager
def moto() -> Iterator[Aws]:
    """Such a server, as the commands call it."""
    with moto_server():
        yield Aws(REGION)


def outside(service: str) -> Any:
    """A client of the server of `moto` that no command uses and no Recorder sees."""
    return _outside(service, os.environ["AWS_ENDPOINT_URL"])


@cache
def _outside(service: str, url: str) -> Any:
    return boto3.Session(region_name=REGION).client(service, endpoint_url=url)  # type: ignore[call-overload]


class Recorder:
    """The calls that a command makes, as IAM writes them."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.on = False
        assert boto3.DEFAULT_SESSION is not None
        boto3.DEFAULT_SESSION.events.register("before-parameter-build", self._note)

    def _note(self, model, **kwargs):
        if self.on:
            service = model.service_model.service_name
            self.made.add(f"{PREFIX.get(service, service)}:{model.name}")


def reset() -> None:
    """Delete all that moto holds but networks, which disturb no test."""
    for name in ("ecs", "autoscaling", "elbv2", "ecr", "s3", "logs", "cloudwatch", "iam", "applicationautoscaling"):
        get_backend(name).reset()


class ScriptedStacks:
    """CloudFormation: change sets by comparison of templates and parameters, executed one step at each call of DescribeStacks.

    `on_execute[kind]` is a generator function (stack): one step for each `yield`, the last one sets the stack's status.
    """

    def __init__(self, client: Any, outputs: dict[str, dict[str, str]]) -> None:
        self.stacks: dict[str, SimpleNamespace] = {}
        self.deleted: dict[str, SimpleNamespace] = {}
        self.change_sets: dict[str, SimpleNamespace] = {}
        self.outputs = outputs
        self.calls: Counter[str] = Counter()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.denied: set[str] = set()
        self.changes: dict[str, list[dict[str, Any]]] = {}  # in place of those that a comparison finds
        self.refusal = ""
        self.on_execute: dict[str, Callable[[SimpleNamespace], Iterator[None]]] = {}
        self.on_delete: dict[str, Callable[[SimpleNamespace], Iterator[None]]] = {}
        self.ids = itertools.count(1)
        self.given: dict[str, Any] = {}
        self._events = client.meta.events
        self._events.register("before-parameter-build.cloudformation", self._note)
        self._events.register("before-call.cloudformation", self._answer)

    def close(self) -> None:
        self._events.unregister("before-parameter-build.cloudformation", self._note)
        self._events.unregister("before-call.cloudformation", self._answer)

    def _note(self, params, model, **kwargs):
        self.given = dict(params)

    def _answer(self, model, params, **kwargs):
        name = model.name
        self.calls[name] += 1
        self.sent.append((name, self.given))
        try:
            if name in self.denied:
                who = f"arn:aws:iam::{ACCOUNT}:user/somebody"
                raise Refused("AccessDenied", f"User: {who} is not authorized to perform: cloudformation:{name}")
            answer = getattr(self, name)(**self.given)
        except Refused as error:
            refusal = {"Code": error.args[0], "Message": error.args[1]}
            return AWSResponse("https://scripted", 400, {}, None), {"Error": refusal, "ResponseMetadata": {"HTTPStatusCode": 400}}
        if model.output_shape is not None:
            validate_parameters(answer, model.output_shape)
        return AWSResponse("https://scripted", 200, {}, None), {**answer, "ResponseMetadata": {"HTTPStatusCode": 200}}

    # --- for tests ---

    def make(self, kind: str, status: str = "CREATE_COMPLETE", values: dict[str, str] | None = None) -> SimpleNamespace:
        """A stack that is there, with all resources of its template."""
        stack = self._new(f"{NAME}-{kind}", status)
        stack.values = values or {}
        stack.outputs = self.outputs.get(kind, {})
        stack.resources = {
            name: (resource["Type"], self.physical(stack, name, resource["Type"]), "CREATE_COMPLETE")
            for name, resource in read_template(kind)["Resources"].items()
        }
        self.end(stack, "CREATE_IN_PROGRESS", "User Initiated")
        self.end(stack, status)
        return stack

    def physical(self, stack: SimpleNamespace, name: str, kind: str) -> str:
        return SERVICE_ARN if kind == "AWS::ECS::Service" else f"{stack.name}-{name}"

    def event(self, stack, kind: str, name: str, status: str, reason: str = "", physical: str = "") -> None:
        """A new event; one of a stack sets its status, too."""
        if kind == STACK:
            stack.status, stack.reason = status, reason
        elif physical:
            stack.resources[name] = (kind, physical, status)
        found = {"StackId": stack.id, "EventId": f"event-{next(self.ids)}", "StackName": stack.name, "Timestamp": now()}
        found |= {"LogicalResourceId": name, "ResourceType": kind, "ResourceStatus": status}
        found |= {"PhysicalResourceId": physical} if physical else {}
        stack.events.insert(0, found | ({"ResourceStatusReason": reason} if reason else {}))

    def end(self, stack, status: str, reason: str = "") -> None:
        self.event(stack, STACK, stack.name, status, reason, stack.id)

    # --- the API, by AWS's names ---

    def DescribeStacks(self, StackName):  # noqa: N802, N803
        stack = self._find(StackName)
        self._go_on(stack)
        found = {"StackId": stack.id, "StackName": stack.name, "StackStatus": stack.status, "CreationTime": now()}
        found |= {"StackStatusReason": stack.reason} if stack.reason else {}
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in stack.outputs.items()]
        found["Parameters"] = [{"ParameterKey": key, "ParameterValue": value} for key, value in stack.values.items()]
        return {"Stacks": [found | ({"Outputs": outputs} if outputs else {})]}

    def GetTemplate(self, StackName, TemplateStage):  # noqa: N802, N803
        kind = self._find(StackName).name.removeprefix(f"{NAME}-")
        return {"TemplateBody": (stacks.TEMPLATE_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8")}

    def DescribeStackEvents(self, StackName):  # noqa: N802, N803
        return {"StackEvents": list(self._find(StackName).events)}

    def ListStackResources(self, StackName):  # noqa: N802, N803
        summaries = [
            {
                "LogicalResourceId": name,
                "ResourceType": kind,
                "PhysicalResourceId": physical,
                "ResourceStatus": status,
                "LastUpdatedTimestamp": now(),
            }
            for name, (kind, physical, status) in self._find(StackName).resources.items()
        ]
        return {"StackResourceSummaries": summaries}

    def CreateChangeSet(self, StackName, ChangeSetName, ChangeSetType, Parameters, **others):  # noqa: N802, N803
        if (ChangeSetType == "CREATE") != (StackName not in self.stacks or self.stacks[StackName].status == "REVIEW_IN_PROGRESS"):
            raise Refused("ValidationError", f"{ChangeSetType} does not go with {StackName}")
        stack = self.stacks.get(StackName) or self._new(StackName, "REVIEW_IN_PROGRESS")
        values = {one["ParameterKey"]: one["ParameterValue"] for one in Parameters}
        kind = StackName.removeprefix(f"{NAME}-")
        changes = self.changes.get(kind)
        if changes is None:
            declared = {name: resource["Type"] for name, resource in read_template(kind)["Resources"].items()}
            action = {"Action": "Add"} if ChangeSetType == "CREATE" else {"Action": "Modify", "Replacement": "False"}
            touched = declared if values != stack.values else {}
            changes = [{**action, "LogicalResourceId": name, "ResourceType": type_} for name, type_ in touched.items()]
        arn = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:changeSet/{ChangeSetName}/{next(self.ids)}"
        self.change_sets[arn] = SimpleNamespace(stack=stack, type=ChangeSetType, values=values, changes=changes, polls=0)
        return {"Id": arn, "StackId": stack.id}

    def DescribeChangeSet(self, ChangeSetName, StackName):  # noqa: N802, N803
        found = self.change_sets[ChangeSetName]
        found.polls += 1
        if found.polls == 1:
            return {"Status": "CREATE_IN_PROGRESS"}
        if self.refusal:
            return {"Status": "FAILED", "StatusReason": self.refusal}
        if not found.changes:
            return {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
        return {"Status": "CREATE_COMPLETE", "Changes": [{"Type": "Resource", "ResourceChange": one} for one in found.changes]}

    def DescribeEvents(self, StackName, ChangeSetName):  # noqa: N802, N803
        return {"OperationEvents": [{"LogicalResourceId": "Thing", "ValidationStatusReason": "Unsupported property [Colour]"}]}

    def DeleteChangeSet(self, StackName, ChangeSetName):  # noqa: N802, N803
        del self.change_sets[ChangeSetName]
        return {}

    def ExecuteChangeSet(self, StackName, ChangeSetName):  # noqa: N802, N803
        change_set = self.change_sets.pop(ChangeSetName)
        stack = change_set.stack
        stack.type, stack.values, stack.changes = change_set.type, change_set.values, change_set.changes
        kind = stack.name.removeprefix(f"{NAME}-")
        stack.script = self.on_execute.get(kind, self.succeed)(stack)
        return {}

    def DeleteStack(self, StackName):  # noqa: N802, N803
        stack = self._find(StackName)
        if stack.status == "REVIEW_IN_PROGRESS":
            self._gone(stack)
            return {}
        stack.script = self.on_delete.get(stack.name.removeprefix(f"{NAME}-"), self.delete)(stack)
        return {}

    # --- what becomes of a stack ---

    def begin(self, stack) -> None:
        self.end(stack, f"{stack.type}_IN_PROGRESS", "User Initiated")

    def succeed(self, stack) -> Iterator[None]:
        self.begin(stack)
        yield
        for change in stack.changes:
            name, kind = change["LogicalResourceId"], change["ResourceType"]
            physical = stack.resources.get(name, ("", self.physical(stack, name, kind)))[1]
            stack.resources[name] = (kind, physical, DONE[stack.type])
            self.event(stack, kind, name, DONE[stack.type], physical=physical)
        yield
        stack.outputs = self.outputs.get(stack.name.removeprefix(f"{NAME}-"), {})
        self.end(stack, DONE[stack.type])

    def delete(self, stack) -> Iterator[None]:
        self.end(stack, "DELETE_IN_PROGRESS", "User Initiated")
        yield
        self.end(stack, "DELETE_COMPLETE")
        self._gone(stack)

    def _go_on(self, stack) -> None:
        if stack.script is not None and next(stack.script, "ended") == "ended":
            stack.script = None

    def _new(self, name: str, status: str) -> SimpleNamespace:
        arn = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/{next(self.ids)}"
        parts: dict[str, Any] = {"values": {}, "outputs": {}, "resources": {}, "events": [], "script": None, "changes": []}
        stack = SimpleNamespace(name=name, id=arn, status=status, reason="", type="UPDATE", **parts)
        self.stacks[name] = stack
        if status == "REVIEW_IN_PROGRESS":
            self.end(stack, status, "User Initiated")
        return stack

    def _gone(self, stack) -> None:
        self.deleted[stack.id] = self.stacks.pop(stack.name)

    def _find(self, name: str) -> SimpleNamespace:
        for stack in [*self.stacks.values(), *self.deleted.values()]:
            if stack.id == name or (stack.name == name and stack.id not in self.deleted):
                return stack
        raise Refused("ValidationError", f"Stack with id {name} does not exist")


class Refused(Exception):  # noqa: N818
    """(AWS's code, its message)."""


class Fleet:
    """A service in moto's ECS with a cluster, an instance and a target group, made by calls and then edited in process."""

    def __init__(self, tasks: int = 1) -> None:
        self.ids = itertools.count(1)
        backends: Any = get_backend("ecs")
        self.ecs = backends[ACCOUNT][REGION]
        path = "/aws-service-role/ecs.amazonaws.com/"
        outside("iam").create_role(RoleName=ECS_ROLE, AssumeRolePolicyDocument="{}", Path=path)
        vpc = outside("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        subnet = outside("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        template = {"ImageId": "ami-12c6146b", "InstanceType": "c7i.large"}
        launch = f"{NAME}-{next(NUMBERS)}"
        outside("ec2").create_launch_template(LaunchTemplateName=launch, LaunchTemplateData=template)
        sizes = {"MinSize": 1, "MaxSize": 4, "DesiredCapacity": 1, "NewInstancesProtectedFromScaleIn": True}
        group = {
            "LaunchTemplate": {"LaunchTemplateName": launch},
            "VPCZoneIdentifier": subnet,
            **sizes,
        }
        outside("autoscaling").create_auto_scaling_group(AutoScalingGroupName=f"{NAME}-group", **group)
        (found,) = outside("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        provider = {"autoScalingGroupArn": found["AutoScalingGroupARN"]}
        outside("ecs").create_capacity_provider(name=NAME, autoScalingGroupProvider=provider)
        outside("ecs").create_cluster(clusterName=NAME, capacityProviders=[NAME])
        self.instance = self.ecs.register_container_instance(NAME, found["Instances"][0]["InstanceId"])
        balanced = {"Protocol": "HTTP", "Port": 8080, "TargetType": "ip", "VpcId": vpc}
        self.target_group = outside("elbv2").create_target_group(Name=NAME, **balanced)["TargetGroups"][0]["TargetGroupArn"]
        self.definition = self.register("old")
        balancer = {"targetGroupArn": self.target_group, "containerName": NAME, "containerPort": 8080}
        service = {"serviceName": NAME, "taskDefinition": self.definition, "desiredCount": tasks, "loadBalancers": [balancer]}
        outside("ecs").create_service(cluster=NAME, **service)
        self.service = self.ecs.services[f"{NAME}:{NAME}"]
        self.service.health_check_grace_period_seconds = 180
        self.service.running_count = tasks
        self.service.deployments = []
        self.targets("healthy")
        self.deploy(self.definition, tasks, "COMPLETED")
        self.add_event("has reached a steady state.")

    def register(self, tag: str) -> str:
        """A new task definition; its ARN."""
        log = {"awslogs-group": f"/seefood/{NAME}", "awslogs-stream-prefix": "task"}
        container = {"name": NAME, "image": f"registry/{NAME}:{tag}", "essential": True, "memory": 3072}
        container["logConfiguration"] = {"logDriver": "awslogs", "options": log}
        made = outside("ecs").register_task_definition(family=NAME, containerDefinitions=[container], cpu="2048", memory="3072")
        return str(made["taskDefinition"]["taskDefinitionArn"])

    def deploy(self, definition: str, running: int, state: str = "IN_PROGRESS", reason: str = "") -> dict[str, Any]:
        """A new PRIMARY deployment."""
        for other in self.service.deployments:
            other["status"] = "ACTIVE"
        number: str = f"ecs-svc/{next(self.ids)}"
        deployment: dict[str, Any] = {
            "id": number,
            "status": "PRIMARY",
            "taskDefinition": definition,
            "createdAt": now(),
            "updatedAt": now(),
        }
        counts = {"desiredCount": self.service.desired_count, "runningCount": running, "pendingCount": 0, "failedTasks": 0}
        deployment |= {**counts, "rolloutState": state, "rolloutStateReason": reason or f"ECS deployment {number} {state.lower()}."}
        self.service.deployments.insert(0, deployment)
        return deployment

    def finish(self) -> None:
        """The PRIMARY deployment is complete, and the only one."""
        primary = self.service.deployments[0]
        primary |= {"runningCount": primary["desiredCount"], "rolloutState": "COMPLETED", "status": "PRIMARY"}
        primary["rolloutStateReason"] = f"ECS deployment {primary['id']} completed."
        self.service.deployments = [primary]
        self.service.running_count = primary["desiredCount"]
        self.add_event(f"(deployment {primary['id']}) deployment completed.")
        self.add_event("has reached a steady state.")

    def roll_back(self, reason: str = "tasks failed to start.") -> None:
        """As ECS does: the deployment before becomes PRIMARY again, under its old id."""
        failed, before = self.service.deployments[0], self.service.deployments[1]
        failed |= {"status": "ACTIVE", "rolloutState": "FAILED", "rolloutStateReason": f"ECS deployment circuit breaker: {reason}"}
        back = f"ECS deployment circuit breaker: rolling back to deploymentId {before['id']}."
        before |= {"status": "PRIMARY", "rolloutState": "IN_PROGRESS", "rolloutStateReason": back}
        self.service.deployments = [before, failed]
        self.add_event(f"(deployment {failed['id']}) deployment failed: {reason}")
        self.add_event(f"rolling back to deployment {before['id']}.")

    def add_event(self, message: str, ago_s: float = 0.0) -> None:
        """A service event."""
        event = {"id": f"event-{next(self.ids)}", "createdAt": now() - timedelta(seconds=ago_s)}
        self.service.events.insert(0, {**event, "message": f"(service {NAME}) {message}"})

    def stop(
        self, reason: str, *, code: int | None = None, container_reason: str = "", lived_s: float = 20.0, stop_code: str = ""
    ) -> str:
        """A task that has stopped; its id. `container_reason` is ECS's for its container."""
        primary = self.service.deployments[0]
        definition = self.ecs.describe_task_definition(primary["taskDefinition"])
        task: Any = Task(self.ecs.clusters[NAME], definition, None, None, self.ecs, f"service:{NAME}", started_by=primary["id"])
        task.id = task.id.replace("-", "")
        task.desired_status = task.last_status = "STOPPED"
        task.stopped_reason, task.stop_code = reason, stop_code or "TaskFailedToStart"
        task.created_at, task.stopped_at = now() - timedelta(seconds=lived_s + 5), now()
        task.started_at, task.stopping_at = now() - timedelta(seconds=lived_s), now()
        container = task.containers[0]
        del container.exitCode
        container.exit_code, container.reason = code, container_reason or None
        self.ecs.tasks.setdefault(NAME, {})[task.task_arn] = task
        return str(task.id)

    def log(self, task_id: str, *lines: str) -> None:
        """What a task logged."""
        logs = get_backend("logs")[ACCOUNT][REGION]
        if f"/seefood/{NAME}" not in logs.groups:
            logs.create_log_group(f"/seefood/{NAME}", {})
        stream = f"task/{NAME}/{task_id}"
        logs.create_log_stream(f"/seefood/{NAME}", stream)
        at = int(now().timestamp() * 1000)
        logs.put_log_events(f"/seefood/{NAME}", stream, [{"timestamp": at, "message": line} for line in lines])

    def targets(self, state: str, reason: str | None = None, description: str | None = None) -> None:
        """The state of each task's target."""
        health = [FakeHealthStatus("10.0.0.1", "8080", "8080", state, reason, description)]
        backend: Any = get_backend("elbv2")[ACCOUNT][REGION]
        backend.describe_target_health = lambda target_group_arn, targets: health
