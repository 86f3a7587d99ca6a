"""make doctor against a service in moto's ECS that is edited to be ill in each way (scripted_aws.py says what that shows)."""

from datetime import timedelta

import pytest
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult
from werkzeug.exceptions import Forbidden

from scripts.ecs.aws import calls_of
from scripts.ecs.doctor import doctor
from scripts.ecs.doctor.causes import explain, findings
from scripts.ecs.doctor.history import since
from scripts.ecs.doctor.reasons import reason_of
from scripts.ecs.doctor.service_state import LINKED_ROLE, State
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
    """A service that is well."""
    outside("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    outside("s3").put_object(Bucket=BUCKET, Key="release.json", Body=b"{}")
    return Fleet()


@pytest.fixture
def examine(capsys, recorder):
    def run():
        recorder.on = True
        status = doctor.main([NAME])
        recorder.on = False
        out, error = capsys.readouterr()
        return status, out + error

    return run


def test_nothing_is_wrong(fleet, examine):
    fleet.stop("Scaling activity initiated by (deployment ecs-svc/1)", code=143, stop_code="ServiceSchedulerInitiated")
    fleet.stop("Task stopped by a person", stop_code="UserInitiated")
    fleet.say(PLACE + "Reason: No Container Instances were found in your cluster.", ago_s=60)
    status, output = examine()
    assert output.splitlines() == [
        "seefood:1: 1 of 1 tasks run, PRIMARY, COMPLETED",
        "1 of 1 targets healthy, 1 container instances registered",
        "nothing is wrong",
    ]
    assert status == 0


def test_deployment_that_goes_on_is_no_fault_but_one_that_does_for_long_is(fleet, examine):
    primary = fleet.deploy(fleet.register("new"), 0)
    status, output = examine()
    assert status == 0
    assert "nothing is wrong so far: a deployment goes on" in output
    primary["createdAt"] = now() - timedelta(minutes=20)
    status, output = examine()
    assert status == 1
    assert "a deployment has gone on for 20 minutes" in output


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


def at_its_maximum(fleet):
    resource = {"ServiceNamespace": "ecs", "ResourceId": f"service/{NAME}/{NAME}", "ScalableDimension": "ecs:service:DesiredCount"}
    outside("application-autoscaling").register_scalable_target(**resource, MinCapacity=1, MaxCapacity=1)
    alarm(f"TargetTracking-service/{NAME}/{NAME}-AlarmHigh-1")
    alarm(f"TargetTracking-service/{NAME}/{NAME}-AlarmLow-1")


def alarm(name):
    compared = {"ComparisonOperator": "GreaterThanThreshold", "Threshold": 1, "EvaluationPeriods": 1}
    metric = {"Namespace": "N", "MetricName": "M", "Period": 60, "Statistic": "Sum"}
    outside("cloudwatch").put_metric_alarm(AlarmName=name, **compared, **metric)
    outside("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="above the threshold")


def no_role(fleet):
    outside("iam").delete_role(RoleName=LINKED_ROLE)


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


def said(message):
    return lambda fleet: fleet.say(message)


def target(*health):
    return lambda fleet: fleet.targets(*health)


PULL = "CannotPullContainerError: Error response from daemon: "
CASES = {
    "no instance": (
        no_instance,
        "no container instance is registered in cluster seefood",
        "the auto-scaling group has 1, so they do not",
    ),
    "agent away": (
        lost_agent,
        "ECS has no connection to the agent of 1 of 1 instances: i-",
        "terminate-instances --instance-ids i-",
    ),
    "task too large": (too_large, "a task wants 3072 of MEMORY, and the largest instance has 1024 in all", "a larger InstanceType"),
    "no room": (
        said(PLACE + "The closest matching container-instance x has insufficient memory available."),
        "room that is left",
        "MaxInst",
    ),
    "no CPU": (
        said(PLACE + "The closest container-instance x has insufficient CPU units available."),
        "room that is left",
        "TaskCpu",
    ),
    "interface": (
        said(PLACE + 'The closest x encountered error "RESOURCE:ENI".'),
        "no instance has a free network interface",
        "awsvpcTrunk",
    ),
    "placed nowhere": (stopped("Unable to place: RESOURCE:ENI"), "no instance has a free network interface", "larger instances"),
    "port": (
        said(PLACE + "The closest x is already using a port required by your task."),
        "port that a task wants is taken",
        "awsvpc",
    ),
    "attribute": (
        said(PLACE + "The closest x is missing an attribute required by your task."),
        "no instance has what",
        "Architecture",
    ),
    "agent": (
        said(PLACE + 'The closest x encountered error "AGENT".'),
        "no connection to the agent of an instance",
        "replace the inst",
    ),
    "no image": (
        stopped(PULL + "manifest for x:1 not found: manifest unknown"),
        "the image is not in the registry",
        "make deploy builds",
    ),
    "no right": (stopped(PULL + "pull access denied: no basic auth credentials"), "the registry refuses", "the execution role"),
    "no way": (stopped(PULL + "Get https://x/v2/: dial tcp 1.2.3.4:443: i/o timeout"), "do not reach the registry", "NAT gateway"),
    "no way to log in": (
        stopped("ResourceInitializationError: unable to pull secrets or registry auth: there is a connection issue"),
        "do not reach the registry",
        "NAT gateway",
    ),
    "disk": (stopped(PULL + "failed to register layer: no space left on device"), "disk is full", "larger disk"),
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
        stopped("Essential container in task exited", code=137, said="OutOfMemoryError: Container killed due to memory usage"),
        "took more memory than the task has. 1 task stopped",
        "raise TaskMemory",
    ),
    "secret": (
        stopped("ResourceInitializationError: unable to pull secrets or registry auth: AccessDenied"),
        "a secret",
        "execution role",
    ),
    "role": (stopped("ECS was unable to assume the role 'arn:aws:iam::1:role/x'"), "ECS may not take on a role", "identity"),
    "log": (
        stopped(
            "CannotStartContainerError: failed to initialize logging driver: ResourceNotFoundException: The specified log group "
            "does not exist."
        ),
        "log cannot be written",
        "the stack of observability",
    ),
    "loading": (
        loading,
        "It was ended 40 s after its start, and never ready; the grace period is 20 s",
        "raise HealthCheckGracePeriod",
    ),
    "ill later": (
        stopped("Task failed ELB health checks in (target-group arn:x)", lived_s=900),
        "beyond the grace period of 180 s",
        "/readyz",
    ),
    "container check": (stopped("Task failed container health checks"), "did not answer its own health check", "start period"),
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
    "maximum": (at_its_maximum, "autoscaling is at its maximum of 1 tasks", "raise MaxTasks"),
    "rolled back": (
        rolled_back,
        "the last deployment failed: (service seefood) (deployment ecs-svc/3) deployment failed: tasks failed to "
        "start.; seefood:1 is served again",
        "do not reach the registry",
    ),
    "role of ECS": (no_role, "the account has no service-linked role of ECS", "aws iam create-service-linked-role"),
    "no release": (no_release, "there is no release.json in the bucket", "make deploy writes the first one"),
    "too few": (fewer, "1 of 3 tasks run", "look at the service's events"),
}


@pytest.mark.parametrize("case", CASES)
def test_cause_is_named_with_what_to_do(fleet, examine, case):
    make_ill, cause, advice = CASES[case]
    make_ill(fleet)
    status, output = examine()
    assert status == 1
    assert cause in output, output
    assert advice in output, output
    assert "nothing is wrong" not in output
    assert "AlarmLow" not in output
    if case not in ("no instance", "rolled back"):
        assert "\n2. " not in output, output


ACTIVITIES = {
    "You have requested more vCPU capacity than your current vCPU limit of 5": "the account's quota refuses another instance",
    "We currently do not have sufficient c7i.large capacity": "AWS has no instance of that type to give",
    "Invalid IAM Instance Profile name": "the auto-scaling group could not do something: Invalid IAM",
}


@pytest.mark.parametrize("message", ACTIVITIES)
def test_failed_activity_of_the_auto_scaling_group_is_a_cause_until_one_succeeds(fleet, examine, monkeypatch, message):
    def activity(number, code, said, ago_s):
        start = {"StartTime": now() - timedelta(seconds=ago_s), "AutoScalingGroupName": f"{NAME}-group", "Cause": "x"}
        return {"ActivityId": number, "StatusCode": code, "StatusMessage": said, "Description": "Launching", **start}

    answer = {"Activities": [activity("1", "Failed", message, 60)]}
    monkeypatch.setattr(AutoScalingResponse, "describe_scaling_activities", lambda self: ActionResult(answer))
    status, output = examine()
    assert status == 1
    assert ACTIVITIES[message] in output
    answer["Activities"].append(activity("2", "Successful", "", 5))
    assert examine()[0] == 0


def test_alarms_of_the_deployment_are_told_and_those_of_another_are_not(fleet, scripted, examine):
    service = scripted.stacks[f"{NAME}-service"]
    service.resources["ErrorAlarm"] = ("AWS::CloudWatch::Alarm", f"{NAME}-errors", "CREATE_COMPLETE")
    alarm(f"{NAME}-errors")
    alarm(f"{NAME}-staging-errors")
    status, output = examine()
    assert status == 1
    assert "1. alarm seefood-errors is in ALARM: above the threshold" in output
    assert "staging" not in output


def test_stack_that_is_missing_or_was_rolled_back_is_told(fleet, scripted, examine):
    service = scripted.stacks[f"{NAME}-service"]
    scripted.end(service, "UPDATE_IN_PROGRESS", "User Initiated")
    scripted.event(service, "AWS::ECS::Service", "Service", "UPDATE_FAILED", "Unable to assume the service linked role")
    scripted.end(service, "UPDATE_ROLLBACK_COMPLETE")
    del scripted.stacks[f"{NAME}-network"]
    status, output = examine()
    assert status == 1
    assert "the stack seefood-network is not there\n   -> make deploy creates it" in output
    assert "seefood-service is UPDATE_ROLLBACK_COMPLETE: Service (AWS::ECS::Service): Unable to assume the service linked" in output
    assert "the account has no service-linked role of ECS" in output


def test_service_that_somebody_deleted_is_told(fleet, examine):
    fleet.service.status = "INACTIVE"
    status, output = examine()
    assert status == 1
    assert "the stacks are there, and the service is not: somebody has deleted it" in output


def test_nothing_deployed_is_told(scripted, examine):
    scripted.stacks.clear()
    status, output = examine()
    assert status == 1
    assert output.count("is not there") == len(ORDER)


def test_what_may_not_be_looked_at_is_named_and_the_rest_is_looked_at(fleet, scripted, examine, monkeypatch):
    def refuse(self):
        said = "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>"
        raise Forbidden(f"<ErrorResponse>{said}</ErrorResponse>")

    monkeypatch.setattr(AutoScalingResponse, "describe_scaling_activities", refuse)
    status, output = examine()
    assert status == 1
    assert "not looked at: the auto-scaling group: autoscaling:DescribeScalingActivities is denied: not yours" in output
    assert "1 of 1 targets healthy" in output
    assert "nothing is wrong" not in output
    scripted.denied.add("DescribeStacks")
    status, output = examine()
    assert status == 1
    assert "cloudformation:DescribeStacks is denied" in output


def test_every_finding_of_a_hopeless_service_is_listed_once():
    state = State("c", "s", service={"desiredCount": 0, "runningCount": 0, "events": [], "deployments": []}, instances=[])
    assert findings(state) == []
    state.service = {**state.service, "desiredCount": 1}
    state.group = {"Instances": [], "DesiredCapacity": 0, "MinSize": 0, "MaxSize": 0}
    found = findings(state)
    assert len(found) == len(set(found))
    assert "the auto-scaling group has none (0 wanted, 0 to 0 allowed)" in explain(found)
    assert explain([]) == "no known cause is to be seen"
    assert since(State("c", "s")).year == 1970
    assert reason_of("has started 1 tasks") is None


def test_calls_that_the_doctor_made_here_are_those_of_the_list(recorder):
    if not recorder.made:
        pytest.skip("the tests before this one make the calls")
    assert recorder.made == calls_of("doctor")
