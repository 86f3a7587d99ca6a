"""make doctor against a service in moto's ECS that is made unhealthy in each way (scripted_aws.py says what that shows)."""

import json
from datetime import timedelta

import pytest
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult
from werkzeug.exceptions import Forbidden

from scripts.command import run
from scripts.ecs.aws import ECS_ROLE
from scripts.ecs.calls import calls_of
from scripts.ecs.doctor import doctor
from scripts.ecs.doctor.causes import explain, findings
from scripts.ecs.doctor.history import since
from scripts.ecs.doctor.reasons import known_reason
from scripts.ecs.doctor.service_state import State, _plain
from scripts.ecs.stacks import ORDER, Deployment
from tests.ecs.scripted_aws import NAME, REGION, Fleet, ScriptedStacks, now, outside, reset

pytest_plugins = ["tests.ecs.deploy_fixtures"]

BUCKET = "seefood-models"
PLACE = "was unable to place a task because no container instance met all of its requirements. "


@pytest.fixture
def scripted(server, monkeypatch):
    reset()
    monkeypatch.setattr(doctor, "Aws", lambda region: server)
    monkeypatch.setattr(Deployment, "load", lambda name: Deployment(NAME, REGION, {}))
    stacks = ScriptedStacks(server.client("cloudformation"), {"storage": {"BucketName": BUCKET}})
    for kind in ORDER:
        stacks.make(kind)
    yield stacks
    stacks.close()


