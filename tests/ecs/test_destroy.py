"""make destroy against moto's server and a scripted CloudFormation (tests/ecs/scripted_aws.py says what that shows)."""

import pytest

from scripts.ecs.calls import calls_of
from scripts.ecs.deploy import destroy
from scripts.ecs.stacks import ORDER
from tests.ecs.deploying import BUCKET
from tests.ecs.scripted_aws import NAME, REGION

pytest_plugins = ["tests.ecs.deploy_fixtures"]


def test_destroy_asks_for_the_name_deletes_backwards_and_lists_what_stays(scripted, deployed, command, monkeypatch, server):
    group = scripted.stacks[f"{NAME}-cluster"]
    group.resources["AutoScalingGroup"] = ("AWS::AutoScaling::AutoScalingGroup", f"{NAME}-group", "CREATE_COMPLETE")
    storage = scripted.stacks[f"{NAME}-storage"]
    storage.resources["ModelBucket"] = ("AWS::S3::Bucket", BUCKET, "CREATE_COMPLETE")
    storage.resources["Repository"] = ("AWS::ECR::Repository", NAME, "CREATE_COMPLETE")
    server.call("s3", "put_object", Bucket=BUCKET, Key="release.json", Body=b"written again")

    monkeypatch.setattr("builtins.input", lambda question: "yes")
    status, output = command(main=destroy.main)
    assert status == 1
    assert "the answer is 'yes', not 'seefood': stopped, nothing more was changed" in output
    assert not scripted.deleted

    monkeypatch.setattr("builtins.input", lambda question: "seefood")
    status, output = command(main=destroy.main)
    assert status == 0, output
    gone = [given["StackName"].split("/")[1] for name, given in scripted.sent if name == "DeleteStack"]
    assert gone == [f"{NAME}-{kind}" for kind in reversed(ORDER)]
    for kept in (f"bucket {BUCKET} with 2 objects, old versions included", f"registry {NAME} with 2 images"):
        assert output.count(kept) == 2
    assert f"aws ecr delete-repository --region {REGION} --force --repository-name {NAME}" in output
    assert f"aws s3 rb --region {REGION} s3://{BUCKET}" in output
    (left,) = server.call("autoscaling", "describe_auto_scaling_groups")["AutoScalingGroups"]
    assert not left["NewInstancesProtectedFromScaleIn"]
    assert not any(instance["ProtectedFromScaleIn"] for instance in left["Instances"])
    assert f"auto-scaling group {NAME}-group: removed the scale-in protection of 1 instance" in output
    assert server.call("s3", "head_object", Bucket=BUCKET, Key="release.json")

    status, output = command(main=destroy.main)
    assert status == 0
    assert "nothing to delete" in output


def test_destroy_that_fails_names_the_resource_and_stops(scripted, deployed, command):
    def fail(one):
        scripted.end(one, "DELETE_IN_PROGRESS")
        yield
        why = "resource sg-1 has a dependent object"
        scripted.event(one, "AWS::EC2::SecurityGroup", "TaskSecurityGroup", "DELETE_FAILED", why)
        scripted.end(one, "DELETE_FAILED", "The following resource(s) failed to delete: [TaskSecurityGroup].")

    scripted.on_delete["network"] = fail
    scripted.stacks[f"{NAME}-storage"].resources, scripted.stacks[f"{NAME}-cluster"].resources = {}, {}
    status, output = command("--yes", main=destroy.main)
    assert status == 1
    assert "seefood-network is DELETE_FAILED: some of its resources could not be deleted" in output
    assert "TaskSecurityGroup (AWS::EC2::SecurityGroup): resource sg-1 has a dependent object" in output
    assert "--retain-resources" in output
    assert list(scripted.stacks) == [f"{NAME}-network"]


def test_destroy_makes_the_listed_calls_and_no_others(recorder):
    if not recorder.made:
        pytest.skip("the tests before this one make the calls")
    assert recorder.made == calls_of("destroy")
