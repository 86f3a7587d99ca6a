"""make deploy against moto's server and a scripted CloudFormation (tests/ecs/scripted_aws.py says what that shows)."""

import json
import os
import subprocess
import sys

import boto3
import pytest

from scripts.archive.name import archive_name
from scripts.ecs import aws as aws_module
from scripts.ecs import stack
from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.calls import CALLS, calls_of, calls_table
from scripts.ecs.deploy import deploy, image
from scripts.ecs.deploy.watch import TASK_DEFINITION
from scripts.ecs.stacks import ORDER, Deployment
from scripts.release.address import open_store
from tests.conftest import ROOT
from tests.ecs.deploying import BUCKET, DEPLOYMENT, HOST, OUTPUTS, URI, put_image, updating
from tests.ecs.scripted_aws import NAME, REGION, SERVICE_ARN, Fleet, Refused

pytest_plugins = ["tests.ecs.deploy_fixtures"]


def test_first_deploy_creates_all_then_a_second_one_changes_and_pushes_nothing(scripted, server, command, docker, tmp_path):
    fleet = {}

    def create(one):
        scripted.begin(one)
        yield
        fleet["is"] = Fleet()
        scripted.event(one, TASK_DEFINITION, "TaskDefinition", "CREATE_COMPLETE", physical=fleet["is"].definition)
        scripted.event(one, "AWS::ECS::Service", "Service", "CREATE_IN_PROGRESS", physical=SERVICE_ARN)
        yield
        one.outputs = OUTPUTS["service"]
        scripted.end(one, "CREATE_COMPLETE")

    scripted.on_execute["service"] = create
    status, output = command("--image", "abc", "--yes")
    assert status == 0, output
    assert "seefood is deployed. https://seefood.example.com" in output
    assert "1 of 1 task running: seefood:1" in output
    assert "container instances: 1 registered, 1 connected" in output
    created = [given for name, given in scripted.sent if name == "CreateChangeSet"]
    assert [given["StackName"] for given in created] == [f"{NAME}-{kind}" for kind in ORDER]
    assert all(given["Capabilities"] == ["CAPABILITY_NAMED_IAM"] for given in created)
    assert [given.get("RoleARN") for given in created] == [None] * 5 + ["arn:aws:iam::1:role/stack"]
    given = {one["ParameterKey"]: one["ParameterValue"] for one in created[-1]["Parameters"]}
    assert given["Image"] == f"{URI}:abc"
    assert given["DesiredCount"] == "1"
    assert given["BucketName"] == BUCKET
    # the order in which things happen: storage, image, release, identity
    assert output.index("-storage is CREATE_COMPLETE") < output.index("image abc is not in the registry")
    assert output.index("image abc is not") < output.index("first release: seefood-1.0.0.mar") < output.index("-identity is")

    base, build, *calls = docker()
    assert base.endswith("-- debian:bookworm-slim")
    assert build.startswith("build ")
    assert "--tag seefood:abc" in build
    assert "--platform=linux/amd64" in build
    assert "--build-arg TORCH=cpu" in build
    assert calls == [
        "image inspect --format {{.Architecture}} seefood:abc",
        f"login --username AWS --password-stdin {HOST}",
        f"tag seefood:abc {URI}:abc",
        f"push {URI}:abc",
    ]
    password = (tmp_path / "docker.password").read_text()
    assert len(password) > 10
    assert password not in output + "".join(calls)
    document, _ = open_store(f"s3://{BUCKET}/release.json").read()
    assert '"default": "1.0.0"' in document

    put_image(server, "abc")
    (tmp_path / "models" / archive_name("seefood", "1.1.0")).write_bytes(b"a newer archive")
    status, output = command("--image", "abc", "--yes")
    assert status == 0, output
    assert output.count("nothing to change") == len(ORDER)
    assert "not built or pushed again" in output
    assert len(docker()) == 6
    assert scripted.calls["ExecuteChangeSet"] == len(ORDER)
    assert open_store(f"s3://{BUCKET}/release.json").read()[0] == document
    assert not scripted.change_sets