@pytest.fixture
def fleet(scripted):
    """A healthy service."""
    outside("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    outside("s3").put_object(Bucket=BUCKET, Key="release.json", Body=b"{}")
    return Fleet()


@pytest.fixture
def examine(capsys, recorder):
    def run_doctor():
        recorder.on = True
        status = run(lambda: doctor.main([NAME]))
        recorder.on = False
        out, error = capsys.readouterr()
        return status, out + error

    return run_doctor


def test_healthy_service_has_no_problem(fleet, examine):
    fleet.stop("Scaling activity initiated by (deployment ecs-svc/1)", code=143, stop_code="ServiceSchedulerInitiated")
    fleet.stop("Task stopped by a person", stop_code="UserInitiated")
    fleet.add_event(PLACE + "Reason: No Container Instances were found in your cluster.", ago_s=60)
    status, output = examine()
    assert output.splitlines() == [
        "seefood:1: 1 of 1 task running, PRIMARY, COMPLETED",
        "1 of 1 target healthy, 1 container instance registered",
        "no problem found",
    ]
    assert status == 0


def test_deployment_in_progress_is_a_problem_only_after_a_long_time(fleet, examine):
    primary = fleet.deploy(fleet.register("new"), 0)
    status, output = examine()
    assert status == 0
    assert "no problem found so far: a deployment is in progress" in output
    primary["createdAt"] = now() - timedelta(minutes=20)
    status, output = examine()
    assert status == 1
    assert "a deployment has been in progress for 20 minutes" in output


def lost_agent(fleet):
    fleet.instance.agent_connected = False


def no_instance(fleet):
    fleet.ecs.container_instances[NAME] = {}


def too_large(fleet):
    next(resource for resource in fleet.instance.registered_resources if resource["name"] == "MEMORY")["integerValue"] = 1024


def exited(fleet):
    task = fleet.stop("Essential container in task exited", code=1)
    fleet.log(task, "starting", '{"at": "now", "step": "problem", "why": "no archive"}')


def wrong_machine(fleet):
    fleet.log(fleet.stop("Essential container in task exited", code=255), "exec /usr/bin/tini: exec format error")


def loading(fleet):
    fleet.service.health_check_grace_period_seconds = 20
    task = fleet.stop("Task failed ELB health checks in (target-group arn:x)", lived_s=40)
    fleet.log(task, '{"step": "starting TorchServe"}')


POLICY = f"arn:aws:autoscaling:{REGION}:123456789012:scalingPolicy:1:resource/ecs/service/{NAME}/{NAME}:policyName/{NAME}-shed"


def at_its_maximum(fleet):
    resource = {"ServiceNamespace": "ecs", "ResourceId": f"service/{NAME}/{NAME}", "ScalableDimension": "ecs:service:DesiredCount"}
    outside("application-autoscaling").register_scalable_target(**resource, MinCapacity=1, MaxCapacity=1)
    alarm(f"TargetTracking-service/{NAME}/{NAME}-AlarmHigh-1", POLICY)
    alarm(f"TargetTracking-service/{NAME}/{NAME}-AlarmLow-1", POLICY)


def alarm(name, *actions):
    compared = {"ComparisonOperator": "GreaterThanThreshold", "Threshold": 1, "EvaluationPeriods": 1}
    metric = {"Namespace": "N", "MetricName": "M", "Period": 60, "Statistic": "Sum"}
    outside("cloudwatch").put_metric_alarm(AlarmName=name, AlarmActions=actions, **compared, **metric)
    outside("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="above the threshold")


def no_role(fleet):
    outside("iam").delete_role(RoleName=ECS_ROLE)


def no_release(fleet):
    outside("s3").delete_object(Bucket=BUCKET, Key="release.json")


def rolled_back(fleet):
    fleet.deploy(fleet.register("new"), 0)
    fleet.stop("CannotPullContainerError: pull image manifest has been retried 1 time(s): i/o timeout")
    fleet.roll_back()
    fleet.finish()


def fewer(fleet):
    fleet.service.desired_count = 3


def stopped(why, **more):
    return lambda fleet: fleet.stop(why, **more)


def event(message):
    return lambda fleet: fleet.add_event(message)


def target(*health):
    return lambda fleet: fleet.targets(*health)


PULL = "CannotPullContainerError: Error response from daemon: "
CASES = {
    "no instance": (
        no_instance,
        "no container instance is registered in cluster seefood",
        "the auto-scaling group has 1, so they cannot reach ECS",
    ),
    "agent away": (
        lost_agent,
        "ECS has lost the agent of 1 of 1 instance: i-",
        "terminate-instances --instance-ids i-",
    ),
    "task too large": (
        too_large,
        "a task needs 3072 MiB of memory, but the largest instance has 1024 in total",
        "a larger InstanceType",
    ),
    "no room": (
        event(PLACE + "The closest matching container-instance x has insufficient memory available."),
        "no instance has enough free CPU, memory or GPUs for a task",
        "MaxInst",
    ),
    "no CPU": (
        event(PLACE + "The closest container-instance x has insufficient CPU units available."),
        "no instance has enough free CPU, memory or GPUs for a task",
        "TaskCpu",
    ),
    "interface": (
        event(PLACE + 'The closest x encountered error "RESOURCE:ENI".'),
        "no instance has a free network interface",
        "awsvpcTrunk",
    ),
    "placed nowhere": (stopped("Unable to place: RESOURCE:ENI"), "no instance has a free network interface", "larger instances"),
    "port": (
        event(PLACE + "The closest x is already using a port required by your task."),
        "the port of the task is already in use",
        "awsvpc",
    ),
    "attribute": (
        event(PLACE + "The closest x is missing an attribute required by your task."),
        "no instance meets the task definition's requirements",
        "Architecture",
    ),
    "agent": (
        event(PLACE + 'The closest x encountered error "AGENT".'),
        "no connection to the agent of an instance",
        "replace the inst",
    ),
    "no image": (
        stopped(PULL + "manifest for x:1 not found: manifest unknown"),
        "the image is not in the registry",
        "make deploy builds",
    ),
    "no right": (stopped(PULL + "pull access denied: no basic auth credentials"), "the registry denies", "the execution role"),
    "no way": (stopped(PULL + "Get https://x/v2/: dial tcp 1.2.3.4:443: i/o timeout"), "cannot reach the registry", "NAT gateway"),
    "no way to log in": (
        stopped("ResourceInitializationError: unable to pull secrets or registry auth: there is a connection issue"),
        "cannot reach the registry",
        "NAT gateway",
    ),
    "disk": (stopped(PULL + "failed to register layer: no space left on device"), "disk is full", "DiskGiB"),
    "machine": (wrong_machine, "the image is built for another processor architecture", "Architecture, InstanceType"),
    "no such platform": (
        stopped(PULL + "no matching manifest for linux/arm64/v8"),
        "another processor architecture",
        "Architecture",
    ),
    "exit": (
        exited,
        "exit code 1. Its last log lines:\n     starting\n     problem: why=no archive",
        "aws logs tail /seefood/seefood",
    ),
    "memory": (
        stopped(
            "Essential container in task exited",
            code=137,
            container_reason="OutOfMemoryError: Container killed due to memory usage",
        ),
        "used more memory than the task has. 1 task stopped",
        "raise TaskMemory",
    ),
    "secret": (
        stopped("ResourceInitializationError: unable to pull secrets or registry auth: AccessDenied"),
        "a secret",
        "execution role",
    ),
    "role": (stopped("ECS was unable to assume the role 'arn:aws:iam::1:role/x'"), "ECS cannot assume a role", "identity stack"),
    "log": (
        stopped(
            "CannotStartContainerError: failed to initialize logging driver: ResourceNotFoundException: The specified log group "
            "does not exist."
        ),
        "log cannot be written",
        "observability stack",
    ),
    "loading": (
        loading,
        "It was stopped 40 s after its start and was never ready; the grace period is 20 s",
        "raise HealthCheckGracePeriod",
    ),
    "unhealthy later": (
        stopped("Task failed ELB health checks in (target-group arn:x)", lived_s=900),
        "beyond the grace period of 180 s",
        "/readyz",
    ),
    "container check": (stopped("Task failed container health checks"), "failed its own health check", "start period"),
    "mismatch": (
        target("unhealthy", "Target.ResponseCodeMismatch", "[503]"),
        "ResponseCodeMismatch: [503] (10.0.0.1)",
        "/readyz says why",
    ),
    "timeout": (
        target("unhealthy", "Target.Timeout", "Request timed out"),
        "1 of 1 targets unhealthy: Target.Timeout",
        "security group",
    ),
    "refused": (target("unhealthy", "Target.FailedHealthChecks"), "Target.FailedHealthChecks (10.0.0.1)", "nothing listens"),
    "maximum": (at_its_maximum, "autoscaling is at its maximum of 1 task", "raise MaxTasks"),
    "rolled back": (
        rolled_back,
        "the last deployment failed: (service seefood) (deployment ecs-svc/3) deployment failed: tasks failed to "
        "start.; seefood:1 is running again",
        "cannot reach the registry",
    ),
    "role of ECS": (no_role, "the account lacks the service-linked role of ECS", "aws iam create-service-linked-role"),
    "no release": (no_release, "there is no release.json in the bucket", "make deploy writes the first one"),
    "too few": (fewer, "1 of 3 tasks running", "see the service's events"),
}


@pytest.mark.parametrize("case", CASES)
def test_cause_is_named_with_what_to_do(fleet, examine, case):
    make_unhealthy, cause, advice = CASES[case]
    make_unhealthy(fleet)
    status, output = examine()
    assert status == 1
    assert cause in output, output
    assert advice in output, output
    assert "no problem found" not in output
    assert "AlarmLow" not in output
    if case not in ("no instance", "rolled back"):
        assert "\n2. " not in output, output


def test_event_in_the_millisecond_of_the_steady_state_is_a_cause(fleet, examine):
    fleet.add_event(PLACE + "The closest x is already using a port required by your task.")
    newest, steady = fleet.service.events[:2]
    newest["createdAt"] = steady["createdAt"]
    status, output = examine()
    assert status == 1
    assert "the port of the task is already in use" in output


ACTIVITIES = {
    "You requested more vCPU capacity than your current vCPU limit of 5": "the account's quota does not allow another instance",
    "We currently do not have sufficient c7i.large capacity": "AWS has no capacity for this instance type",
    "Invalid IAM Instance Profile name": "an activity of the auto-scaling group failed: Invalid IAM",
}


@pytest.mark.parametrize("message", ACTIVITIES)
def test_failed_activity_of_the_auto_scaling_group_is_a_cause_until_one_succeeds(fleet, examine, monkeypatch, message):
    def activity(number, code, message, ago_s):
        start = {"StartTime": now() - timedelta(seconds=ago_s), "AutoScalingGroupName": f"{NAME}-group", "Cause": "x"}
        return {"ActivityId": number, "StatusCode": code, "StatusMessage": message, "Description": "Launching", **start}

    answer = {"Activities": [activity("1", "Failed", message, 60)]}
    monkeypatch.setattr(AutoScalingResponse, "describe_scaling_activities", lambda self: ActionResult(answer))
    status, output = examine()
    assert status == 1
    assert ACTIVITIES[message] in output
    answer["Activities"].append(activity("2", "Successful", "", 5))
    assert examine()[0] == 0


def test_alarm_on_photos_that_were_shed_is_a_problem_only_where_no_task_is_left_to_add(fleet, scripted, examine):
    scripted.stacks[f"{NAME}-service"].resources["ShedAlarm"] = ("AWS::CloudWatch::Alarm", f"{NAME}-shed", "CREATE_COMPLETE")
    alarm(f"{NAME}-shed", POLICY)
    assert examine()[0] == 0
    at_its_maximum(fleet)
    status, output = examine()
    assert status == 1
    assert "autoscaling is at its maximum of 1 task" in output


def test_alarms_of_the_deployment_are_reported_and_those_of_another_are_not(fleet, scripted, examine):
    service = scripted.stacks[f"{NAME}-service"]
    service.resources["ErrorAlarm"] = ("AWS::CloudWatch::Alarm", f"{NAME}-errors", "CREATE_COMPLETE")
    alarm(f"{NAME}-errors")
    alarm(f"{NAME}-staging-errors")
    status, output = examine()
    assert status == 1
    assert "1. alarm seefood-errors is in ALARM: above the threshold" in output
    assert "staging" not in output


def test_stack_that_is_missing_or_was_rolled_back_is_reported(fleet, scripted, examine):
    service = scripted.stacks[f"{NAME}-service"]
    scripted.end(service, "UPDATE_IN_PROGRESS", "User Initiated")
    scripted.event(service, "AWS::ECS::Service", "Service", "UPDATE_FAILED", "Unable to assume the service linked role")
    scripted.end(service, "UPDATE_ROLLBACK_COMPLETE")
    del scripted.stacks[f"{NAME}-network"]
    status, output = examine()
    assert status == 1
    assert "the stack seefood-network does not exist\n   -> make deploy creates it" in output
    assert "seefood-service is UPDATE_ROLLBACK_COMPLETE: Service (AWS::ECS::Service): Unable to assume the service linked" in output
    assert "the account lacks the service-linked role of ECS" in output


def test_service_deleted_outside_cloudformation_is_reported(fleet, examine):
    fleet.service.status = "INACTIVE"
    status, output = examine()
    assert status == 1
    assert "the stacks exist, but the service was deleted outside CloudFormation" in output


def test_missing_deployment_is_reported(scripted, examine):
    scripted.stacks.clear()
    status, output = examine()
    assert status == 1
    assert output.count("does not exist") == len(ORDER)


def test_part_that_may_not_be_read_is_named_and_the_rest_is_checked(fleet, scripted, examine, monkeypatch):
    def refuse(self):
        error = "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>"
        raise Forbidden(f"<ErrorResponse>{error}</ErrorResponse>")

    monkeypatch.setattr(AutoScalingResponse, "describe_scaling_activities", refuse)
    status, output = examine()
    assert status == 1
    assert "not checked: the auto-scaling group: autoscaling:DescribeScalingActivities is denied: not yours" in output
    assert "1 of 1 target healthy" in output
    assert "no problem found" not in output
    scripted.denied.add("DescribeStacks")
    status, output = examine()
    assert status == 1
    assert "cloudformation:DescribeStacks is denied" in output


def test_every_finding_of_a_service_without_instances_is_listed_once():
    state = State("c", "s", service={"desiredCount": 0, "runningCount": 0, "events": [], "deployments": []}, instances=[])
    assert findings(state) == []
    state.service = {**state.service, "desiredCount": 1}
    state.group = {"Instances": [], "DesiredCapacity": 0, "MinSize": 0, "MaxSize": 0}
    found = findings(state)
    assert len(found) == len(set(found))
    assert "the auto-scaling group has no instance (desired 0, allowed 0 to 0)" in explain(found)
    assert explain([]) == "no known cause found"
    assert since(State("c", "s")).year == 1970
    assert known_reason("has started 1 tasks") is None


def test_doctor_makes_the_listed_calls_and_no_others(recorder):
    if not recorder.made:
        pytest.skip("the tests before this one make the calls")
    assert recorder.made == calls_of("doctor")


def test_log_lines_are_shown_without_what_is_for_cloudwatch_and_without_tracebacks():
    figures = {"at": "now", "step": "metrics", "_aws": {"Timestamp": 1}, "Failed": 3}
    assert _plain(json.dumps(figures)) == "metrics: Failed=3"
    error = {"at": "now", "step": "error", "why": "no archive", "traceback": "\nTraceback ..."}
    assert _plain(json.dumps(error)) == "error: why=no archive"