def test_update_keeps_the_count_shows_what_it_changes_and_is_watched_to_its_end(scripted, deployed, command, docker, monkeypatch):
    deployed.service.desired_count = 3
    deployed.finish()

    def succeed(one):
        deployed.finish()
        yield
        scripted.end(one, "UPDATE_COMPLETE")

    updating(scripted, deployed, succeed)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    status, output = command("--image", "new")
    assert status == 0, output
    assert asked == ["Apply these changes to seefood-service? [y/n] "]
    assert "seefood-service would be updated:\n  modified  " in output
    assert "ECS: (service seefood) has started 1 tasks: (task 1)." in output
    assert output.count("(task 1)") == 1
    assert "3 of 3 tasks running: seefood:2" in output
    assert docker() == []
    given = next(given for name, given in reversed(scripted.sent) if name == "CreateChangeSet")
    assert {"ParameterKey": "DesiredCount", "ParameterValue": "3"} in given["Parameters"]


@pytest.mark.parametrize(("running", "asked"), [(2, "2"), (9, "4"), (0, "1")])
def test_count_stays_within_the_limits_of_autoscaling(running, asked):
    values = {"MinTasks": "1", "MaxTasks": "4", "DesiredCount": "1"}
    assert deploy.keep_count(values, running)["DesiredCount"] == asked
    assert deploy.keep_count(values, None) == values


def test_rollback_that_cloudformation_reports_as_success_is_a_failure(scripted, deployed, command):
    def roll_back(one):
        deployed.roll_back()
        deployed.finish()
        scripted.end(one, "UPDATE_COMPLETE")
        yield

    updating(scripted, deployed, roll_back)
    status, output = command("--image", "new", "--yes")
    assert status == 1
    assert "seefood-service is UPDATE_COMPLETE" in output
    assert "the deployment was rolled back: seefood:1 is running instead of seefood:2" in output
    assert "deployment failed: tasks failed to start" in output


def test_rollback_that_cloudformation_did_not_notice_is_reported_where_there_is_nothing_to_change(scripted, deployed, command):
    service = scripted.stacks[f"{NAME}-service"]
    scripted.event(service, TASK_DEFINITION, "TaskDefinition", "UPDATE_COMPLETE", physical=deployed.register("old"))
    status, output = command("--image", "old", "--yes")
    assert status == 1
    assert "seefood-service: nothing to change" in output
    assert "seefood:1 is running instead of seefood:2" in output
    assert "aws ecs update-service --cluster seefood --service seefood --task-definition seefood:2" in output


def test_circuit_breaker_is_explained_by_the_logs_of_the_stopped_tasks(scripted, deployed, command):
    def fail(one):
        for _ in range(3):
            task = deployed.stop("Essential container in task exited", code=255)
            deployed.log(task, "exec /usr/bin/tini: exec format error")
            yield
        deployed.roll_back()
        deployed.finish()
        why = "Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'."
        scripted.event(one, "AWS::ECS::Service", "Service", "UPDATE_FAILED", why)
        scripted.event(one, TASK_DEFINITION, "TaskDefinition", "UPDATE_COMPLETE", physical=deployed.definition)
        yield
        scripted.end(one, "UPDATE_ROLLBACK_COMPLETE")

    updating(scripted, deployed, fail)
    status, output = command("--image", "new", "--yes")
    assert status == 1
    assert "stopped: 3 tasks: Essential container in task exited; container seefood: exit code 255" in output
    error = output[output.index("error:") :]
    assert "seefood-service is UPDATE_ROLLBACK_COMPLETE" in error
    assert "Service (AWS::ECS::Service): Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'." in error
    assert "the image is built for another processor architecture" in error
    assert "-> build it for their architecture" in error
    assert "make doctor STACK=seefood" in error


def test_service_whose_creation_failed_is_explained_though_it_is_gone(scripted, deployed, command):
    del scripted.stacks[f"{NAME}-service"]
    deployed.service.deployments, deployed.service.events = [], []

    def create(one):
        scripted.begin(one)
        scripted.event(one, "AWS::ECS::Service", "Service", "CREATE_IN_PROGRESS", "Resource creation Initiated", SERVICE_ARN)
        deployed.deploy(deployed.definition, 0)
        deployed.targets("unhealthy", "Target.Timeout", "Request timed out")
        why = f"CannotPullContainerError: Error response from daemon: manifest for {URI}:new not found"
        deployed.stop(why)
        yield
        yield
        scripted.event(one, "AWS::ECS::Service", "Service", "CREATE_FAILED", "Resource handler returned: timed out")
        deployed.service.status = "INACTIVE"
        yield
        scripted.end(one, "ROLLBACK_COMPLETE")

    scripted.on_execute["service"] = create
    status, output = command("--image", "new", "--yes")
    assert status == 1
    error = output[output.index("error:") :]
    assert "the image is not in the registry" in error
    assert "Target.Timeout" in error
    assert "the security group of the tasks must allow the load balancer" in error


def test_deployment_that_never_ends_fails_at_the_limit_with_what_aws_continues(scripted, deployed, command, clock):
    def hang(one):
        deployed.add_event("was unable to place a task because no container instance met all of its requirements. The closest "
                     'matching container-instance 3f encountered error "RESOURCE:ENI".')  # fmt: skip
        yield
        clock.append("over")
        while True:
            yield

    updating(scripted, deployed, hang)
    status, output = command("--image", "new", "--yes")
    assert status == 1
    assert "not finished within 20 s: seefood-service is UPDATE_IN_PROGRESS, and AWS continues with it" in output
    assert "no instance has a free network interface" in output


def test_settling_beyond_the_limit_is_a_failure_too(scripted, deployed, command, clock):
    def end_early(one):
        clock.append("over")
        scripted.end(one, "UPDATE_COMPLETE")
        yield

    updating(scripted, deployed, end_early)
    status, output = command("--image", "new", "--yes")
    assert status == 1
    assert "not finished within 20 s: 0 of 1 task running; AWS continues with the deployment" in output


def test_interrupted_deploy_says_what_aws_continues_and_the_next_one_waits_for_it(scripted, deployed, command):
    def interrupt(one):
        if not one.outputs.get("interrupted"):
            one.outputs = {**one.outputs, "interrupted": "1"}
            raise KeyboardInterrupt
        yield

    def resume(one):
        yield
        deployed.finish()
        scripted.end(one, "UPDATE_COMPLETE")

    updating(scripted, deployed, interrupt)
    status, output = command("--image", "new", "--yes")
    assert status == 130
    assert "seefood-service is UPDATE_IN_PROGRESS, and AWS continues with it" in output
    assert output.endswith("\ninterrupted\n")
    service = scripted.stacks[f"{NAME}-service"]
    service.script = resume(service)
    status, output = command("--image", "new", "--yes")
    assert status == 0, output
    assert "seefood-service is UPDATE_IN_PROGRESS: an earlier command or somebody else is changing it" in output


def test_image_of_another_architecture_and_failed_push_stop_the_deploy(scripted, command, docker, monkeypatch):
    monkeypatch.setenv("MACHINE", "arm64")
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert "the image is built for arm64, but Architecture is X86_64" in output
    assert not any(call.startswith("push") for call in docker())
    monkeypatch.setenv("MACHINE", "amd64")
    monkeypatch.setenv("PUSH_STATUS", "3")
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert f"`docker push {URI}:abc` failed with status 3" in output
    assert f"{NAME}-identity" not in scripted.stacks


def test_tag_is_the_commit_and_uncommitted_files_are_refused(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(image, "ROOT", tmp_path)
    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    assert image.commit_tag() == git("rev-parse", "HEAD")[:12]
    (tmp_path / "file").write_text("2")
    with pytest.raises(image.ImageError, match=r"M file\nCommit them, or .* IMAGE=TAG \(--image TAG\)"):
        image.commit_tag()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(image.ImageError, match=r"cannot run git .* IMAGE=TAG \(--image TAG\)"):
        image.commit_tag()


def test_image_of_the_deployments_file_is_used_as_it_is(scripted, deployed, command, docker, monkeypatch):
    pinned = Deployment(NAME, REGION, {**DEPLOYMENT.parameters, "Image": "elsewhere/seefood:7"})
    monkeypatch.setattr(Deployment, "load", lambda name: pinned)
    updating(scripted, deployed, lambda one: iter([deployed.finish(), scripted.end(one, "UPDATE_COMPLETE")]))
    status, output = command("--yes")
    assert status == 0, output
    given = next(given for name, given in reversed(scripted.sent) if name == "CreateChangeSet")
    assert {"ParameterKey": "Image", "ParameterValue": "elsewhere/seefood:7"} in given["Parameters"]
    assert docker() == []


def test_missing_archive_for_the_first_release_is_reported(scripted, command, tmp_path):
    (tmp_path / "models" / archive_name("seefood", "1.0.0")).unlink()
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert f"there is no s3://{BUCKET}/release.json, and without it no task can serve" in output
    assert "make archive VERSION=1.0.0 builds one" in output


@pytest.mark.slow
def test_first_release_has_the_model_of_the_archive_and_of_two_models_the_one_that_is_named(scripted, command, tmp_path):
    models = tmp_path / "models"
    (models / archive_name("flowers", "2.0.0")).write_bytes(b"another model")
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert "holds the models flowers, seefood: choose one" in output
    assert "--model flowers" in output
    status, output = command("--image", "abc", "--yes", "--model", "flowers")
    assert "first release: flowers-2.0.0.mar" in output
    document = json.loads(open_store(f"s3://{BUCKET}/release.json").read()[0])
    assert (document["model"], document["default"]) == ("flowers", "2.0.0")
    status, output = command("--image", "abc", "--yes", "--model", "seefood")
    assert status == 1
    assert f"s3://{BUCKET}/release.json releases the model 'flowers', but --model is 'seefood'" in output


def test_only_service_needs_the_other_stacks_and_changes_none_of_them(scripted, deployed, command):
    updating(scripted, deployed, lambda one: iter([deployed.finish(), scripted.end(one, "UPDATE_COMPLETE")]))
    status, output = command("--image", "new", "--yes", "--only", "service")
    assert status == 0, output
    assert [given["StackName"] for name, given in scripted.sent if name == "CreateChangeSet"] == [f"{NAME}-service"]
    del scripted.stacks[f"{NAME}-cluster"]
    status, output = command("--image", "new", "--yes", "--only", "service")
    assert status == 1
    assert "the stack seefood-cluster is missing: make deploy STACK=seefood without ONLY creates it" in output


def test_missing_parameter_is_named_before_anything_is_changed(scripted, command, monkeypatch):
    monkeypatch.setattr(Deployment, "load", lambda name: Deployment(NAME, REGION, {}))
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert "CertificateArn (" in output
    assert not scripted.calls


def test_command_without_credentials_says_how_to_set_them(tmp_path):
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | nowhere
    command = [sys.executable, "-m", "scripts.ecs.deploy.deploy", NAME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there are no AWS credentials (Unable to locate credentials): set AWS_PROFILE")
    assert done.stdout == ""


def test_denied_call_is_named(scripted, command):
    scripted.denied.add("CreateChangeSet")
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert "cloudformation:CreateChangeSet is denied: User: arn:aws:iam::123456789012:user/somebody is not authorized" in output
    assert "aws sts get-caller-identity" in output


def test_credentials_that_are_missing_expired_or_unknown_and_a_wrong_region_are_told_apart(scripted, monkeypatch, tmp_path, server):
    def whoami(code):
        def refuse(StackName):  # noqa: N803
            raise Refused(code, "no")

        scripted.DescribeStacks = refuse
        with pytest.raises(AwsError) as caught:
            stack.find(server, "x")
        assert caught.value.bad_credentials
        return str(caught.value)

    assert "the AWS credentials have expired" in whoami("ExpiredToken")
    assert "AWS does not accept these credentials" in whoami("InvalidClientTokenId")
    with pytest.raises(ValueError, match=r"region is 'eu-centrl-1', expected a region with ECS, such as eu-central-1"):
        Aws("eu-centrl-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(AwsError, match="there are no AWS credentials"):
        Aws(REGION).call("sts", "get_caller_identity")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AwsError, match="another AWS_PROFILE"):
        Aws(REGION).call("sts", "get_caller_identity")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(aws_module, "ATTEMPTS", 1)
    with pytest.raises(AwsError, match="sts:GetCallerIdentity got no response") as caught:
        Aws(REGION).call("sts", "get_caller_identity")
    assert caught.value.transient


def test_readme_lists_every_call():
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "scripts/ecs/README.md") if path.exists()]
    (page,) = [page for page in pages if "<!-- calls -->" in page]
    listed = page.partition("<!-- calls -->")[2].partition("<!-- /calls -->")[0]
    assert listed.strip() == calls_table(), "python -m scripts.ecs.calls prints what belongs there"
    command = [sys.executable, "-m", "scripts.ecs.calls"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == calls_table()


def test_deploy_makes_the_listed_calls_and_no_others(recorder):
    if not recorder.made:
        pytest.skip("the tests before this one make the calls")
    seldom = {"cloudformation:DescribeEvents", "cloudformation:DeleteStack"}  # see tests/ecs/test_changes.py
    assert recorder.made - seldom == calls_of("deploy") - seldom, "correct scripts/ecs/calls.py"


def test_every_listed_call_exists(server):
    listed = set.union(*(calls_of(name) for name in CALLS))
    for prefix in {call.partition(":")[0] for call in listed}:
        service = next((name for name, other in aws_module.PREFIX.items() if other == prefix), prefix)
        operations = server.client(service).meta.service_model.operation_names
        assert {call.partition(":")[2] for call in listed if call.startswith(f"{prefix}:")} <= set(operations)
